// SPDX-License-Identifier: MIT
#pragma once
// What a stored training state must agree with: settings that are visited as copies, so that a writer
// stores them and a reader's value is compared instead of taken over. The settings of an optimizer or a
// schedule are one string, so that a state has the same keys whatever the kind.

#include <moduleformer/core/error.hpp>

#include <array>
#include <charconv>
#include <string>
#include <string_view>

namespace moduleformer::detail {

/// visit(key, copy of mine). Throws Error if the visitor brought another value (unless any value is welcome).
template <class Visitor, class T>
void visit_checked(Visitor& visit, std::string_view key, T const& mine, bool accept_other = false) {
  T stored = mine;
  visit(key, stored);
  if (!accept_other)
    expects(stored == mine, "stored training state: ", key, ": expected ", mine, " as in this run, found ", stored);
}

/// "name key=number ...", numbers with as many digits as tell them apart.
template <class T>
std::string describe(std::string_view name, T const& settings) {
  std::string text(name);
  if constexpr (requires { T::visit(settings, [](std::string_view, auto const&) {}); }) {
    T::visit(settings, [&text](std::string_view key, auto const& number) {
      std::array<char, 64> digits{};
      auto const end = std::to_chars(digits.data(), digits.data() + digits.size(), number).ptr;
      text.append(" ").append(key).append("=").append(digits.data(), end);
    });
  }
  return text;
}

}  // namespace moduleformer::detail
