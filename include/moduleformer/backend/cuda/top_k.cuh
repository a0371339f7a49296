// SPDX-License-Identifier: MIT
#pragma once
// A router's choice on the CUDA backend, the same as the CPU's (backend/cpu/top_k.hpp): top-k on the selection score
// (descending, ties to the lowest expert, NaN last), sampling without replacement from the same random words, the
// gates of the chosen, and the stable counting sort of slots by expert.

#include <moduleformer/backend/checks.hpp>
#include <moduleformer/backend/cuda/counting_sort.cuh>
#include <moduleformer/backend/cuda/cuda.cuh>
#include <moduleformer/backend/cuda/kernels/top_k.cuh>
#include <moduleformer/core/error.hpp>

#include <cstdint>
#include <limits>

namespace moduleformer {

namespace detail {

/// launch(ExpertRow<Items>) with the fewest items that hold a row, or the most.
template <class Launch>
void with_expert_row(Index tokens, Index experts, Launch launch) {
  if (experts <= 32) return launch(kernels::ExpertRow<1>{tokens, experts});
  if (experts <= 64) return launch(kernels::ExpertRow<2>{tokens, experts});
  if (experts <= 128) return launch(kernels::ExpertRow<4>{tokens, experts});
  return launch(kernels::ExpertRow<kernels::most_items>{tokens, experts});
}

/// Blocks of a kernel in which a warp has a token.
template <int Items>
constexpr Index token_blocks(kernels::ExpertRow<Items> const& row) {
  return ceil_divide(row.tokens, kernels::ExpertRow<Items>::warps);
}

}  // namespace detail

/// ids (N,K): the experts of the K largest logits (N,E) of each token.
template <CudaScalar S, class P>
void top_k(CudaBackend<S, P>& backend, Arg<Matrix<float const>> logits, Matrix<ExpertId> ids) {
  Index const tokens = logits.extent(0), experts = logits.extent(1), chosen = ids.extent(1);
  detail::expect_extents("top_k", "ids", ids, tokens, chosen);
  expects(chosen <= experts, "top_k: cannot choose ", chosen, " of ", experts, " experts");
  detail::with_expert_row(tokens, experts, [&]<int Items>(kernels::ExpertRow<Items> row) {
    backend.launch(kernels::TopK<Items>{row, logits.data(), ids.data(), chosen}, detail::token_blocks(row));
  });
}

/// ids (N,K): the first K - sampled by logits, then `sampled` drawn without replacement with probability
/// proportional to probs + 1e-6 among the experts not yet chosen.
template <CudaScalar S, class P>
void sampled_top_k(CudaBackend<S, P>& backend, Arg<Matrix<float const>> logits, Arg<Matrix<float const>> probs,
                   Index sampled, RandomSource random, Matrix<ExpertId> ids) {
  Index const tokens = logits.extent(0), experts = logits.extent(1), chosen = ids.extent(1);
  detail::expect_extents("sampled_top_k", "probs", probs, tokens, experts);
  detail::expect_extents("sampled_top_k", "ids", ids, tokens, chosen);
  expects(chosen <= experts, "sampled_top_k: cannot choose ", chosen, " of ", experts, " experts");
  expects(sampled >= 0 && sampled <= chosen, "sampled_top_k: cannot draw ", sampled, " of ", chosen, " slots");
  detail::with_expert_row(tokens, experts, [&]<int Items>(kernels::ExpertRow<Items> row) {
    backend.launch(kernels::SampledTopK<Items>{row, logits.data(), probs.data(), ids.data(), chosen, sampled, random},
                   detail::token_blocks(row));
  });
}

/// out (N,K): out_ts = x_t,ids_ts; 0 where ids_ts < 0.
template <CudaScalar S, class P>
void gather_columns(CudaBackend<S, P>& backend, Arg<Matrix<float const>> x, Matrix<ExpertId const> ids,
                    Arg<Matrix<float>> out) {
  detail::expect_extents("gather_columns", "ids", ids, x.extent(0), out.extent(1));
  detail::expect_extents("gather_columns", "out", out, x.extent(0), ids.extent(1));
  using Kernel = kernels::GatherColumns;
  backend.launch(Kernel{x.data(), ids.data(), out.data(), out.size(), out.extent(1), x.extent(1)},
                 detail::ceil_divide(out.size(), Kernel::threads));
}

/// order (P): the slots sorted by expert, equal ones in their old order; offsets (E+1): where each
/// expert's begin. With some_empty, slots without expert (id -1) stand behind those of all experts. Ids are not checked.
template <CudaScalar S, class P>
void sort_by_expert(CudaBackend<S, P>& backend, Vector<ExpertId const> expert, Index experts,
                    Vector<std::int32_t> order, Vector<Index> offsets, bool some_empty = false) {
  Index const slots = expert.extent(0);
  expects(order.extent(0) == slots, "sort_by_expert: expected order of ", slots, ", found ", order.extent(0));
  expects(offsets.extent(0) == experts + 1, "sort_by_expert: expected offsets of ", experts + 1, ", found ",
          offsets.extent(0));
  expects(slots <= std::numeric_limits<std::int32_t>::max(), "sort_by_expert: too many slots: ", slots);
  // The bits of -1 are the largest key.
  detail::sort_by_key(backend, expert, some_empty ? experts + 1 : experts, order, offsets);
}

}  // namespace moduleformer
