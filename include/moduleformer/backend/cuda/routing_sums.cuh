// SPDX-License-Identifier: MIT
#pragma once
// What routing losses see and give back on the CUDA backend: RoutingStatistics summed over tokens, and the gradient of
// any function of those sums and of the gates with respect to the logits. Statistics and their derivatives lie in
// device memory, so that a loss is made of them there.

#include <moduleformer/backend/arguments.hpp>
#include <moduleformer/backend/checks.hpp>
#include <moduleformer/backend/cuda/cuda.cuh>
#include <moduleformer/backend/cuda/kernels/routing_sums.cuh>
#include <moduleformer/backend/cuda/top_k.cuh>
#include <moduleformer/backend/primitive_checks.hpp>
#include <moduleformer/backend/workspace.hpp>
#include <moduleformer/core/error.hpp>

#include <cstddef>

namespace moduleformer {

/// Every sum of `stats` that is not null, from logits and probs (N,E), lse (N), gates and ids (N,K).
template <CudaScalar S, class P>
void sum_routing(CudaBackend<S, P>& backend, Arg<Matrix<float const>> logits, Arg<Matrix<float const>> probs,
                 Arg<Vector<float const>> lse, Arg<Matrix<float const>> gates, Matrix<ExpertId const> ids,
                 RoutingStatistics stats) {
  Index const tokens = logits.extent(0), experts = logits.extent(1), chosen = ids.extent(1);
  detail::check_sum_routing(logits, probs, lse, gates, ids, stats);

  Scope const scope{backend.workspace()};
  kernels::RoutingPartials partials{};
  detail::with_expert_row(tokens, experts, [&]<int Items>(kernels::ExpertRow<Items> row) {
    using Kernel = kernels::SumRouting<Items>;
    partials.tiles = detail::ceil_divide(tokens, Kernel::tile);
    partials.chunks = detail::ceil_divide(experts, Kernel::chunk);
    partials.experts = backend.workspace().template allocate<double>(partials.tiles, 3, experts).data();
    partials.rows = backend.workspace().template allocate<double>(partials.tiles, partials.chunks, 2).data();
    Kernel const sum{row, logits.data(), probs.data(), lse.data(), gates.data(), ids.data(), chosen, partials};
    backend.launch(sum, partials.tiles * partials.chunks, static_cast<std::size_t>(Kernel::shared_bytes));
  });
  backend.launch(kernels::AddRoutingTiles{partials, stats, experts}, detail::ceil_divide(3 * experts + 2, 32),
                 static_cast<std::size_t>(kernels::AddRoutingTiles::shared_bytes));
}

/// dlogits (N,E) = p (v - <p, v>) + 2 grad.squared_lse_sum lse p with
///   v_e = grad.probability_sum_e + grad.negative_entropy_sum log p_e + [e is choice s] (dgate_s + grad.gate_sum_e)
/// dgates and every part of grad may be null.
template <CudaScalar S, class P>
void routing_backward(CudaBackend<S, P>& backend, Arg<Matrix<float const>> logits, Arg<Matrix<float const>> probs,
                      Arg<Vector<float const>> lse, Matrix<ExpertId const> ids, Arg<Matrix<float const>> dgates,
                      RoutingGradient grad, Arg<Matrix<float>> dlogits) {
  Index const tokens = logits.extent(0), experts = logits.extent(1), chosen = ids.extent(1);
  detail::check_routing_backward(logits, probs, lse, ids, dgates, grad, dlogits);
  detail::with_expert_row(tokens, experts, [&]<int Items>(kernels::ExpertRow<Items> row) {
    kernels::RoutingBackward<Items> const kernel{row,           logits.data(), probs.data(),   lse.data(), ids.data(),
                                                 dgates.data(), grad,          dlogits.data(), chosen};
    backend.launch(kernel, detail::token_blocks(row));
  });
}

}  // namespace moduleformer
