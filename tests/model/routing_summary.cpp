// SPDX-License-Identifier: MIT
// Summaries of routing: by hand, at the extremes, over domains, and of a model's forward.

#include "training/support.hpp"

#include <moduleformer/model/routing_summary.hpp>

#include <boost/test/unit_test.hpp>

#include <cmath>

namespace mf = moduleformer;
using namespace mf::test;
using mf::Index;

namespace {

/// One router's choices with even probabilities over 4 experts; a token without choice is masked.
mf::Observation<float> observed(std::vector<mf::ExpertId> experts, Index slots, Index tokens) {
  mf::RouterObservation<float> router{"r", 4, slots};
  router.load.resize(4);
  for (mf::ExpertId const e : experts)
    if (e >= 0) router.load[static_cast<std::size_t>(e)] += 1;
  router.tokens = tokens;
  router.mean_probability.assign(4, 0.25);
  router.conditional_entropy = std::log(4.0);
  router.probabilities.assign(experts.size() / static_cast<std::size_t>(slots) * 4, 0.25f);
  router.experts = std::move(experts);
  mf::Observation<float> seen;
  seen.routers.push_back(std::move(router));
  return seen;
}

mf::RouterSummary summed(mf::Observation<float> const& seen) {
  mf::RoutingSummary summary;
  summary.add(0, seen);
  return summary.routers()[0];
}

}  // namespace

BOOST_AUTO_TEST_CASE(numbers_by_hand) {
  // Three tokens, the third with one empty slot; a fourth row is masked.
  auto const r = summed(observed({0, 1, 1, 2, 1, -1, -1, -1}, 2, 3));
  BOOST_TEST(r.tokens == 3);
  BOOST_TEST((r.load == std::vector<double>{1, 3, 1, 0}));
  BOOST_TEST(r.dead_experts() == 1u);
  BOOST_TEST(r.busiest() == 3 / 1.25);
  BOOST_CHECK_CLOSE_FRACTION(r.variation(), std::sqrt((0.0625 + 3.0625 + 0.0625 + 1.5625) / 4) / 1.25, 1e-14);
  BOOST_CHECK_CLOSE_FRACTION(r.effective_experts(), std::exp(-0.2 * std::log(0.2) * 2 - 0.6 * std::log(0.6)), 1e-14);
  BOOST_CHECK_CLOSE_FRACTION(r.dropped_gate(), 1 - 5 * 0.25 / 3, 1e-14);
  BOOST_TEST(std::abs(r.mutual_information()) < 1e-14);
  std::vector<double> const together{1, 1, 0, 0, 1, 3, 1, 0, 0, 1, 1, 0, 0, 0, 0, 0};
  BOOST_TEST(r.coactivation == together, boost::test_tools::per_element());
}

BOOST_AUTO_TEST_CASE(the_extremes) {
  auto const even = summed(observed({0, 1, 2, 3}, 1, 4));
  BOOST_CHECK_CLOSE_FRACTION(even.effective_experts(), 4.0, 1e-14);
  BOOST_TEST(even.variation() == 0);
  BOOST_TEST(even.busiest() == 1);
  BOOST_TEST(even.dead_experts() == 0u);
  auto const one = summed(observed({2, 2, 2}, 1, 3));
  BOOST_TEST(one.effective_experts() == 1);
  BOOST_TEST(one.busiest() == 4);
  BOOST_TEST(one.dead_experts() == 3u);
  BOOST_CHECK_CLOSE_FRACTION(one.variation(), std::sqrt(3.0), 1e-14);
}

BOOST_AUTO_TEST_CASE(what_an_expert_tells_of_its_domain) {
  auto const first = observed({0, 1, 0, 1}, 1, 4), second = observed({2, 3, 2, 3}, 1, 4);
  mf::RoutingSummary apart({"a", "b"}), alike({"a", "b"}), alone({"a"});
  apart.add(0, first);
  apart.add(1, second);
  BOOST_CHECK_CLOSE_FRACTION(apart.domain_information(0), std::log(2.0), 1e-14);
  BOOST_TEST(apart.routers()[0].tokens == 8);
  BOOST_TEST(apart.routers(1)[0].load[2] == 2);
  alike.add(0, first);
  alike.add(1, first);
  BOOST_TEST(alike.domain_information(0) < 1e-15);
  alone.add(0, first);
  BOOST_TEST(alone.domain_information(0) < 1e-15);
  BOOST_TEST(complaint([&] { alone.add(1, first); }) == "routing summary: expected a domain below 1, found 1");
  BOOST_TEST(complaint([&] { alone.add(0, mf::Observation<float>{}); }) ==
             "routing summary: expected an observation of routers, found none of them");
  auto two = first;
  two.routers.push_back(first.routers[0]);
  BOOST_TEST(complaint([&] { alone.add(0, two); }) == "routing summary: expected 1 routers as before, found 2");
  BOOST_TEST(complaint([] { mf::RoutingSummary({"a", "b", "a"}); }) == "routing summary: the domain a is named twice");
  BOOST_TEST(complaint([] { mf::RoutingSummary({"a", ""}); }) == "routing summary: domain 1: expected a name, found none");
}

