// SPDX-License-Identifier: MIT
#pragma once
// Choosing experts, a warp per token. A score becomes a 32-bit key of the same order, key and expert a 64-bit rank
// in which the lower expert of equal scores is the larger one, so that ranks are distinct and each round of a
// choice is the largest rank below the last one. Sampling: Gumbel's race (p_e + 1e-6) / (-log u_e).

#include <moduleformer/backend/arguments.hpp>
#include <moduleformer/backend/cuda/kernels/routing_row.cuh>
#include <moduleformer/core/math.hpp>
#include <moduleformer/core/platform.hpp>
#include <moduleformer/core/random.hpp>

#include <bit>
#include <cstdint>

namespace moduleformer::kernels {

/// Orders like the score; NaN is -infinity, -0 is 0. No score has key 0.
MODULEFORMER_HOST_DEVICE inline std::uint32_t score_key(float score) {
  constexpr float lowest = -__builtin_huge_valf();
  float const number = score == score ? score : lowest;
  auto const bits = std::bit_cast<std::uint32_t>(number + 0.0f);
  return (bits >> 31) != 0 ? ~bits : bits | 0x80000000u;
}

MODULEFORMER_HOST_DEVICE inline std::uint64_t score_rank(std::uint32_t key, Index expert) {
  return std::uint64_t{key} << 32 | (0xffffffffu - static_cast<std::uint32_t>(expert));
}

MODULEFORMER_HOST_DEVICE inline ExpertId expert_of(std::uint64_t rank) {
  return static_cast<ExpertId>(0xffffffffu - static_cast<std::uint32_t>(rank));
}

/// The keys of one row, made by load(expert): once for a short row, in each round for a long one.
template <int Items, class Load>
struct RankedRow {
  ExpertRow<Items> row;
  Load load;
  std::uint32_t keys[Items] = {};

  template <class Thread>
  MODULEFORMER_DEVICE void load_chunk(Thread const& thread, Index first) {
    MODULEFORMER_UNROLL
    for (int i = 0; i < Items; ++i) keys[i] = 0;
    row.for_experts(thread, first, [&](int i, Index e) { keys[i] = load(e); });
  }

  /// Writes the `count` largest ranks below `last` to ids; returns the last of them.
  template <class Thread>
  MODULEFORMER_DEVICE std::uint64_t choose(Thread const& thread, Index count, std::uint64_t last, ExpertId* ids) {
    if (!row.is_long()) load_chunk(thread, 0);
    for (Index s = 0; s < count; ++s) {
      std::uint64_t best = 0;
      row.for_chunks([&](Index first) {
        if (row.is_long()) load_chunk(thread, first);
        MODULEFORMER_UNROLL
        for (int i = 0; i < Items; ++i) {
          std::uint64_t const rank = score_rank(keys[i], first + 32 * i + thread.lane());
          if (rank < last && rank > best) best = rank;
        }
      });
      auto const key = static_cast<std::uint32_t>(best >> 32);
      std::uint32_t const largest = thread.reduce_max(key);
      std::uint32_t const low = thread.reduce_max(key == largest ? static_cast<std::uint32_t>(best) : 0u);
      last = std::uint64_t{largest} << 32 | low;
      if (thread.lane() == 0) ids[s] = expert_of(last);
    }
    return last;
  }
};

inline constexpr std::uint64_t above_all_ranks = ~std::uint64_t{0};

/// ids (N,K) by logits (N,E).
template <int Items>
struct TopK {
  static constexpr int threads = 32 * ExpertRow<Items>::warps;
  ExpertRow<Items> row;
  float const* logits;
  ExpertId* ids;
  Index chosen;

  template <class Thread>
  MODULEFORMER_DEVICE void operator()(Thread const& thread) const {
    Index const t = row.token(thread);
    if (t >= row.tokens) return;
    auto const load = [logit = logits + t * row.experts](Index e) { return score_key(logit[e]); };
    RankedRow<Items, decltype(load)> ranked{row, load};
    (void)ranked.choose(thread, chosen, above_all_ranks, ids + t * chosen);
  }
};

/// ids (N,K): the first K - sampled by logits, the others by the race of those left.
template <int Items>
struct SampledTopK {
  static constexpr int threads = 32 * ExpertRow<Items>::warps;
  ExpertRow<Items> row;
  float const* logits;
  float const* probs;
  ExpertId* ids;
  Index chosen;
  Index sampled;
  RandomSource random;

  template <class Thread>
  MODULEFORMER_DEVICE void operator()(Thread const& thread) const {
    Index const t = row.token(thread), fixed = chosen - sampled;
    if (t >= row.tokens) return;
    RandomKey const key = random.key();
    float const* const logit = logits + t * row.experts;
    float const* const p = probs + t * row.experts;
    std::uint64_t last = above_all_ranks;
    if (fixed > 0) {
      auto const load = [logit](Index e) { return score_key(logit[e]); };
      RankedRow<Items, decltype(load)> ranked{row, load};
      last = ranked.choose(thread, fixed, last, ids + t * chosen);
    }
    auto const load = [=, this](Index e) -> std::uint32_t {
      // What was chosen by logits is what ranks at `last` or above.
      if (fixed > 0 && score_rank(score_key(logit[e]), e) >= last) return 0;
      auto const words = random_words(key, static_cast<std::uint64_t>(t * row.experts + e));
      float const wait = -math::log(to_unit(words[0]));
      return score_key((p[e] + 1e-6f) / wait);
    };
    RankedRow<Items, decltype(load)> ranked{row, load};
    (void)ranked.choose(thread, sampled, above_all_ranks, ids + t * chosen + fixed);
  }
};

/// out (N,K) = x[t, ids[t,s]], 0 for an id below 0; one slot a thread.
struct GatherColumns {
  static constexpr int threads = 256;
  float const* x;
  ExpertId const* ids;
  float* out;
  Index slots;
  Index chosen;
  Index width;

  template <class Thread>
  MODULEFORMER_DEVICE void operator()(Thread const& thread) const {
    Index const p = thread.block() * threads + thread.index();
    if (p < slots) out[p] = ids[p] < 0 ? 0.0f : x[p / chosen * width + ids[p]];
  }
};

}  // namespace moduleformer::kernels
