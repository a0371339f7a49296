// SPDX-License-Identifier: MIT
// A router with its selection, gates and loss: numeric gradients of every gating, what gates are, what noise and jitter do.

#include "support/layer.hpp"

#include <moduleformer/routing/policies.hpp>

#include <boost/mpl/list.hpp>

#include <algorithm>
#include <numeric>
#include <set>
#include <string>

namespace mf = moduleformer;
using mf::Index;
using namespace mf::test;

namespace {

struct Sizes {
  Index n, d, e, k;
};

/// <weights, gates> + weight * loss of a router layer, and its gradients.
template <class Policies>
struct Routed {
  using Layer = mf::RouterLayer<Policies, Double>;

  explicit Routed(Sizes s, Policies p = {})
      : size(s), policies(p), test(Layer({s.d, 3, s.e}, s.k, policies), 1.5, 5), x(random_values(s.n * s.d, 1)),
        weights(random_values(s.n * s.k, 3)) {}
  auto forward(mf::Pass<Double>& pass) {
    if (documents) pass.documents = documents;
    return test.layer.forward(pass, test.values, {x.data(), {size.n, size.d}}, {}, mf::RandomSite::feed_forward_router);
  }
  double value() {
    auto pass = test.pass(training);
    auto const context = forward(pass);
    return dot(weights, context.choice.gates) + LayerUnderTest<Layer>::routing_weight * *context.loss;
  }
  void check() {
    std::vector<double> dx(x.size(), 1e9);
    {
      auto pass = test.pass(training);
      auto const context = forward(pass);
      test.layer.backward(pass, test.values, test.gradients, context, mf::RandomSite::feed_forward_router,
                          {x.data(), {size.n, size.d}}, mf::Matrix<double const>{weights.data(), {size.n, size.k}},
                          {dx.data(), {size.n, size.d}});
    }
    check_gradient("dx", x, dx, [&] { return value(); });
    test.check_parameters([&] { return value(); });
  }
  std::vector<double> gates(bool in_training = false) {
    auto pass = test.pass(in_training);
    auto const context = forward(pass);
    return {context.choice.gates.begin(), context.choice.gates.end()};
  }
  std::vector<mf::ExpertId> experts(bool in_training = false) {
    auto pass = test.pass(in_training);
    auto const context = forward(pass);
    return {context.choice.experts.begin(), context.choice.experts.end()};
  }

  Sizes size;
  Policies policies;
  LayerUnderTest<Layer> test;
  std::vector<double> x, weights;
  mf::Vector<mf::Sequence const> documents{};
  bool training = false;
};

using Gatings = boost::mpl::list<mf::SoftmaxGates, mf::TopKSoftmaxGates, mf::SigmoidGates, mf::NormalisedSigmoidGates>;
using Routers = boost::mpl::list<mf::MlpRouter, mf::MlpReluRouter, mf::LinearRouter, mf::GmmRouter>;
constexpr Sizes all_sizes[] = {{1, 2, 1, 1}, {1, 3, 4, 2}, {7, 5, 5, 5}, {65, 4, 6, 2}, {131, 3, 9, 4}};

}  // namespace

// Importance is a function of the gates' sums, mutual information of the probabilities.
BOOST_AUTO_TEST_CASE_TEMPLATE(gradients_of_every_gating, G, Gatings) {
  for (Sizes const s : all_sizes) {
    Routed<mf::Policies<G, mf::LinearRouter, mf::ImportanceLoss>>(s).check();
    Routed<mf::Policies<G>>(s).check();
  }
}

BOOST_AUTO_TEST_CASE_TEMPLATE(the_dynamic_form_computes_the_same, G, Gatings) {
  using Any = mf::dynamic_policies;
  Any any;
  any.gating = G{};
  Routed<mf::Policies<G>> fixed({33, 4, 6, 3});
  Routed<Any> same({33, 4, 6, 3}, any);
  BOOST_TEST((fixed.gates() == same.gates()));
}

BOOST_AUTO_TEST_CASE(softmax_over_the_chosen_is_the_softmax_over_all_renormalised) {
  Sizes const s{50, 4, 7, 3};
  auto all = Routed<mf::Policies<>>(s).gates();
  auto const chosen = Routed<mf::Policies<mf::TopKSoftmaxGates>>(s).gates();
  for (std::size_t t = 0; t < all.size(); t += 3) {
    double const sum = all[t] + all[t + 1] + all[t + 2];
    for (std::size_t i = t; i < t + 3; ++i) BOOST_TEST(std::abs(all[i] / sum - chosen[i]) < 1e-15);
  }
}

