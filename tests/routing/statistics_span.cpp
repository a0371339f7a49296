// SPDX-License-Identifier: MIT
// What a router's loss is differentiated by when its statistics run over more than the pass: against differences, on one
// router with two micro-batches of different size, after a step before and without one.

#include "support/layer.hpp"

#include <moduleformer/routing/policies.hpp>

#include <boost/mpl/list.hpp>

#include <algorithm>
#include <array>
#include <cmath>
#include <string>

namespace mf = moduleformer;
using mf::Index;
using namespace mf::test;

namespace {

constexpr Index d = 4, e = 6, k = 2;

/// Sums in host memory.
struct Sums {
  Index tokens = 0;
  std::array<double, e> probability{}, count{}, gate{};
  double negative_entropy = 0, squared_lse = 0;

  static Sums of(mf::RoutingStatistics const& s) {
    Sums sums{.tokens = s.tokens, .negative_entropy = *s.negative_entropy_sum, .squared_lse = *s.squared_lse_sum};
    std::copy_n(s.probability_sum.data(), e, sums.probability.begin());
    std::copy_n(s.count.data(), e, sums.count.begin());
    std::copy_n(s.gate_sum.data(), e, sums.gate.begin());
    return sums;
  }
  mf::RoutingStatistics view() {
    return {tokens, k, {probability.data(), {e}}, {count.data(), {e}}, {gate.data(), {e}}, &negative_entropy, &squared_lse};
  }
  friend Sums operator+(Sums a, Sums const& b) {
    a.tokens += b.tokens;
    for (std::size_t i = 0; i < e; ++i) {
      a.probability[i] += b.probability[i];
      a.count[i] += b.count[i];
      a.gate[i] += b.gate[i];
    }
    a.negative_entropy += b.negative_entropy;
    a.squared_lse += b.squared_lse;
    return a;
  }
};

/// A router, the totals of a model with this one in second place, and micro-batches of 9 and 14 tokens.
template <class Policies>
struct Spanned {
  using Layer = mf::RouterLayer<Policies, Double>;
  static constexpr double weight = LayerUnderTest<Layer>::routing_weight;

  auto pass(bool adds) {
    auto pass = test.pass();
    pass.totals = totals.routers();
    pass.adds_to_totals = adds;
    return pass;
  }
  auto forward(mf::Pass<Double>& pass, std::vector<double> const& x) {
    return test.layer.forward(pass, test.values, {x.data(), {static_cast<Index>(x.size()) / d, d}}, {},
                              mf::RandomSite::feed_forward_router);
  }
  Sums run(std::vector<double> const& x, bool adds) {
    auto p = pass(adds);
    return Sums::of(forward(p, x).statistics);
  }
  /// Of the loss alone, with respect to the second micro-batch.
  std::vector<double> backward(bool adds) {
    std::vector<double> dx(second.size(), 1e9), none(second.size() / d * k);
    auto p = pass(adds);
    auto const context = forward(p, second);
    loss = *context.loss;
    Index const n = static_cast<Index>(second.size()) / d;
    test.layer.backward(p, test.values, test.gradients, context, mf::RandomSite::feed_forward_router, {second.data(), {n, d}},
                        mf::Matrix<double const>{none.data(), {n, k}}, {dx.data(), {n, d}});
    return dx;
  }
  void end_step(double clip = 1) {
    mf::AdamWStep const step{.clip = clip};
    totals.end_step(test.backend, mf::Vector<mf::AdamWStep const>{&step, {1}});
    totals.begin_step(test.backend);
  }

  Policies policies{};
  LayerUnderTest<Layer> test{Layer({d, 3, e}, k, policies), 1.5, 5};
  mf::RoutingTotals<Double> totals{test.backend, {3, e}};
  std::vector<double> before = random_values(11 * d, 1), first = random_values(9 * d, 2), second = random_values(14 * d, 3);
  double loss = 0;
};

using Smooth = boost::mpl::list<mf::MutualInformationLoss, mf::LoadConcentrationLoss, mf::ExactSwitchLoss, mf::RouterZLoss,
                                mf::ImportanceLoss>;
using Streamed = boost::mpl::list<mf::MutualInformationLoss, mf::LoadConcentrationLoss, mf::ExactSwitchLoss, mf::ImportanceLoss,
                                  mf::LoadLoss>;

}  // namespace

