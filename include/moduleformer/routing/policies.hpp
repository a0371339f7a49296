// SPDX-License-Identifier: MIT
#pragma once
// Policies<...>: a model's choices, one per role, given in any order; what is not named is the
// published model's. Names of policies are those of config.json.

#include <moduleformer/core/dynamic_policy.hpp>
#include <moduleformer/core/error.hpp>
#include <moduleformer/nn/layer_norm.hpp>
#include <moduleformer/routing/attention.hpp>
#include <moduleformer/routing/dynamic_policies.hpp>
#include <moduleformer/routing/feed_forward.hpp>
#include <moduleformer/routing/statistics_span.hpp>

#include <concepts>
#include <string_view>

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

namespace detail {

/// Whether Role is one that a model has.
template <class Role>
inline constexpr bool is_model_role =
    std::same_as<Role, role::Attention> || std::same_as<Role, role::Activation> || std::same_as<Role, role::Router> ||
    std::same_as<Role, role::Selection> || std::same_as<Role, role::Gating> ||
    std::same_as<Role, role::SharedExperts> || std::same_as<Role, role::RoutingLoss> ||
    std::same_as<Role, role::StatisticsSpan> || std::same_as<Role, role::Norm> ||
    std::same_as<Role, role::Checkpointing>;

template <class Role, class... Chosen>
inline constexpr int count_of_role = (0 + ... + static_cast<int>(std::same_as<Role, typename Chosen::Role>));

/// Statistics that nothing reads.
template <class Loss, class Statistics>
inline constexpr bool lacks_loss = std::same_as<Loss, NoRoutingLoss> &&
                                   (std::same_as<Statistics, StreamingStatistics> ||
                                    std::same_as<Statistics, WholeBatchStatistics>);
/// Router-z depends on no counts and not on p(e).
template <class Loss, class Statistics>
inline constexpr bool streams_nothing = std::same_as<Loss, RouterZLoss>&& std::same_as<Statistics, StreamingStatistics>;

/// Expert choice gives every expert the same count.
template <class Selection, class Loss>
inline constexpr bool counts_are_equal =
    std::same_as<Selection, ExpertChoice> &&
    (std::same_as<Loss, LoadLoss> || std::same_as<Loss, SwitchLoss> || std::same_as<Loss, ExactSwitchLoss>);
// Of a sum with types fixed; its weights are looked at by check_policies.
template <class... Losses, class Statistics>
inline constexpr bool lacks_loss<WeightedSum<Losses...>, Statistics> = (lacks_loss<Losses, Statistics> && ...);
template <class... Losses, class Statistics>
inline constexpr bool streams_nothing<WeightedSum<Losses...>, Statistics> = (streams_nothing<Losses, Statistics> &&
                                                                             ...);
template <class Selection, class... Losses>
inline constexpr bool counts_are_equal<Selection, WeightedSum<Losses...>> = (counts_are_equal<Selection, Losses> ||
                                                                             ...);

/// Whether the gate of the only one chosen of several is 1 whatever the logits.
template <class Selection, class Gating>
constexpr bool gate_is_constant(Index top_k, Index experts) {
  // Where slots may stay empty, the number of a token's experts varies.
  if constexpr (requires { requires Gating::sums_to_one && !Selection::leaves_empty(true); })
    return top_k == 1 && experts > 1;
  else return false;
}

}  // namespace detail

template <class... Chosen>
struct Policies {
  using Attention = find_policy<role::Attention, InclusiveAttention, Chosen...>;
  using Activation = find_policy<role::Activation, GeluTanh, Chosen...>;
  using Router = find_policy<role::Router, MlpRouter, Chosen...>;
  using Selection = find_policy<role::Selection, TopK, Chosen...>;
  using Gating = find_policy<role::Gating, SoftmaxGates, Chosen...>;
  using SharedExperts = find_policy<role::SharedExperts, NoSharedExperts, Chosen...>;
  using RoutingLoss = find_policy<role::RoutingLoss, MutualInformationLoss, Chosen...>;
  using Statistics = find_policy<role::StatisticsSpan, MicroBatchStatistics, Chosen...>;
  using Norm = find_policy<role::Norm, LayerNorm, Chosen...>;
  using Checkpointing = find_policy<role::Checkpointing, KeepActivations, Chosen...>;

  static_assert((Policy<Chosen> && ...), "moduleformer: every argument of Policies needs a Role and a name");
  static_assert((detail::is_model_role<typename Chosen::Role> && ...),
                "moduleformer: Policies was given a policy whose role no model has");
  static_assert(((detail::count_of_role<typename Chosen::Role, Chosen...> == 1) && ...),
                "moduleformer: Policies was given two policies of one role");
  static_assert(!detail::lacks_loss<RoutingLoss, Statistics>,
                "moduleformer: statistics over more than a micro-batch need a routing loss that reads them");
  static_assert(!detail::streams_nothing<RoutingLoss, Statistics>,
                "moduleformer: router-z is a mean over tokens, streaming statistics change nothing in it");
  static_assert(
      !detail::counts_are_equal<Selection, RoutingLoss>,
      "moduleformer: expert choice gives every expert the same load, a loss of the load has nothing to even out");

