// SPDX-License-Identifier: MIT
#pragma once
// The attention matrix of one sequence on the CUDA backend, for observation and as a check of the blocked kernels.

#include <moduleformer/backend/backend.hpp>
#include <moduleformer/backend/checks.hpp>
#include <moduleformer/backend/cuda/cuda.cuh>
#include <moduleformer/backend/cuda/kernels/stick_breaking_weights.cuh>
#include <moduleformer/core/error.hpp>

namespace moduleformer {

/// weights (K,H,T,S) of the sequence: query t of slot s and head h on key j; 0 where j is not visible.
template <CudaScalar S, class P>
void stick_breaking_weights(CudaBackend<S, P>& backend, StickBreakingVariant variant, AttentionExtents extents,
                            Sequence sequence, Arg<Matrix<S const>> q, Arg<Matrix<S const>> k,
                            Arg<TensorView<float, 4>> weights) {
  constexpr char const* where = "stick_breaking_weights";
  detail::expect_attention<S>(where, extents, q, k, k);
  detail::expect_sequence(where, extents, sequence, q.extent(0), k.extent(0));
  Index const slots = extents.rows_per_token, heads = extents.heads;
  Index const queries = sequence.query_count, keys = sequence.key_count;
  expects(weights.extents() == TensorView<float, 4>::Extents{slots, heads, queries, keys}, where,
          ": expected weights of ", slots, " x ", heads, " x ", queries, " x ", keys);
  using Kernel = kernels::StickBreakingWeights<S>;
  backend.launch(Kernel{sequence, extents, variant.inclusive, q.data(), k.data(), weights.data()},
                 detail::ceil_divide(slots * heads * queries, Kernel::threads / 32));
}

}  // namespace moduleformer