BOOST_AUTO_TEST_CASE(normalised_gates_sum_to_one) {
  Sizes const s{40, 4, 7, 3};
  for (auto const& gates : {Routed<mf::Policies<mf::TopKSoftmaxGates>>(s).gates(), Routed<mf::Policies<mf::NormalisedSigmoidGates>>(s).gates()})
    for (std::size_t t = 0; t < gates.size(); t += 3)
      BOOST_TEST(std::abs(std::accumulate(gates.begin() + static_cast<std::ptrdiff_t>(t), gates.begin() + static_cast<std::ptrdiff_t>(t) + 3, 0.0) - 1) < 1e-15);
}

BOOST_AUTO_TEST_CASE(gumbel_noise_draws_in_proportion_to_the_probabilities) {
  // One token many times, K = 1: its choices are draws of the softmax.
  Sizes const s{20000, 2, 4, 1};
  Routed<mf::Policies<mf::GumbelTopK, mf::LinearRouter>> drawn(s);
  for (Index t = 0; t < s.n; ++t) drawn.x[static_cast<std::size_t>(2 * t)] = 0.8, drawn.x[static_cast<std::size_t>(2 * t + 1)] = -0.5;
  auto pass = drawn.test.pass();
  auto const context = drawn.forward(pass);
  std::vector<double> p(context.choice.probabilities.begin(), context.choice.probabilities.begin() + 4), share(4);
  for (mf::ExpertId const e : drawn.experts(true)) share[static_cast<std::size_t>(e)] += 1.0 / static_cast<double>(s.n);
  for (std::size_t e = 0; e < 4; ++e) BOOST_TEST(std::abs(share[e] - p[e]) < 5 * std::sqrt(p[e] * (1 - p[e]) / static_cast<double>(s.n)));
}

BOOST_AUTO_TEST_CASE(expert_choice_gives_every_expert_the_same_load_in_training) {
  Sizes const s{90, 4, 6, 2};
  Routed<mf::Policies<mf::ExpertChoice>> routed(s);
  auto pass = routed.test.pass(true);
  auto const context = routed.forward(pass);
  BOOST_TEST(context.plan.top_k == 6);
  for (Index e = 0; e < 6; ++e) BOOST_TEST(context.statistics.count[e] == 30.0);
  for (Index e = 0; e < 6; ++e) BOOST_TEST(context.plan.offsets[e + 1] - context.plan.offsets[e] == 30);
  // In evaluation it is the top-k of the same probabilities.
  BOOST_TEST((routed.experts() == Routed<mf::Policies<>>(s).experts()));

  mf::Policies<mf::ExpertChoice> bounded;
  bounded.selection.most_experts = 3;
  bounded.selection.capacity = 2;
  Routed<mf::Policies<mf::ExpertChoice>> few(s, bounded);
  auto const experts = few.experts(true);
  BOOST_TEST(experts.size() == 90u * 3);
  BOOST_TEST(std::ranges::count(experts, -1) < 90 * 3 - 90);
}

BOOST_AUTO_TEST_CASE(documents_choose_within_their_pools) {
  using Policies = mf::Policies<mf::DocumentPool, mf::ExactSwitchLoss>;
  Policies policies;
  policies.selection.smallest = 2;
  policies.selection.largest = 4;
  Sizes const s{90, 4, 7, 2};
  Routed<Policies> routed(s, policies);
  std::vector<mf::Sequence> const documents{{0, 1, 0, 1}, {1, 50, 1, 50}, {51, 39, 51, 39}};
  auto pass = routed.test.pass(true);
  pass.documents = {documents.data(), {3}};
  auto const context = routed.forward(pass);
  auto const all = Routed<Policies>(s).experts();
  for (auto const& d : documents) {
    std::set<mf::ExpertId> used, allowed;
    for (Index t = d.query_begin; t < d.query_begin + d.query_count; ++t) {
      double sum = 0;
      for (Index e = 0; e < s.e; ++e) {
        sum += context.choice.probabilities(t, e);
        if (context.choice.probabilities(t, e) > 0) allowed.insert(static_cast<mf::ExpertId>(e));
      }
      BOOST_TEST(std::abs(sum - 1) < 1e-12);
      for (Index k = 0; k < s.k; ++k) used.insert(context.choice.experts(t, k));
    }
    BOOST_TEST((allowed.size() >= 2 && allowed.size() <= 4));
    BOOST_TEST(std::ranges::includes(allowed, used));
  }
  // Without documents, and in evaluation, all experts are there.
  BOOST_TEST((routed.experts(true) == all));
  routed.documents = pass.documents;
  BOOST_TEST((routed.experts(false) == all));
  BOOST_TEST((routed.experts(true) != all));
}