  Attention attention{};
  Activation activation{};
  Router router{};
  Selection selection{};
  Gating gating{};
  SharedExperts shared_experts{};
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
    visit("shared_experts", self.shared_experts);
    visit("aux_loss_type", self.routing_loss);
    visit("statistics", self.statistics);
    visit("norm", self.norm);
  }
};

/// Throws Error for choices made at run time that Policies refuses at compile time, and for infinite numbers of policies.
template <class PolicySet>
void check_policies(PolicySet const& policies) {
  PolicySet::visit(policies, [](std::string_view role, auto const& policy) {
    visit_policy_numbers(policy, [&](std::string_view key, auto const& number) {
      auto const value = static_cast<double>(number);
      expects(value - value == 0, role, ": ", policy_name(policy), ": ", key, ": expected a finite number, found ",
              value);
    });
  });
  with_policy(policies.routing_loss, [&]<class Choice>(Choice const& choice) {
    bool weighted = false;
    for_each_loss(choice, [&](auto const&) { weighted = true; });
    expects(weighted, "aux_loss_type: ", Choice::name, ": expected a weight that is not 0, found none");
    with_policy(policies.selection, [&]<class Selection>(Selection const&) {
      for_each_loss(choice, []<class Loss>(Loss const& loss) {
        if constexpr (requires { loss.check(); }) loss.check();
        expects(!detail::counts_are_equal<Selection, Loss>, "selection: ", Selection::name,
                " gives every expert the same load, aux_loss_type ", Loss::name, " has nothing to even out");
      });
    });
    with_policy(policies.statistics, [&]<class Statistics>(Statistics const&) {
      bool none = true, streams = false;
      for_each_loss(choice, [&]<class Loss>(Loss const&) {
        none = none && detail::lacks_loss<Loss, Statistics>;
        streams = streams || !detail::streams_nothing<Loss, Statistics>;
      });
      expects(!none || !detail::lacks_loss<NoRoutingLoss, Statistics>, "statistics: ", Statistics::name,
              " needs a routing loss that reads them, found aux_loss_type ", Choice::name);
      expects(streams || none, "statistics: ", Statistics::name,
              " changes nothing in aux_loss_type router_z, a mean over tokens");
    });
  });
}

/// The same for a layer's gates; `key` names its top_k in a message.
template <class PolicySet>
void check_gates(PolicySet const& policies, std::string_view key, Index top_k, Index experts) {
  with_policy(policies.selection, [&]<class Selection>(Selection const& selection) {
    with_policy(policies.gating, [&]<class Gating>(Gating const&) {
      expects(!detail::gate_is_constant<Selection, Gating>(top_k, experts), "gating: ", Gating::name,
              " gives gates that sum to 1, and ", key, " leaves one expert to choose: the router would learn nothing");
      // Where slots may stay empty, there may still be but one.
      expects(!detail::gate_is_constant<TopK, Gating>(selection.slots(top_k, experts, true), experts), "gating: ",
              Gating::name, " gives gates that sum to 1, and selection ", Selection::name,
              " gives a token one expert at most: the router would learn nothing");
    });
  });
}

/// Recomputation chosen at run time.
struct AnyCheckpointing {
  using Role = role::Checkpointing;
  static constexpr std::string_view name = "any";
  bool recompute_blocks = false;
  [[nodiscard]] constexpr bool recompute() const { return recompute_blocks; }
};

/// All of the library's own policies, chosen at run time: what loading an unknown folder needs.
using dynamic_policies =
    Policies<AnyAttention<InclusiveAttention, InclusiveRemainderAttention, StrictAttention, StrictRemainderAttention>,
             AnyOf<GeluTanh, Gelu, Relu, Silu, Tanh>, AnyRouter<MlpRouter, MlpReluRouter, LinearRouter, GmmRouter>,
             AnySelection<TopK, GumbelTopK, BiasedTopK, ExpertChoice, DocumentPool>,
             AnyOf<SoftmaxGates, TopKSoftmaxGates, SigmoidGates, NormalisedSigmoidGates>,
             AnyRoutingLoss<MutualInformationLoss, LoadConcentrationLoss, SwitchLoss, ExactSwitchLoss, RouterZLoss,
                            ImportanceLoss, LoadLoss, NoRoutingLoss,
                            WeightedSum<MutualInformationLoss, LoadConcentrationLoss, SwitchLoss, RouterZLoss,
                                        ImportanceLoss, LoadLoss>>,
             AnyOf<NoSharedExperts, SharedExperts<>>,
             AnyOf<MicroBatchStatistics, StreamingStatistics, WholeBatchStatistics>, AnyCheckpointing>;

}  // namespace moduleformer
