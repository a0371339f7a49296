// SPDX-License-Identifier: MIT
#pragma once
// Roles of policies. A policy is a type with a Role, a name (as in config.json) and, if it has
// numbers to set, a visitor over them: visit(v) calls v("key", member) for each.

#include <concepts>
#include <string_view>

namespace moduleformer {

namespace role {
struct Attention {};      // how queries weigh keys
struct Activation {};     // between the two matrices of a feed-forward expert
struct Router {};         // logits over experts
struct Selection {};      // which experts, from the logits
struct Gating {};         // their gates
struct SharedExperts {};  // which experts serve every token
struct RoutingLoss {};    // auxiliary loss of one router
struct StatisticsSpan {}; // over what its statistics run
struct Norm {};           // before attention, feed-forward and head
struct Checkpointing {};  // what forward keeps for backward
}  // namespace role

template <class P>
concept Policy = requires {
  typename P::Role;
  { P::name } -> std::convertible_to<std::string_view>;
};

namespace detail {

template <class Role, class Default, class... Candidates>
struct FindPolicy {
  using Type = Default;
};
template <class Role, class Default, class First, class... Rest>
struct FindPolicy<Role, Default, First, Rest...> {
  using Type = typename FindPolicy<Role, Default, Rest...>::Type;
};
template <class Role, class Default, class First, class... Rest>
  requires std::same_as<typename First::Role, Role>
struct FindPolicy<Role, Default, First, Rest...> {
  using Type = First;
};

}  // namespace detail

/// The first candidate with the role, or the default.
template <class Role, class Default, class... Candidates>
using find_policy = typename detail::FindPolicy<Role, Default, Candidates...>::Type;

}  // namespace moduleformer