BOOST_AUTO_TEST_CASE(gradients_within_pools) {
  std::vector<mf::Sequence> const documents{{0, 1, 0, 1}, {1, 20, 1, 20}, {21, 19, 21, 19}};
  auto check = [&]<class Policies>(Policies policies) {
    policies.selection.evaluation_size = 3;
    Routed<Policies> routed({40, 4, 7, 2}, policies);
    routed.documents = {documents.data(), {3}};
    routed.check();
  };
  check(mf::Policies<mf::DocumentPool>{});
  check(mf::Policies<mf::DocumentPool, mf::RouterZLoss, mf::NormalisedSigmoidGates>{});
}

BOOST_AUTO_TEST_CASE(pools_that_do_not_fit_are_refused) {
  mf::Policies<mf::DocumentPool> policies;
  policies.selection.smallest = 1;
  BOOST_CHECK_EXCEPTION(Routed<mf::Policies<mf::DocumentPool>>({9, 4, 7, 2}, policies), mf::Error, [](mf::Error const& error) {
    return std::string(error.what()) == "document_pool: smallest: expected 2 to 7 experts, or 0, found 1";
  });
}

BOOST_AUTO_TEST_CASE(gumbel_noise_is_for_training_and_of_its_scale) {
  Sizes const s{300, 4, 8, 2};
  auto const plain = Routed<mf::Policies<>>(s).experts();
  auto const differ = [&](std::vector<mf::ExpertId> const& found) {
    Index count = 0;
    for (std::size_t i = 0; i < plain.size(); ++i) count += found[i] != plain[i];
    return count;
  };
  auto const at_scale = [&](double scale, bool training) {
    mf::Policies<mf::GumbelTopK> policies;
    policies.selection.scale = scale;
    return differ(Routed<mf::Policies<mf::GumbelTopK>>(s, policies).experts(training));
  };
  BOOST_TEST(at_scale(1, false) == 0);
  BOOST_TEST(at_scale(0, true) == 0);
  BOOST_TEST(at_scale(0.05, true) > 0);
  BOOST_TEST(at_scale(0.05, true) < at_scale(2, true));
}

namespace {

template <class Policies>
Routed<Policies>& jittered(Routed<Policies>&& routed, double width) {
  routed.test.settings.router_jitter = width;
  routed.training = true;
  return routed;
}

}  // namespace

// The draws are the same in every forward of a step, so differences see them as constants.
BOOST_AUTO_TEST_CASE_TEMPLATE(gradients_of_every_router_under_jitter, R, Routers) {
  for (Sizes const s : all_sizes) jittered(Routed<mf::Policies<R>>(s), 0.3).check();
  jittered(Routed<mf::Policies<R, mf::RouterZLoss, mf::NormalisedSigmoidGates>>({65, 4, 6, 2}), 0.3).check();
}

BOOST_AUTO_TEST_CASE(jitter_multiplies_what_the_router_reads_in_training) {
  Sizes const s{90, 4, 6, 2};
  Routed<mf::Policies<>> plain(s), other(s);
  auto const expected = plain.gates();
  other.test.settings.router_jitter = 0.2;
  BOOST_TEST((other.gates(false) == expected));
  BOOST_TEST((other.gates(true) != expected));
  // The same router without jitter, of tokens that were multiplied before.
  mf::RandomKey const key{7, 3, static_cast<std::uint32_t>(mf::RandomSite::feed_forward_jitter)};
  for (std::size_t i = 0; i < plain.x.size(); ++i)
    plain.x[i] *= static_cast<double>(mf::Jitter{{}, 0.2f}.factor(mf::random_words(key, i / 4)[i % 4]));
  BOOST_TEST((other.gates(true) == plain.gates(true)));
}
