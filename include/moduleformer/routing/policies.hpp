// SPDX-License-Identifier: MIT
#pragma once
// Policies<...>: a model's choices, one per role, given in any order; what is not named is the
// published model's. Names of policies are those of config.json.

#include <moduleformer/core/dynamic_policy.hpp>
#include <moduleformer/nn/layer_norm.hpp>
#include <moduleformer/routing/attention.hpp>
#include <moduleformer/routing/dynamic_policies.hpp>
#include <moduleformer/routing/feed_forward.hpp>

namespace moduleformer {

/// Forward keeps every activation that backward needs.
struct KeepActivations {
  using Role = role::Checkpointing;
  static constexpr std::string_view name = "keep";
  [[nodiscard]] constexpr bool recompute() const { return false; }
};

/// Forward keeps each block's input and chosen experts; backward computes the block again, with the
/// same experts (Chen et al., arXiv 1604.06174).
struct RecomputeBlocks {
  using Role = role::Checkpointing;
  static constexpr std::string_view name = "recompute";
  [[nodiscard]] constexpr bool recompute() const { return true; }
};

template <class... Chosen>
struct Policies {
  using Attention = find_policy<role::Attention, InclusiveAttention, Chosen...>;
  using Activation = find_policy<role::Activation, GeluTanh, Chosen...>;
  using Router = find_policy<role::Router, MlpRouter, Chosen...>;
  using Selection = find_policy<role::Selection, TopK, Chosen...>;
  using Gating = find_policy<role::Gating, SoftmaxGates, Chosen...>;
  using RoutingLoss = find_policy<role::RoutingLoss, MutualInformationLoss, Chosen...>;
  using Statistics = find_policy<role::StatisticsSpan, MicroBatchStatistics, Chosen...>;
  using Norm = find_policy<role::Norm, LayerNorm, Chosen...>;
  using Checkpointing = find_policy<role::Checkpointing, KeepActivations, Chosen...>;

  static_assert((Policy<Chosen> && ...), "moduleformer: every argument of Policies needs a Role and a name");
  static_assert(((std::same_as<Chosen, Attention> || std::same_as<Chosen, Activation> || std::same_as<Chosen, Router> ||
                  std::same_as<Chosen, Selection> || std::same_as<Chosen, Gating> || std::same_as<Chosen, RoutingLoss> ||
                  std::same_as<Chosen, Statistics> || std::same_as<Chosen, Norm> ||
                  std::same_as<Chosen, Checkpointing>) &&
                 ...),
                "moduleformer: Policies was given two policies of one role");

  static_assert(!std::same_as<RoutingLoss, NoRoutingLoss> || std::same_as<Statistics, MicroBatchStatistics>,
                "moduleformer: statistics over more than a micro-batch need a routing loss that reads them");

  Attention attention{};
  Activation activation{};
  Router router{};
  Selection selection{};
  Gating gating{};
  RoutingLoss routing_loss{};
  Statistics statistics{};
  Norm norm{};
  Checkpointing checkpointing{};

  /// Calls visit("role", policy) for each.
  template <class Self, class Visitor>
  static constexpr void visit(Self& self, Visitor&& visit) {
    visit("attention", self.attention);
    visit("activation_function", self.activation);
    visit("gate_type", self.router);
    visit("selection", self.selection);
    visit("gating", self.gating);
    visit("aux_loss_type", self.routing_loss);
    visit("statistics", self.statistics);
    visit("norm", self.norm);
  }
};

/// Recomputation chosen at run time.
struct AnyCheckpointing {
  using Role = role::Checkpointing;
  static constexpr std::string_view name = "any";
  bool recompute_blocks = false;
  [[nodiscard]] constexpr bool recompute() const { return recompute_blocks; }
};

/// All of the library's own policies, chosen at run time: what loading an unknown folder needs.
using dynamic_policies = Policies<
    AnyAttention<InclusiveAttention, InclusiveRemainderAttention, StrictAttention, StrictRemainderAttention>,
    AnyOf<GeluTanh, Gelu, Relu, Silu, Tanh>, AnyRouter<MlpRouter, MlpReluRouter, LinearRouter, GmmRouter>,
    AnySelection<TopK, GumbelTopK, BiasedTopK, ExpertChoice, DocumentPool>, AnyOf<SoftmaxGates, TopKSoftmaxGates, SigmoidGates, NormalisedSigmoidGates>,
    AnyRoutingLoss<MutualInformationLoss, LoadConcentrationLoss, SwitchLoss, ExactSwitchLoss, RouterZLoss, ImportanceLoss,
                   LoadLoss, NoRoutingLoss,
                   WeightedSum<MutualInformationLoss, LoadConcentrationLoss, SwitchLoss, RouterZLoss, ImportanceLoss,
                               LoadLoss>>,
    AnyOf<MicroBatchStatistics, StreamingStatistics, WholeBatchStatistics>, AnyCheckpointing>;

}  // namespace moduleformer