// The pass's weight is that of a mean over two micro-batches; the loss over both has the weight of two.
BOOST_AUTO_TEST_CASE_TEMPLATE(whole_batch, Loss, Smooth) {
  Spanned<mf::Policies<Loss, mf::WholeBatchStatistics, mf::LinearRouter>> router;
  Sums const first = router.run(router.first, true);
  router.run(router.second, true);
  auto const dx = router.backward(false);
  auto const value = [&] { return Loss{}.value((first + router.run(router.second, false)).view()); };
  BOOST_CHECK_CLOSE_FRACTION(router.loss, value(), 1e-13);
  check_gradient("dx", router.second, dx, [&] { return 2 * router.weight * value(); });
}

// Derivatives at the counts and gates so far and at p(e) of the step before, of the micro-batch's own sums.
BOOST_AUTO_TEST_CASE_TEMPLATE(streaming, Loss, Streamed) {
  for (bool const has_before : {false, true}) {
    Spanned<mf::Policies<Loss, mf::StreamingStatistics, mf::LinearRouter>> router;
    Sums const before = router.run(router.before, true);
    if (has_before) router.end_step();
    else router.totals.begin_step(router.test.backend);
    Sums const first = router.run(router.first, true), own = router.run(router.second, false), both = first + own;
    auto const dx = router.backward(true);
    BOOST_TEST(router.loss == Loss{}.value(Sums(own).view()));

    Sums seen = own;
    double const share = static_cast<double>(own.tokens) / static_cast<double>(both.tokens);
    for (std::size_t i = 0; i < e; ++i) {
      seen.count[i] = both.count[i] * share;
      seen.gate[i] = both.gate[i] * share;
      if (has_before) seen.probability[i] = before.probability[i] / 11 * 14;
    }
    Sums slope;
    mf::RoutingGradient gradient{{slope.probability.data(), {e}}, {slope.gate.data(), {e}}, &slope.negative_entropy, &slope.squared_lse};
    Loss{}.gradient(seen.view(), router.weight, gradient);
    check_gradient("dx", router.second, dx, [&] {
      Sums const now = router.run(router.second, false);
      double value = slope.negative_entropy * now.negative_entropy + slope.squared_lse * now.squared_lse;
      for (std::size_t i = 0; i < e; ++i) value += slope.probability[i] * now.probability[i] + slope.gate[i] * now.gate[i];
      return value;
    });
  }
}

BOOST_AUTO_TEST_CASE(totals_are_those_of_their_router_and_step) {
  Spanned<mf::Policies<mf::StreamingStatistics>> router;
  auto const& other = router.totals.routers()[0];
  auto const& mine = router.totals.routers()[1];
  Sums const first = router.run(router.first, true), second = router.run(router.second, true), both = first + second;
  router.run(router.before, false);
  BOOST_TEST((*mine.tokens == 23 && *mine.passes == 2 && *mine.has_previous == 0));
  for (Index i = 0; i < e; ++i) {
    auto const at = static_cast<std::size_t>(i);
    BOOST_TEST(mine.count[i] == both.count[at]);
    BOOST_TEST(mine.probability_sum[i] == both.probability[at]);
    BOOST_TEST(mine.gate_sum[i] == both.gate[at]);
  }
  BOOST_TEST(*mine.negative_entropy_sum == both.negative_entropy);
  BOOST_TEST(*mine.squared_lse_sum == both.squared_lse);
  BOOST_TEST((*other.tokens == 0 && *other.passes == 0));

  // A step that changed nothing leaves what was before; a router that saw no token, too.
  router.end_step(std::nan(""));
  BOOST_TEST((*mine.tokens == 0 && *mine.passes == 0 && *mine.has_previous == 0 && mine.count[0] == 0));
  router.run(router.first, true);
  router.end_step();
  BOOST_TEST((*mine.has_previous == 1 && *other.has_previous == 0));
  for (Index i = 0; i < e; ++i) BOOST_TEST(mine.previous[i] == first.probability[static_cast<std::size_t>(i)] / 9);
}

