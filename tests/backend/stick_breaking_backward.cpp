// SPDX-License-Identifier: MIT
// Gradients of stick-breaking attention: differences, the definition, early stop, shared keys, threads.

#include "stick_breaking.hpp"

#include <boost/test/unit_test.hpp>

#include <numeric>
#include <tuple>

namespace mf = moduleformer;
using mf::test::relative_error;

namespace {

using Scalars = std::tuple<float, double>;

template <class S>
constexpr double tolerance = sizeof(S) == 4 ? 5e-6 : 1e-12;

}  // namespace

BOOST_AUTO_TEST_SUITE(backend_stick_breaking_backward)

BOOST_AUTO_TEST_CASE(differences) {
  mf::Cpu<double> backend{2};
  using mf::test::single;
  for (auto const& c : {single(5, 5, 2, 3, 1), single(3, 70, 1, 2, 2), single(13, 17, 1, 4, 3)})
    for (auto const variant : mf::test::variants) {
      auto in = mf::test::random_inputs(c, 21, -0.5);
      mf::test::AttentionOutputs<double> out(c), scratch(c);
      mf::test::forward(backend, c, variant, in, out);
      mf::test::backward(backend, c, variant, in, out);
      auto const loss = [&] {
        mf::test::forward(backend, c, variant, in, scratch);
        return std::inner_product(in.dy.values().begin(), in.dy.values().end(), scratch.y.values().begin(), 0.0);
      };
      for (auto [input, gradient] : {std::pair{&in.q, &out.dq}, {&in.k, &out.dk}, {&in.v, &out.dv}})
        for (std::size_t i = 0; i < input->values().size(); ++i) {
          double const h = 1e-5, kept = input->values()[i];
          input->values()[i] = kept + h;
          double const above = loss();
          input->values()[i] = kept - h;
          double const below = loss();
          input->values()[i] = kept;
          BOOST_TEST(std::abs((above - below) / (2 * h) - gradient->values()[i]) < 1e-8);
        }
    }
}

BOOST_AUTO_TEST_CASE_TEMPLATE(definition, S, Scalars) {
  for (auto const& c : mf::test::attention_cases())
    for (auto const variant : mf::test::variants) {
      auto const in = mf::test::random_inputs(c, 22);
      auto const expected = mf::test::reference(c, variant, in);
      auto const own = mf::test::converted<S>(c, in);
      mf::test::AttentionOutputs<S> out(c);
      mf::test::fill_normal(out.dq.values(), 99);  // overwritten
      for (S& value : out.dk.values()) value = S(1);  // accumulated
      for (S& value : out.dv.values()) value = S(2);
      mf::Cpu<S> backend{2};
      mf::test::forward(backend, c, variant, own, out);
      mf::test::backward(backend, c, variant, own, out);
      for (S& value : out.dk.values()) value -= S(1);
      for (S& value : out.dv.values()) value -= S(2);
      BOOST_TEST_CONTEXT("tokens " << c.query_tokens << " keys " << c.keys << " size " << c.extents.head_size
                                   << " inclusive " << variant.inclusive << " remainder " << variant.keep_remainder) {
        BOOST_TEST(relative_error(out.dq.values(), expected.dq.values()) < tolerance<S>);
        BOOST_TEST(relative_error(out.dk.values(), expected.dk.values()) < tolerance<S>);
        BOOST_TEST(relative_error(out.dv.values(), expected.dv.values()) < tolerance<S>);
      }
    }
}

BOOST_AUTO_TEST_CASE_TEMPLATE(early_stop, S, Scalars) {
  auto c = mf::test::single(300, 350, 1, 16, 2);
  auto const in = mf::test::random_inputs(c, 23, 1);
  auto const own = mf::test::converted<S>(c, in);
  mf::Cpu<S> backend{2};
  for (auto const variant : mf::test::variants) {
    auto const expected = mf::test::reference(c, variant, in);
    mf::test::AttentionOutputs<S> out(c);
    c.extents.stop_below = sizeof(S) == 4 ? 0x1p-40 : 0x1p-80;
    mf::test::forward(backend, c, variant, own, out);
    BOOST_TEST_REQUIRE(out.stop(c.rows() - 1, 0) > 0);
    mf::test::backward(backend, c, variant, own, out);
    BOOST_TEST(relative_error(out.dq.values(), expected.dq.values()) < tolerance<S>);
    BOOST_TEST(relative_error(out.dk.values(), expected.dk.values()) < tolerance<S>);
    BOOST_TEST(relative_error(out.dv.values(), expected.dv.values()) < tolerance<S>);
  }
}

