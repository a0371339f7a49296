// SPDX-License-Identifier: MIT
#pragma once
// What a stored training state must agree with: settings that are visited as copies, so that a writer
// stores them and a reader's value is compared instead of taken over.

#include <moduleformer/core/error.hpp>

#include <string_view>
#include <type_traits>

namespace moduleformer::detail {

/// visit(key, copy of mine). Throws Error if the visitor brought another value (unless any value is welcome).
template <class Visitor, class T>
void visit_checked(Visitor& visit, std::string_view key, T const& mine, bool accept_other = false) {
  T stored = mine;
  visit(key, stored);
  if (!accept_other)
    expects(stored == mine, "stored training state: ", key, ": expected ", mine, " as in this run, found ", stored);
}

}  // namespace moduleformer::detail