BOOST_AUTO_TEST_CASE(choices_made_at_run_time_are_refused_too) {
  auto const refused = []<class Selection = mf::TopK>(auto loss, auto statistics, Selection selection = {}) -> std::string {
    mf::dynamic_policies policies;
    policies.selection = selection;
    policies.routing_loss = loss;
    policies.statistics = statistics;
    try {
      mf::check_policies(policies);
    } catch (mf::Error const& error) {
      return error.what();
    }
    return "none";
  };
  BOOST_TEST(refused(mf::NoRoutingLoss{}, mf::StreamingStatistics{}) ==
             "statistics: streaming needs a routing loss that reads them, found aux_loss_type none");
  BOOST_TEST(refused(mf::NoRoutingLoss{}, mf::WholeBatchStatistics{}) ==
             "statistics: whole_batch needs a routing loss that reads them, found aux_loss_type none");
  BOOST_TEST(refused(mf::RouterZLoss{}, mf::StreamingStatistics{}) ==
             "statistics: streaming changes nothing in aux_loss_type router_z, a mean over tokens");
  BOOST_TEST(refused(mf::RouterZLoss{}, mf::WholeBatchStatistics{}) == "none");
  BOOST_TEST(refused(mf::NoRoutingLoss{}, mf::MicroBatchStatistics{}) == "none");
  BOOST_TEST(refused(mf::SwitchLoss{}, mf::StreamingStatistics{}) == "none");
  BOOST_TEST(refused(mf::SwitchLoss{}, mf::MicroBatchStatistics{}, mf::ExpertChoice{}) ==
             "selection: expert_choice gives every expert the same load, aux_loss_type switch has nothing to even out");
  BOOST_TEST(refused(mf::ImportanceLoss{}, mf::MicroBatchStatistics{}, mf::ExpertChoice{}) == "none");
  BOOST_TEST(refused(mf::SwitchLoss{-1}, mf::MicroBatchStatistics{}) == "switch: z_weight: expected a number from 0, found -1");

  // A sum is what those of its losses are that have a weight.
  auto const sum = [](double importance, double load, double router_z) {
    mf::dynamic_policies policies;
    (void)mf::choose_policy(policies.routing_loss, "weighted_sum");
    mf::visit_policy_numbers(policies.routing_loss, [&](std::string_view name, double& number) {
      if (name == "importance_cv2") number = importance;
      if (name == "load_cv2") number = load;
      if (name == "router_z") number = router_z;
    });
    return policies.routing_loss;
  };
  BOOST_TEST(refused(sum(1, 1, 0), mf::MicroBatchStatistics{}, mf::ExpertChoice{}) ==
             "selection: expert_choice gives every expert the same load, aux_loss_type load_cv2 has nothing to even out");
  BOOST_TEST(refused(sum(1, 0, 1), mf::MicroBatchStatistics{}, mf::ExpertChoice{}) == "none");
  BOOST_TEST(refused(sum(0, 0, 1), mf::StreamingStatistics{}) ==
             "statistics: streaming changes nothing in aux_loss_type router_z, a mean over tokens");
  BOOST_TEST(refused(sum(0, 1, 1), mf::StreamingStatistics{}) == "none");
  BOOST_TEST(refused(sum(0, 0, 0), mf::MicroBatchStatistics{}) ==
             "aux_loss_type: weighted_sum: expected a weight that is not 0, found none");
  BOOST_TEST(refused(sum(0, 0, INFINITY), mf::MicroBatchStatistics{}) ==
             "aux_loss_type: weighted_sum: router_z: expected a finite number, found inf");
}
