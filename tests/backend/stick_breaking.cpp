// SPDX-License-Identifier: MIT
// Stick-breaking attention forward against the definition, over sizes, variants, packing and early stop.

#include "stick_breaking.hpp"

#include <boost/test/unit_test.hpp>

#include <limits>
#include <tuple>

namespace mf = moduleformer;
using mf::test::relative_error;

namespace {

using Scalars = std::tuple<float, double>;

template <class S>
constexpr double tolerance = sizeof(S) == 4 ? 2e-6 : 1e-13;

}  // namespace

BOOST_AUTO_TEST_SUITE(backend_stick_breaking)

BOOST_AUTO_TEST_CASE_TEMPLATE(definition, S, Scalars) {
  for (auto const& c : mf::test::attention_cases())
    for (auto const variant : mf::test::variants) {
      auto const in = mf::test::random_inputs(c, 5);
      auto const expected = mf::test::reference(c, variant, in);
      mf::test::AttentionOutputs<S> out(c);
      mf::test::fill_normal(out.y.values(), 99);  // must be overwritten, also where no sequence is
      mf::Cpu<S> backend{2};
      mf::test::forward(backend, c, variant, mf::test::converted<S>(c, in), out);
      BOOST_TEST_CONTEXT("tokens " << c.query_tokens << " keys " << c.keys << " size " << c.extents.head_size
                                   << " inclusive " << variant.inclusive << " remainder " << variant.keep_remainder) {
        BOOST_TEST(relative_error(out.y.values(), expected.y.values()) < tolerance<S>);
        double const log_tolerance = sizeof(S) == 4 ? 1e-5 : 1e-13;  // sticks near the smallest float
        BOOST_TEST(relative_error(out.log_stick.values(), expected.log_stick.values()) < log_tolerance);
      }
    }
}

// Logits of mean +1 use up the stick within some tens of keys.
BOOST_AUTO_TEST_CASE_TEMPLATE(early_stop_changes_nothing_visible, S, Scalars) {
  auto c = mf::test::single(300, 350, 2, 16, 2);
  auto const in = mf::test::converted<S>(c, mf::test::random_inputs(c, 6, 1));
  mf::Cpu<S> backend{2};
  for (auto const variant : mf::test::variants) {
    mf::test::AttentionOutputs<S> exact(c), stopped(c);
    c.extents.stop_below = 0;
    mf::test::forward(backend, c, variant, in, exact);
    c.extents.stop_below = sizeof(S) == 4 ? 0x1p-40 : 0x1p-80;
    mf::test::forward(backend, c, variant, in, stopped);
    BOOST_TEST(relative_error(stopped.y.values(), exact.y.values()) < (sizeof(S) == 4 ? 1e-7 : 1e-15));
    mf::Index visited = 0;
    for (mf::Index i = 0; i < c.rows(); ++i) {
      BOOST_TEST((stopped.stop(i, 1) >= 0 && stopped.stop(i, 1) <= 50 + i / 2));
      if (stopped.stop(i, 1) > 0) BOOST_TEST(stopped.log_stick(i, 1) < std::log(c.extents.stop_below));
      visited += 50 + i / 2 - stopped.stop(i, 1);
    }
    BOOST_TEST(visited < 200 * c.rows());  // of about 200 that are visible on average
    BOOST_TEST(stopped.stop(c.rows() - 1, 0) > 100);
  }
}

BOOST_AUTO_TEST_CASE_TEMPLATE(extreme_logits_stay_finite, S, Scalars) {
  for (double const size : {30.0, 1e3, 1e6, 1e18}) {
    auto const c = mf::test::single(90, 90, 1, 4, 1);
    auto in = mf::test::random_inputs(c, 7, 0);
    for (double& value : in.q.values()) value *= size;
    for (double& value : in.q.values()) value = static_cast<double>(static_cast<float>(value));
    auto const expected = mf::test::reference(c, {true, true}, in);
    mf::test::AttentionOutputs<S> out(c);
    mf::Cpu<S> backend{1};
    mf::test::forward(backend, c, {true, true}, mf::test::converted<S>(c, in), out);
    // A logit of 1e3 has the absolute rounding of 1e3, and the sigmoid is a step: in float values within
    // that rounding of the step are compared loosely.
    BOOST_TEST(relative_error(out.y.values(), expected.y.values()) < (sizeof(S) == 4 ? 2e-5 : 1e-12));
  }
}