BOOST_AUTO_TEST_CASE(shared_experts_have_a_load_only) {
  // Expert 0 serves all of three tokens; of the others, 1 is chosen twice and 3 once, with a probability of 1/3 each.
  auto seen = observed({0, 1, 0, 3, 0, 1}, 2, 3);
  mf::RouterObservation<float>& router = seen.routers[0];
  router.shared_experts = 1;
  router.mean_probability = {0, 1 / 3., 1 / 3., 1 / 3.};
  router.conditional_entropy = std::log(3.0);
  router.probabilities = {0, 1 / 3.f, 1 / 3.f, 1 / 3.f, 0, 1 / 3.f, 1 / 3.f, 1 / 3.f, 0, 1 / 3.f, 1 / 3.f, 1 / 3.f};
  auto const r = summed(seen);
  BOOST_TEST(r.routed_experts() == 3u);
  BOOST_TEST(r.dead_experts() == 1u);
  BOOST_TEST(r.busiest() == 2);
  BOOST_CHECK_CLOSE_FRACTION(r.effective_experts(), std::exp(-2 / 3. * std::log(2 / 3.) - 1 / 3. * std::log(1 / 3.)), 1e-14);
  BOOST_CHECK_CLOSE_FRACTION(r.dropped_gate(), 2 / 3., 1e-7);
  BOOST_TEST(std::abs(r.mutual_information()) < 1e-14);
  BOOST_TEST(r.coactivation[0 * 4 + 1] == 2);
  mf::RoutingSummary domains({"a", "b"});
  auto other = seen;
  other.routers[0].experts = {0, 2, 0, 2, 0, 2};
  other.routers[0].load = {3, 0, 3, 0};
  domains.add(0, seen);
  domains.add(1, other);
  // No expert of one domain is one of the other's.
  BOOST_CHECK_CLOSE_FRACTION(domains.domain_information(0), std::log(2.0), 1e-14);
}

BOOST_AUTO_TEST_CASE(batches_of_a_model_add_up) {
  using Model = mf::CausalLM<tiny_shape, mf::Policies<>, mf::Cpu<double>>;
  auto const model = Model::random(3, {.initializer_range = 0.5});
  mf::Session session{model, {.threads = 2}};
  mf::Batch first, second, both;
  tiny_batches(2).read(0, first);
  tiny_batches(2).read(1, second);
  both = first;
  both.rows += second.rows;
  both.ids.insert(both.ids.end(), second.ids.begin(), second.ids.end());
  both.targets.insert(both.targets.end(), second.targets.begin(), second.targets.end());
  mf::RoutingSummary parts, whole;
  auto const observe = [&](mf::Batch const& batch, mf::RoutingSummary& into) {
    mf::Observation<double> seen;
    (void)model.loss(session, batch, {.observation = &seen});
    into.add(0, seen);
  };
  observe(first, parts);
  observe(second, parts);
  observe(both, whole);
  for (std::size_t r = 0; r < 4; ++r) {
    auto const a = parts.routers()[r], b = whole.routers()[r];
    BOOST_TEST(a.name == b.name);
    BOOST_TEST((a.load == b.load && a.coactivation == b.coactivation && a.tokens == b.tokens));
    BOOST_CHECK_CLOSE_FRACTION(a.conditional_entropy(), b.conditional_entropy(), 1e-12);
    BOOST_CHECK_CLOSE_FRACTION(a.dropped_gate(), b.dropped_gate(), 1e-12);
    BOOST_TEST(a.mutual_information() >= 0);
    BOOST_TEST(mf::RouterSummary::sum(a.load) == 2 * a.tokens);
    for (std::size_t e = 0; e < a.experts(); ++e) BOOST_TEST(a.coactivation[e * a.experts() + e] == a.load[e]);
  }
}
