// SPDX-License-Identifier: MIT
#pragma once
// How routing kernels share a token's experts: a warp has a token, and walks its row in chunks of 32 Items
// experts, of which lane l has l, l + 32, ... One chunk stays in registers; more than 256 experts are several
// chunks, which each pass over the row loads again.

#include <moduleformer/core/platform.hpp>
#include <moduleformer/core/types.hpp>

namespace moduleformer::kernels {

/// Items of the widest chunk: Items is 1, 2, 4, or this and any number of experts.
inline constexpr int most_items = 8;

template <int Items>
struct ExpertRow {
  static constexpr int warps = 8;  // of a block
  static constexpr Index chunk = Index{32} * Items;

  Index tokens = 0;
  Index experts = 0;

  template <class Thread>
  [[nodiscard]] MODULEFORMER_DEVICE static Index token(Thread const& thread) {
    return thread.block() * warps + thread.warp();
  }
  /// Whether a row has more than one chunk, so that registers do not keep it.
  [[nodiscard]] MODULEFORMER_HOST_DEVICE bool is_long() const { return Items == most_items && experts > chunk; }

  /// f(first) for each chunk of a row.
  template <class F>
  MODULEFORMER_DEVICE void for_chunks(F f) const {
    if constexpr (Items == most_items) {
      for (Index first = 0; first < experts; first += chunk) f(first);
    } else {
      f(Index{0});
    }
  }

  /// f(i, expert) for each of the lane's experts of a chunk; i < Items is known when compiled.
  template <class Thread, class F>
  MODULEFORMER_DEVICE void for_experts(Thread const& thread, Index first, F f) const {
    MODULEFORMER_UNROLL
    for (int i = 0; i < Items; ++i) {
      Index const e = first + 32 * i + thread.lane();
      if (e < experts) f(i, e);
    }
  }
};

}  // namespace moduleformer::kernels