BOOST_AUTO_TEST_CASE(not_a_number_stays_in_its_row) {
  auto const c = mf::test::single(70, 70, 1, 16, 2);
  auto in = mf::test::random_inputs(c, 8);
  auto const clean = mf::test::reference(c, {true, false}, in);
  in.q(77, 3) = std::numeric_limits<double>::quiet_NaN();
  mf::test::AttentionOutputs<double> out(c);
  mf::Cpu<double> backend{2};
  mf::test::forward(backend, c, {true, false}, in, out);
  for (mf::Index i = 0; i < c.rows(); ++i)
    for (mf::Index x = 0; x < 16; ++x)
      if (i == 77) BOOST_TEST(std::isnan(out.y(i, x)));
      else BOOST_TEST(std::abs(out.y(i, x) - clean.y(i, x)) < 1e-12);
}

// A sequence's bits do not depend on what is packed beside it, nor on the number of threads.
BOOST_AUTO_TEST_CASE_TEMPLATE(packed_is_separate, S, Scalars) {
  mf::test::AttentionCase const packed{
      {2, 24, 2, 0x1p-40}, {{0, 3, 0, 3}, {3, 100, 3, 100}, {103, 65, 103, 65}, {168, 2, 168, 90}}, 170, 258};
  auto const in = mf::test::converted<S>(packed, mf::test::random_inputs(packed, 9));
  mf::Cpu<S> one{1}, three{3};
  mf::test::AttentionOutputs<S> together(packed), threaded(packed), separate(packed);
  mf::test::forward(one, packed, {true, true}, in, together);
  mf::test::forward(three, packed, {true, true}, in, threaded);
  for (auto const& sequence : packed.sequences) {
    auto alone = packed;
    alone.sequences = {sequence};
    mf::test::AttentionOutputs<S> out(alone);
    mf::test::forward(three, alone, {true, true}, in, out);
    for (mf::Index i = sequence.query_begin * 2; i < (sequence.query_begin + sequence.query_count) * 2; ++i)
      std::copy_n(out.y.view().slice(i).data(), 48, separate.y.view().slice(i).data());
  }
  BOOST_TEST((together.y.values() == threaded.y.values()));
  BOOST_TEST((together.log_stick.values() == threaded.log_stick.values()));
  BOOST_TEST((together.stop.values() == threaded.stop.values()));
  BOOST_TEST((together.y.values() == separate.y.values()));
}

BOOST_AUTO_TEST_CASE(a_second_call_takes_no_memory) {
  auto const c = mf::test::single(300, 300, 2, 16, 2);
  auto const in = mf::test::random_inputs(c, 10);
  mf::test::AttentionOutputs<double> out(c);
  mf::Cpu<double> backend{2};
  mf::test::forward(backend, c, {}, in, out);
  mf::test::backward(backend, c, {}, in, out);
  auto const reserved = backend.workspace().reserved();
  mf::test::forward(backend, c, {}, in, out);
  mf::test::backward(backend, c, {}, in, out);
  BOOST_TEST(backend.workspace().reserved() == reserved);
  BOOST_TEST(backend.workspace().mark().used == 0u);
}

// 16384 tokens with a T x T buffer would take a gigabyte in float.
BOOST_AUTO_TEST_CASE(long_sequences_need_little_memory) {
  auto c = mf::test::single(16384, 16384, 1, 8, 1);
  c.extents.stop_below = 0x1p-40;
  auto const in = mf::test::converted<float>(c, mf::test::random_inputs(c, 11));
  mf::test::AttentionOutputs<float> out(c);
  mf::Cpu<float> backend{2};
  mf::test::forward(backend, c, {}, in, out);
  mf::test::backward(backend, c, {}, in, out);
  BOOST_TEST(backend.workspace().reserved() < std::size_t{64} << 20);
}

BOOST_AUTO_TEST_CASE(misfits_are_named) {
  auto const c = mf::test::single(4, 4, 2, 4, 2);
  auto const in = mf::test::random_inputs(c, 12);
  mf::test::AttentionOutputs<double> out(c);
  mf::Cpu<double> backend{1};
  auto wrong = c;
  wrong.extents.head_size = 3;
  BOOST_CHECK_THROW(mf::test::forward(backend, wrong, {}, in, out), mf::Error);
  BOOST_CHECK_THROW(mf::test::backward(backend, wrong, {}, in, out), mf::Error);
  for (mf::Sequence const bad : {mf::Sequence{0, 4, 0, 3}, {1, 4, 0, 4}, {0, 4, 1, 4}, {-1, 4, 0, 4}}) {
    wrong = c;
    wrong.sequences = {bad};
    BOOST_CHECK_THROW(mf::test::forward(backend, wrong, {}, in, out), mf::Error);
    BOOST_CHECK_THROW(mf::test::backward(backend, wrong, {}, in, out), mf::Error);
  }
}

BOOST_AUTO_TEST_SUITE_END()
