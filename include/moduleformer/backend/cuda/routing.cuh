// SPDX-License-Identifier: MIT
#pragma once
// Routing primitives of the CUDA backend: the row operations here, choosing and sorting in top_k.cuh, sums and
// gradients in routing_sums.cuh. Scores, probabilities and norms are float whatever activations are.

#include <moduleformer/backend/checks.hpp>
#include <moduleformer/backend/cuda/cuda.cuh>
#include <moduleformer/backend/cuda/kernels/routing.cuh>
#include <moduleformer/backend/cuda/routing_sums.cuh>
#include <moduleformer/backend/cuda/top_k.cuh>
#include <moduleformer/core/error.hpp>

namespace moduleformer {

/// probs (N,E) = softmax of the rows of logits; lse (N) = logsumexp (null: not wanted).
template <CudaScalar S, class P>
void softmax(CudaBackend<S, P>& backend, Arg<Matrix<float const>> logits, Arg<Matrix<float>> probs,
             Arg<Vector<float>> lse) {
  Index const tokens = logits.extent(0), experts = logits.extent(1);
  detail::expect_extents("softmax", "probs", probs, tokens, experts);
  expects(!lse || lse.extent(0) == tokens, "softmax: expected lse of ", tokens, ", found ", lse.extent(0));
  detail::with_expert_row(tokens, experts, [&]<int Items>(kernels::ExpertRow<Items> row) {
    backend.launch(kernels::Softmax<Items>{row, logits.data(), probs.data(), lse.data()}, detail::token_blocks(row));
  });
}

namespace detail {

/// launch(NormRows<S, Size>): 16 bytes at once where every row of the matrices begins at a multiple of that.
template <class S, class Launch, class... Pointers>
void with_norm_rows(Index rows, Index width, Launch launch, Pointers... matrices) {
  constexpr int size = kernels::pack_size<S>;
  if (width % size == 0 && kernels::may_pack<size>(matrices...)) return launch(kernels::NormRows<S, size>{rows, width});
  return launch(kernels::NormRows<S, 1>{rows, width});
}

}  // namespace detail

/// y = x / max(|x|, 1e-12) for each row of x (N,R); norms (N) = max(|x|, 1e-12). y may be x.
template <CudaScalar S, class P>
void normalise_rows(CudaBackend<S, P>& backend, Arg<Matrix<S const>> x, Arg<Matrix<S>> y, Arg<Vector<float>> norms) {
  Index const rows = x.extent(0), width = x.extent(1);
  detail::expect_extents("normalise_rows", "y", y, rows, width);
  expects(norms.extent(0) == rows, "normalise_rows: expected norms of ", rows, ", found ", norms.extent(0));
  auto const launch = [&]<int Size>(kernels::NormRows<S, Size> walk) {
    backend.launch(kernels::NormaliseRows<S, Size>{walk, x.data(), y.data(), norms.data()},
                   detail::ceil_divide(rows, walk.warps));
  };
  detail::with_norm_rows<S>(rows, width, launch, x.data(), y.data());
}

/// dx = (dy - y <y, dy>) / norm, or dy / 1e-12 where the norm was raised to that.
template <CudaScalar S, class P>
void normalise_rows_backward(CudaBackend<S, P>& backend, Arg<Matrix<S const>> dy, Arg<Matrix<S const>> y,
                             Arg<Vector<float const>> norms, Arg<Matrix<S>> dx) {
  Index const rows = y.extent(0), width = y.extent(1);
  detail::expect_extents("normalise_rows_backward", "dy", dy, rows, width);
  detail::expect_extents("normalise_rows_backward", "dx", dx, rows, width);
  expects(norms.extent(0) == rows, "normalise_rows_backward: expected norms of ", rows, ", found ", norms.extent(0));
  auto const launch = [&]<int Size>(kernels::NormRows<S, Size> walk) {
    backend.launch(kernels::NormaliseRowsBackward<S, Size>{walk, dy.data(), y.data(), norms.data(), dx.data()},
                   detail::ceil_divide(rows, walk.warps));
  };
  detail::with_norm_rows<S>(rows, width, launch, dy.data(), y.data(), dx.data());
}

}  // namespace moduleformer