// Without early stop the sticks of far keys underflow; their gradients must be 0, not NaN.
BOOST_AUTO_TEST_CASE_TEMPLATE(underflowing_sticks, S, Scalars) {
  auto const c = mf::test::single(257, 257, 1, 8, 1);
  for (double const mean : {4.0, 25.0, 600.0}) {
    auto const in = mf::test::random_inputs(c, 24, mean);
    auto const expected = mf::test::reference(c, {true, true}, in);
    auto const own = mf::test::converted<S>(c, in);
    mf::test::AttentionOutputs<S> out(c);
    mf::Cpu<S> backend{2};
    mf::test::forward(backend, c, {true, true}, own, out);
    mf::test::backward(backend, c, {true, true}, own, out);
    BOOST_TEST(relative_error(out.dv.values(), expected.dv.values()) < tolerance<S>);
    if (mean > 5) continue;  // dq and dk are below any precision there
    BOOST_TEST(relative_error(out.dq.values(), expected.dq.values()) < 10 * tolerance<S>);
    BOOST_TEST(relative_error(out.dk.values(), expected.dk.values()) < 10 * tolerance<S>);
  }
}

// Keys and values that are one matrix, as are their gradients.
BOOST_AUTO_TEST_CASE_TEMPLATE(shared_keys, S, Scalars) {
  auto const c = mf::test::single(100, 100, 1, 40, 2);
  auto in = mf::test::random_inputs(c, 25);
  in.v = in.k;
  auto const expected = mf::test::reference(c, {true, false}, in);
  auto const own = mf::test::converted<S>(c, in);
  mf::test::AttentionOutputs<S> out(c);
  mf::Cpu<S> backend{2};
  mf::stick_breaking_forward(backend, {}, c.extents, c.views(), own.q.view(), own.k.view(), own.k.view(), out.y.view(),
                             {}, out.stop.view());
  mf::stick_breaking_backward(backend, {}, c.extents, c.views(), own.dy.view(), own.q.view(), own.k.view(),
                              own.k.view(), {}, out.stop.view(), out.dq.view(), out.dk.view(), out.dk.view());
  std::vector<double> both(expected.dk.values());
  for (std::size_t i = 0; i < both.size(); ++i) both[i] += expected.dv.values()[i];
  BOOST_TEST(relative_error(out.y.values(), expected.y.values()) < tolerance<S>);
  BOOST_TEST(relative_error(out.dk.values(), both) < tolerance<S>);
}

BOOST_AUTO_TEST_CASE_TEMPLATE(bits_do_not_depend_on_threads_or_packing, S, Scalars) {
  for (mf::Index const heads : {1, 3, 8}) {
    mf::test::AttentionCase const packed{
        {heads, 12, 2, 0x1p-40}, {{0, 3, 0, 3}, {3, 333, 3, 333}, {336, 65, 336, 65}}, 401, 401};
    auto const in = mf::test::converted<S>(packed, mf::test::random_inputs(packed, 26));
    mf::Cpu<S> one{1}, three{3};
    mf::test::AttentionOutputs<S> a(packed), b(packed), separate(packed);
    mf::test::forward(one, packed, {true, true}, in, a);
    mf::test::backward(one, packed, {true, true}, in, a);
    mf::test::forward(three, packed, {true, true}, in, b);
    mf::test::backward(three, packed, {true, true}, in, b);
    for (auto const& sequence : packed.sequences) {
      auto alone = packed;
      alone.sequences = {sequence};
      mf::test::AttentionOutputs<S> out(alone);
      mf::test::forward(three, alone, {true, true}, in, out);
      mf::test::backward(three, alone, {true, true}, in, out);
      auto const add = [](std::vector<S>& to, std::vector<S> const& from) {
        for (std::size_t i = 0; i < to.size(); ++i) to[i] += from[i];
      };
      add(separate.dq.values(), out.dq.values());  // rows of other sequences are 0
      add(separate.dk.values(), out.dk.values());
      add(separate.dv.values(), out.dv.values());
    }
    BOOST_TEST((a.dq.values() == b.dq.values() && a.dk.values() == b.dk.values() && a.dv.values() == b.dv.values()));
    BOOST_TEST((a.dq.values() == separate.dq.values()));
    BOOST_TEST((a.dk.values() == separate.dk.values() && a.dv.values() == separate.dv.values()));
  }
}

BOOST_AUTO_TEST_SUITE_END()
