// SPDX-License-Identifier: MIT
#pragma once
// AnyOf<Choices...>: a policy that is one of several, chosen at run time. It is visited once per layer
// call, never per element. Helpers here treat static and dynamic policies alike.

#include <moduleformer/core/policy.hpp>

#include <string>
#include <string_view>
#include <tuple>
#include <type_traits>
#include <utility>
#include <variant>

namespace moduleformer {

/// Holds one of the choices; the first by default. All have the same role.
template <Policy... Choices>
struct AnyOf {
  using Role = typename std::tuple_element_t<0, std::tuple<Choices...>>::Role;
  static_assert((std::same_as<Role, typename Choices::Role> && ...), "moduleformer: the choices of AnyOf must share one role");
  static constexpr std::string_view name = "any";
  std::variant<Choices...> choice{};

  AnyOf() = default;
  template <class C>
    requires(std::same_as<C, Choices> || ...)
  AnyOf(C one) : choice(std::move(one)) {}
};

namespace detail {
template <class P>
inline constexpr bool is_any_of = false;
template <class... Choices>
inline constexpr bool is_any_of<AnyOf<Choices...>> = true;
}  // namespace detail

/// Calls f with the concrete policy.
template <class P, class F>
constexpr decltype(auto) with_policy(P& policy, F&& f) {
  if constexpr (requires { policy.choice; }) return std::visit(std::forward<F>(f), policy.choice);
  else return std::forward<F>(f)(policy);
}

/// The concrete policy's name.
template <class P>
std::string_view policy_name(P const& policy) {
  return with_policy(policy, []<class C>(C const&) { return std::string_view(C::name); });
}

/// Makes a dynamic policy the choice of that name; a static one answers whether it has that name.
template <class P>
bool choose_policy(P& policy, std::string_view name) {
  if constexpr (requires { policy.choice; }) {
    auto const pick = [&]<class... Choices>(std::variant<Choices...>& choice) {
      return ((Choices::name == name && (choice = Choices{}, true)) || ...);
    };
    return pick(policy.choice);
  } else {
    return P::name == name;
  }
}

/// The names a policy can have, separated by ", ".
template <class P>
std::string policy_choices(P const& policy) {
  std::string names;
  if constexpr (requires { policy.choice; }) {
    auto const list = [&]<class... Choices>(std::variant<Choices...> const&) {
      ((names += (names.empty() ? "" : ", ") + std::string(Choices::name)), ...);
    };
    list(policy.choice);
  } else {
    names = std::string(P::name);
  }
  return names;
}

/// number = value, if it can hold that; none is infinite, which no config.json could say.
template <class Number>
constexpr bool set_policy_number(Number& number, double value) {
  if (!(value - value == 0)) return false;
  if constexpr (std::is_integral_v<Number>)
    if (!(value >= -0x1p53 && value <= 0x1p53)) return false;
  Number const changed = static_cast<Number>(value);
  if (!(static_cast<double>(changed) == value)) return false;
  number = changed;
  return true;
}

/// Calls visit("key", member) for each number of the concrete policy, if it has any.
template <class P, class Visitor>
void visit_policy_numbers(P& policy, Visitor&& visit) {
  with_policy(policy, [&](auto& concrete) {
    if constexpr (requires { concrete.visit(concrete, visit); }) concrete.visit(concrete, visit);
  });
}

}  // namespace moduleformer
