// SPDX-License-Identifier: MIT
#pragma once
// One policy of each role of routing, in a file of one's own: a router, a selection, gates and a loss. docs/policies.md
// explains them, custom_policy.cpp trains models with them.

#include <moduleformer/core/platform.hpp>
#include <moduleformer/routing/policies.hpp>

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

/// Experts in turn, whatever a token's logits: slot s of token t goes to expert (t K + s) mod E.
struct InTurn : mf::FixedSlots {
  using Role = mf::role::Selection;
  static constexpr std::string_view name = "in_turn";

  template <class Access>
  struct Parameters {};
  template <class Views, class Visitor>
  constexpr void visit_parameters(mf::Index, Views&, Visitor&) const {}

  /// What invoke() runs where the backend's memory can be read and written.
  struct Deal {
    mf::Matrix<mf::ExpertId> experts;
    mf::Index count;
    MODULEFORMER_HOST_DEVICE void operator()() const {
      for (mf::Index slot = 0; slot < experts.size(); ++slot) experts[slot] = static_cast<mf::ExpertId>(slot % count);
    }
  };

  /// Sets experts (N,K), different ones for a token.
  template <mf::Backend B, class S = typename B::Scalar, class A = typename B::Accumulator>
  void select(mf::Pass<B>& pass, mf::Index, Parameters<mf::Values<S>> const&, mf::RandomSite,
              mf::Matrix<A const> logits, mf::Matrix<A const>, mf::Matrix<mf::ExpertId> experts) const {
    invoke(pass.backend, Deal{experts, logits.extent(1)});
  }
};

/// Every chosen expert counts 1/K.
struct EvenGates {
  using Role = mf::role::Gating;
  static constexpr std::string_view name = "even";

  /// Sets choice.gates (N,K).
  template <mf::Backend B, class A = typename B::Accumulator>
  void forward(mf::Pass<B>& pass, mf::Matrix<A const>, mf::Choice<A> const& choice) const {
    auto const gates = choice.gates.reshape(choice.gates.size());
    fill(pass.backend, gates, A(1) / static_cast<A>(choice.gates.extent(1)));
  }

  /// Sets dlogits (N,E). The gates are constants; the routing loss has a gradient through the probabilities.
  template <mf::Backend B, class A = typename B::Accumulator>
  void backward(mf::Pass<B>& pass, mf::Choice<A> const& choice, mf::Matrix<A const> logits, mf::Matrix<A const>,
                mf::RoutingGradient loss, mf::Matrix<A> dlogits) const {
    loss.gate_sum = {};
    routing_backward(pass.backend, logits, choice.probabilities, choice.logsumexp, choice.experts,
                     mf::Matrix<A const>{}, loss, dlogits);
  }
};

/// L = sum_e (f_e - 1/E)^2 with f_e the mean probability of expert e.
struct SquaredImbalance {
  using Role = mf::role::RoutingLoss;
  static constexpr std::string_view name = "squared_imbalance";

  MODULEFORMER_HOST_DEVICE double value(mf::RoutingStatistics const& sums) const {
    double loss = 0;
    for (mf::Index e = 0; e < sums.experts(); ++e) loss += excess(sums, e) * excess(sums, e);
    return loss;
  }
  MODULEFORMER_HOST_DEVICE void gradient(mf::RoutingStatistics const& sums, double weight,
                                         mf::RoutingGradient& gradient) const {
    for (mf::Index e = 0; e < sums.experts(); ++e)
      gradient.probability_sum[e] += weight * 2 * excess(sums, e) / static_cast<double>(sums.tokens);
  }

 private:
  MODULEFORMER_HOST_DEVICE static double excess(mf::RoutingStatistics const& sums, mf::Index e) {
    return sums.probability_sum[e] / static_cast<double>(sums.tokens) - 1.0 / static_cast<double>(sums.experts());
  }
};
