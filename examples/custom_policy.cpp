// SPDX-License-Identifier: MIT
// A router and a routing loss of one's own, in one's own file, as template arguments of a model. Trains it and
// the published choices for some steps on this source and compares loss and balance. Returns 1 if one did not learn.
#include <moduleformer/moduleformer.hpp>

#include <algorithm>
#include <exception>
#include <iostream>
#include <string_view>

namespace mf = moduleformer;

/// logits = W x + b.
struct BiasedRouter {
  using Role = mf::role::Router;
  static constexpr std::string_view name = "biased";

  template <class Access>
  struct Parameters {
    typename Access::template View<2> weight;  // (E,D)
    typename Access::template View<1> bias;    // (E)
  };
  template <class B>
  struct Context {};  // backward needs nothing beside x

  template <class Views, class Visitor>
  constexpr void visit_parameters(mf::RouterExtents extents, Views& p, Visitor& visit) const {
    visit("weight", p.weight, mf::Initial::normal, extents.experts, extents.hidden_size);
    visit("bias", p.bias, mf::Initial::zero, extents.experts);
  }

  template <mf::Backend B, class S = typename B::Scalar, class A = typename B::Accumulator>
  Context<B> forward(mf::Pass<B>& pass, mf::RouterExtents, Parameters<mf::Values<S>> const& p, mf::Matrix<S const> x,
                     mf::Matrix<A> logits) const {
    linear(pass.backend, x, p.weight, p.bias, logits);
    return {};
  }

  /// Sets dx, adds to the gradients.
  template <mf::Backend B, class S = typename B::Scalar, class A = typename B::Accumulator>
  void backward(mf::Pass<B>& pass, mf::RouterExtents, Parameters<mf::Values<S>> const& p,
                Parameters<mf::Gradients<A>> const& gradients, Context<B> const&, mf::Matrix<S const> x,
                mf::Matrix<A const> dlogits, mf::Matrix<S> dx) const {
    auto const scratch = pass.scope();
    mf::Matrix<S const> const d = pass.as_scalar(dlogits);
    linear_input_gradient(pass.backend, d, p.weight, dx, /*add=*/false);
    if (gradients.weight) linear_weight_gradient(pass.backend, d, x, gradients.weight.first, gradients.weight);
    if (gradients.bias) bias_gradient(pass.backend, d, gradients.bias.first, gradients.bias);
  }
};

/// L = sum_e (f_e - 1/E)^2 with f_e the mean probability of expert e.
struct SquaredImbalance {
  using Role = mf::role::RoutingLoss;
  static constexpr std::string_view name = "squared_imbalance";

  double value(mf::RoutingStatistics const& sums) const {
    double loss = 0;
    for (mf::Index e = 0; e < sums.experts(); ++e) loss += excess(sums, e) * excess(sums, e);
    return loss;
  }
  void gradient(mf::RoutingStatistics const& sums, double weight, mf::RoutingGradient& gradient) const {
    for (mf::Index e = 0; e < sums.experts(); ++e)
      gradient.probability_sum[e] += weight * 2 * excess(sums, e) / static_cast<double>(sums.tokens);
  }

 private:
  static double excess(mf::RoutingStatistics const& sums, mf::Index e) {
    return sums.probability_sum[e] / static_cast<double>(sums.tokens) - 1.0 / static_cast<double>(sums.experts());
  }
};

constexpr mf::Shape shape{
    .vocab_size = 256, .hidden_size = 64, .layers = 2, .router_hidden_size = 32,
    .attention    = {.experts = 4, .top_k = 2, .heads = 2, .hidden_size = 64},
    .feed_forward = {.experts = 8, .top_k = 2, .hidden_size = 128},
};
using Published = mf::CausalLM<shape>;
using Custom = mf::CausalLM<shape, mf::Policies<BiasedRouter, SquaredImbalance>>;

/// Trains a fresh model; whether its loss fell.
template <class Model>
bool train(std::string_view what, double loss_weight) {
  constexpr mf::Index steps = 80;
  auto model = Model::random(1, {.aux_loss_weight = loss_weight});
  mf::Trainer trainer{model, mf::AdamW{.learning_rate = 5e-3}, mf::WarmupCosine{.warmup = 10, .total = steps}};
  mf::ByteBatches const batches{__FILE__, {.rows = 4, .tokens = 64, .steps = steps, .seed = 1, .held_out = 0.1}};
  double first = 0, last = 0;
  for (auto const& batch : batches) {
    mf::StepReport const report = trainer.step(batch);
    if (report.step == 1) first = report.task;
    last = report.task;
  }
  mf::Session session{model};
  auto const evaluation = mf::evaluate(model, session, batches.held_out());
  std::cout << what << ": loss " << first << " -> " << last << ", busiest expert of each router:";
  for (auto const& router : evaluation.routers) std::cout << ' ' << *std::ranges::max_element(router.load);
  std::cout << '\n';
  return last < 0.7 * first;
}

int main() {
  try {
    bool const published = train<Published>("published", 1e-3), custom = train<Custom>("custom", 1);
    return published && custom ? 0 : 1;
  } catch (std::exception const& error) {
    std::cerr << "custom_policy: " << error.what() << '\n';
    return 1;
  }
}
