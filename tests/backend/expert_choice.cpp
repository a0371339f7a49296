// SPDX-License-Identifier: MIT
// Expert choice on the CPU against a plain sort; slots without expert in the counting sort and the sums.

#include "expert_choice_cases.hpp"
#include "routing.hpp"

#include <boost/test/unit_test.hpp>

namespace mf = moduleformer;
using namespace mf::test;
using mf::Index;

BOOST_AUTO_TEST_CASE(experts_take_their_best_tokens) {
  for (auto const& c : expert_choice_cases)
    for (int const threads : {1, 3}) {
      auto const scores = tied_scores(c.tokens * c.experts, 7);
      std::vector<mf::ExpertId> ids(static_cast<std::size_t>(c.tokens * c.slots));
      mf::Cpu<float> backend{threads};
      mf::expert_choice(backend, mf::Matrix<float const>{scores.data(), {c.tokens, c.experts}}, c.capacity,
                        mf::Matrix<mf::ExpertId>{ids.data(), {c.tokens, c.slots}});
      BOOST_TEST(ids == choose_by_sorting(c, scores), boost::test_tools::per_element());
    }
}

BOOST_AUTO_TEST_CASE(empty_slots_are_left_out_of_the_sort) {
  mf::Cpu<float> backend{1};
  std::vector<mf::ExpertId> const expert{3, -1, 3, 1, -1, 0, 3};
  std::vector<std::int32_t> order(7, -7);
  std::vector<Index> offsets(6);
  mf::Vector<mf::ExpertId const> const ids{expert.data(), {7}};
  mf::sort_by_expert(backend, ids, 5, {order.data(), {7}}, {offsets.data(), {6}}, true);
  BOOST_TEST((offsets == std::vector<Index>{0, 1, 2, 2, 5, 5}));
  BOOST_TEST((std::vector(order.begin(), order.begin() + 5) == std::vector<std::int32_t>{5, 3, 0, 2, 6}));
  BOOST_CHECK_THROW(mf::sort_by_expert(backend, ids, 5, {order.data(), {7}}, {offsets.data(), {6}}), mf::Error);
}

BOOST_AUTO_TEST_CASE(empty_slots_have_no_gate_no_count_and_no_gradient) {
  Index const n = 70, e = 5, k = 3;
  Array<double, 2> logits(n, e), probs(n, e), gates(n, k), dgates(n, k), dlogits(n, e), expected(n, e);
  Array<double, 1> lse(n), probability(e), count(e), gate(e);
  fill_normal(logits.values(), 3, 2);
  fill_normal(dgates.values(), 4);
  Array<mf::ExpertId, 2> ids(n, k);
  for (Index t = 0; t < n; ++t)
    for (Index s = 0; s < k; ++s) ids(t, s) = (t + s) % 4 == 0 ? -1 : static_cast<mf::ExpertId>((t + s) % e);
  mf::Cpu<double> backend{2};
  mf::softmax(backend, logits.view(), probs.view(), lse.view());
  mf::gather_columns(backend, probs.view(), ids.view(), gates.view());
  double entropy = 0, squares = 0;
  mf::sum_routing(backend, logits.view(), probs.view(), lse.view(), gates.view(), ids.view(),
                  {n, k, probability.view(), count.view(), gate.view(), &entropy, &squares});
  double filled = 0, counted = 0;
  for (Index t = 0; t < n; ++t)
    for (Index s = 0; s < k; ++s) {
      BOOST_TEST((ids(t, s) >= 0 ? gates(t, s) > 0 : gates(t, s) == 0));
      filled += ids(t, s) >= 0;
    }
  for (double const c : count.values()) counted += c;
  BOOST_TEST(filled == counted);
  mf::routing_backward(backend, logits.view(), probs.view(), lse.view(), ids.view(), dgates.view(), {}, dlogits.view());
  for (Index t = 0; t < n; ++t) {
    double dot = 0;
    for (Index s = 0; s < k; ++s)
      if (ids(t, s) >= 0) dot += dgates(t, s) * gates(t, s);
    for (Index i = 0; i < e; ++i) {
      double slope = -dot;
      for (Index s = 0; s < k; ++s) slope += ids(t, s) == i ? dgates(t, s) : 0;
      BOOST_TEST(std::abs(dlogits(t, i) - probs(t, i) * slope) < 1e-12);
    }
  }
}
