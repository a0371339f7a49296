// SPDX-License-Identifier: MIT
#pragma once
// A router's choice on the CPU: top-k on the selection score (descending, ties to the lowest expert, NaN
// last), sampling without replacement, the gates of the chosen, and the stable counting sort of slots by
// expert. Sampling is Gumbel's: the n largest of log(p_e + 1e-6) - log(-log u_e), which order like
// (p_e + 1e-6) / (-log u_e), u_e = to_unit(first word of index token*E + e).

#include <moduleformer/backend/arguments.hpp>
#include <moduleformer/backend/cpu/cpu.hpp>
#include <moduleformer/core/error.hpp>
#include <moduleformer/core/math.hpp>
#include <moduleformer/core/random.hpp>

#include <algorithm>
#include <cstdint>
#include <limits>

namespace moduleformer {

namespace detail {

/// Tokens that one iteration of a parallel loop takes.
inline constexpr Index routing_tile = 64;

template <class A, class B>
void expect_matrix(char const* where, TensorView<A, 2> found, char const* what, TensorView<B, 2> like, Index columns) {
  expects(found.extent(0) == like.extent(0) && found.extent(1) == columns, where, ": expected ", what, " of ",
          like.extent(0), " x ", columns, ", found ", found.extent(0), " x ", found.extent(1));
}

/// Writes the `count` experts of largest value, descending, to ids; skip(e) leaves e out. Insertion:
/// a later expert passes only those with a strictly smaller value.
template <class Value, class Skip>
void keep_largest(Index experts, Index count, Value value, Skip skip, ExpertId* ids) {
  if (count == 0) return;
  Index kept = 0;
  for (Index e = 0; e < experts; ++e) {
    if (skip(e)) continue;
    auto const candidate = value(e);
    Index place = kept;
    while (place > 0 && candidate > value(ids[place - 1])) --place;
    if (place == count) continue;
    if (kept < count) ++kept;
    for (Index s = kept - 1; s > place; --s) ids[s] = ids[s - 1];
    ids[place] = static_cast<ExpertId>(e);
  }
}

/// NaN counts as the smallest score, so that the order is total and indices stay distinct.
template <Real S>
S score_or_lowest(S score) {
  return score == score ? score : -std::numeric_limits<S>::infinity();
}

template <Real S>
void largest_logits(Vector<S const> logits, Index count, ExpertId* ids) {
  keep_largest(
      logits.extent(0), count, [&](Index e) { return score_or_lowest(logits[e]); }, [](Index) { return false; }, ids);
}

}  // namespace detail

/// ids (N,K): the experts of the K largest logits (N,E) of each token.
template <Real S>
void top_k(Cpu<S>& backend, Arg<Matrix<S const>> logits, Matrix<ExpertId> ids) {
  Index const tokens = logits.extent(0), experts = logits.extent(1), chosen = ids.extent(1);
  detail::expect_matrix("top_k", ids, "ids", logits, chosen);
  expects(chosen <= experts, "top_k: cannot choose ", chosen, " of ", experts, " experts");
  Index const tiles = (tokens + detail::routing_tile - 1) / detail::routing_tile;
#pragma omp parallel for num_threads(backend.threads()) if (tiles > 1)
  for (Index tile = 0; tile < tiles; ++tile) {
    Index const end = std::min(tokens, (tile + 1) * detail::routing_tile);
    for (Index t = tile * detail::routing_tile; t < end; ++t)
      detail::largest_logits(logits.slice(t), chosen, ids.slice(t).data());
  }
}

/// ids (N,K): the first K - sampled by logits, then `sampled` ones drawn without replacement, in the
/// order of drawing, with probability proportional to probs + 1e-6 among the others.
template <Real S>
void sampled_top_k(Cpu<S>& backend, Arg<Matrix<S const>> logits, Arg<Matrix<S const>> probs, Index sampled,
                   RandomSource random, Matrix<ExpertId> ids) {
  Index const tokens = logits.extent(0), experts = logits.extent(1), chosen = ids.extent(1), fixed = chosen - sampled;
  detail::expect_matrix("sampled_top_k", probs, "probs", logits, experts);
  detail::expect_matrix("sampled_top_k", ids, "ids", logits, chosen);
  expects(chosen <= experts, "sampled_top_k: cannot choose ", chosen, " of ", experts, " experts");
  expects(sampled >= 0 && fixed >= 0, "sampled_top_k: cannot draw ", sampled, " of ", chosen, " slots");
  RandomKey const key = random.key();
  Scope const scope{backend.workspace()};
  auto const scratch = backend.workspace().template allocate<S>(backend.threads(), experts);
  Index const tiles = (tokens + detail::routing_tile - 1) / detail::routing_tile;
#pragma omp parallel for num_threads(backend.threads()) if (tiles > 1)
  for (Index tile = 0; tile < tiles; ++tile) {
    auto const race = scratch.slice(omp_get_thread_num());
    Index const end = std::min(tokens, (tile + 1) * detail::routing_tile);
    for (Index t = tile * detail::routing_tile; t < end; ++t) {
      ExpertId* const row = ids.slice(t).data();
      detail::largest_logits(logits.slice(t), fixed, row);
      for (Index e = 0; e < experts; ++e) {
        auto const words = random_words(key, static_cast<std::uint64_t>(t * experts + e));
        S const wait = -math::log(static_cast<S>(to_unit(words[0])));
        race[e] = detail::score_or_lowest((probs(t, e) + S(1e-6)) / wait);
      }
      for (Index s = 0; s < fixed; ++s) race[row[s]] = std::numeric_limits<S>::quiet_NaN();  // out of the race
      detail::keep_largest(
          experts, sampled, [&](Index e) { return race[e]; }, [&](Index e) { return race[e] != race[e]; }, row + fixed);
    }
  }
}

/// out (N,K): out_ts = x_t,ids_ts; 0 where ids_ts < 0.
template <Real S>
void gather_columns(Cpu<S>&, Arg<Matrix<S const>> x, Matrix<ExpertId const> ids, Arg<Matrix<S>> out) {
  detail::expect_matrix("gather_columns", ids, "ids", x, out.extent(1));
  detail::expect_matrix("gather_columns", out, "out", x, ids.extent(1));
  for (Index t = 0; t < out.extent(0); ++t)
    for (Index s = 0; s < out.extent(1); ++s) out(t, s) = ids(t, s) < 0 ? S(0) : x(t, ids(t, s));
}

/// order (P): the slots sorted by expert, equal ones in their old order; offsets (E+1): where each
/// expert's begin. With some_empty, slots without expert (id -1) stand nowhere: order has offsets[E] entries, the others
/// are not set. Throws Error for an id that is no expert.
template <Real S>
void sort_by_expert(Cpu<S>&, Vector<ExpertId const> expert, Index experts, Vector<std::int32_t> order,
                    Vector<Index> offsets, bool some_empty = false) {
  Index const slots = expert.extent(0);
  expects(order.extent(0) == slots, "sort_by_expert: expected order of ", slots, ", found ", order.extent(0));
  expects(offsets.extent(0) == experts + 1, "sort_by_expert: expected offsets of ", experts + 1, ", found ",
          offsets.extent(0));
  expects(slots <= std::numeric_limits<std::int32_t>::max(), "sort_by_expert: too many slots: ", slots);
  std::fill(offsets.begin(), offsets.end(), Index{0});
  auto const is_empty = [&](Index p) { return some_empty && expert[p] == -1; };
  for (Index p = 0; p < slots; ++p) {
    if (is_empty(p)) continue;
    expects(expert[p] >= 0 && expert[p] < experts, "sort_by_expert: slot ", p, ": expected an expert from 0 to ",
            experts - 1, ", found ", expert[p]);
    ++offsets[expert[p] + 1];
  }
  for (Index e = 0; e < experts; ++e) offsets[e + 1] += offsets[e];
  // offsets[e] moves from e's begin to its end, which is the next one's begin; then shift back.
  for (Index p = 0; p < slots; ++p)
    if (!is_empty(p)) order[offsets[expert[p]]++] = static_cast<std::int32_t>(p);
  for (Index e = experts; e > 0; --e) offsets[e] = offsets[e - 1];
  offsets[0] = 0;
}

}  // namespace moduleformer
