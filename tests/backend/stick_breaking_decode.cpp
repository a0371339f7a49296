// SPDX-License-Identifier: MIT
// Attention of few queries over cached keys: one token at a time is the whole sequence at once; segments of
// keys combine by (o, r)_old then (o, r)_new = (o_new + r_new o_old, r_new r_old).

#include "stick_breaking.hpp"

#include <boost/test/unit_test.hpp>

#include <tuple>

namespace mf = moduleformer;
using mf::test::relative_error;

namespace {

using Scalars = std::tuple<float, double>;

template <class S>
constexpr double tolerance = sizeof(S) == 4 ? 3e-6 : 1e-13;

}  // namespace

BOOST_AUTO_TEST_SUITE(backend_stick_breaking_decode)

BOOST_AUTO_TEST_CASE_TEMPLATE(token_by_token_is_the_whole_sequence, S, Scalars) {
  for (mf::Index const size : {5, 16, 48}) {
    auto const whole = mf::test::single(150, 150, 3, size, 2);
    auto const in = mf::test::converted<S>(whole, mf::test::random_inputs(whole, 31, -2));
    for (auto const variant : mf::test::variants) {
      mf::Cpu<S> backend{2};
      mf::test::AttentionOutputs<S> once(whole), steps(whole);
      mf::test::forward(backend, whole, variant, in, once);
      for (mf::Index t = 0; t < 150; ++t) {
        auto step = whole;
        step.sequences = {{t, 1, 0, t + 1}};
        mf::test::AttentionOutputs<S> out(whole);
        mf::test::forward(backend, step, variant, in, out);
        std::copy_n(out.y.view().slice(2 * t).data(), 2 * step.width(), steps.y.view().slice(2 * t).data());
        std::copy_n(out.log_stick.view().slice(2 * t).data(), 6, steps.log_stick.view().slice(2 * t).data());
      }
      BOOST_TEST(relative_error(steps.y.values(), once.y.values()) < tolerance<S>);
      BOOST_TEST(relative_error(steps.log_stick.values(), once.log_stick.values()) < tolerance<S>);
    }
  }
}

// More than two segments, with and without early stop, and the few-row form of backward.
BOOST_AUTO_TEST_CASE_TEMPLATE(long_caches, S, Scalars) {
  for (double const mean : {-8.0, -4.0})
    for (mf::Index const queries : {1, 3}) {
      auto c = mf::test::single(queries, 5000, 2, 16, 2);
      auto const in = mf::test::random_inputs(c, 32, mean, 0.5);
      auto const expected = mf::test::reference(c, {true, true}, in);
      auto const own = mf::test::converted<S>(c, in);
      for (double const stop : {0.0, 0x1p-40, 0x1p-8}) {
        c.extents.stop_below = stop;
        mf::test::AttentionOutputs<S> one(c), three(c);
        mf::Cpu<S> single{1}, several{3};
        mf::test::forward(single, c, {true, true}, own, one);
        mf::test::forward(several, c, {true, true}, own, three);
        mf::test::backward(several, c, {true, true}, own, three);
        BOOST_TEST((one.y.values() == three.y.values() && one.stop.values() == three.stop.values()));
        double const allowed = 10 * stop + 3 * tolerance<S>;
        BOOST_TEST(relative_error(one.y.values(), expected.y.values()) < allowed);
        BOOST_TEST(relative_error(three.dk.values(), expected.dk.values()) < 5 * allowed);
        BOOST_TEST(relative_error(three.dv.values(), expected.dv.values()) < 5 * allowed);
        BOOST_TEST((one.stop(0, 0) > 0) == (mean > -5 && stop > 0));
      }
    }
}

BOOST_AUTO_TEST_CASE(segments_combine) {
  for (mf::Index const keys : {2, 65, 700})
    for (mf::Index const split : {mf::Index{1}, keys / 3 + 1, keys - 1}) {
      auto const c = mf::test::single(1, keys, 1, 16, 1);
      auto const in = mf::test::random_inputs(c, 33 + static_cast<std::uint64_t>(split), -3);
      mf::Cpu<double> backend{1};
      auto const attend = [&](mf::Index begin, mf::Index end) {
        auto part = c;
        part.sequences = {{0, 1, begin, end - begin}};
        mf::test::AttentionOutputs<double> out(c);
        mf::test::forward(backend, part, {true, false}, in, out);
        return out;
      };
      auto const older = attend(0, split), newer = attend(split, keys), all = attend(0, keys);
      double const left = std::exp(newer.log_stick(0, 0));
      BOOST_TEST(std::abs(all.log_stick(0, 0) - newer.log_stick(0, 0) - older.log_stick(0, 0)) < 1e-12);
      for (mf::Index x = 0; x < 16; ++x)
        BOOST_TEST(std::abs(all.y(0, x) - newer.y(0, x) - left * older.y(0, x)) < 1e-13);
    }
}

// Many prompts of different length, one new token each: every sequence as if it were alone.
BOOST_AUTO_TEST_CASE(batches_of_caches) {
  mf::test::AttentionCase batch{
      {2, 8, 2, 0}, {{0, 1, 0, 1}, {1, 1, 1, 64}, {2, 1, 65, 65}, {3, 1, 130, 3000}}, 4, 3130};
  auto const in = mf::test::random_inputs(batch, 34);
  mf::Cpu<double> backend{2};
  mf::test::AttentionOutputs<double> together(batch);
  mf::test::forward(backend, batch, {false, true}, in, together);
  auto const expected = mf::test::reference(batch, {false, true}, in);
  BOOST_TEST(relative_error(together.y.values(), expected.y.values()) < 1e-13);
  auto const sequences = batch.sequences;
  for (auto const& sequence : sequences) {
    batch.sequences = {sequence};
    mf::test::AttentionOutputs<double> alone(batch);
    mf::test::forward(backend, batch, {false, true}, in, alone);
    for (mf::Index row = 2 * sequence.query_begin; row < 2 * sequence.query_begin + 2; ++row)
      for (mf::Index x = 0; x < 16; ++x) BOOST_TEST(alone.y(row, x) == together.y(row, x));
  }
}

BOOST_AUTO_TEST_SUITE_END()
