// SPDX-License-Identifier: MIT
#pragma once
// Gradients of ragged experts y[p] = gate[slot] act(z[p]) W[e] on the CUDA backend with respect to gate and z, fused
// with the product, and of their weights, dW[e] += sum_p x[p]^T dy[p]. A gate's gradient is a sum over all columns:
// tiles leave theirs in the workspace, and a second kernel adds them in ascending order.

#include <moduleformer/backend/checks.hpp>
#include <moduleformer/backend/cuda/cuda.cuh>
#include <moduleformer/backend/cuda/experts.cuh>
#include <moduleformer/backend/cuda/kernels/product_epilogues.cuh>
#include <moduleformer/backend/cuda/linear.cuh>
#include <moduleformer/backend/cuda/product_launch.cuh>
#include <moduleformer/backend/primitive_checks.hpp>
#include <moduleformer/backend/workspace.hpp>
#include <moduleformer/core/error.hpp>

namespace moduleformer {

/// g = dy[p] W[e]^T, h = act(z[p]), W (E,K,N): dgate[slot] = <g, h> ; dz[p] = gate[slot] g act'(z[p]) ;
/// scaled[p] = gate[slot] h. z, dz and scaled (P,K) share one row map; gate null: 1; dgate, dz, scaled null: not
/// wanted.
template <CudaScalar S, class P, class Act>
void expert_backward(CudaBackend<S, P>& backend, RoutingPlan const& plan, Act const& act, Arg<Matrix<S const>> dy,
                     Rows dy_rows, Arg<TensorView<S const, 3>> weight, Arg<Vector<float const>> gate,
                     Arg<Matrix<S const>> z, Rows z_rows, Arg<Vector<float>> dgate, Arg<Matrix<S>> dz,
                     Arg<Matrix<S>> scaled) {
  Index const k = weight.extent(1), n = weight.extent(2), slots = plan.slots();
  detail::check_expert_backward(plan, dy, dy_rows, weight, gate, z, z_rows, dgate, dz, scaled);
  detail::expect_product_sizes("expert_backward", slots, k, n);

  auto const size = detail::product_tile_size(slots, plan.experts, k);
  Index const tiles = detail::ceil_divide(k, detail::row_tile_columns(backend, size, plan.experts));
  Scope const scope{backend.workspace()};
  Matrix<float> const partial = dgate ? backend.workspace().template allocate<float>(tiles, slots) : Matrix<float>{};
  kernels::ExpertGradientEpilogue<S, Act> const epilogue{
      act,
      plan.order.data(),
      gate.data(),
      z.data(),
      dz.data(),
      scaled.data(),
      detail::row_map(plan, z_rows),
      partial.data(),
      static_cast<int>(slots),
      static_cast<int>(k),
      detail::packs_columns<S>(k, z.data(), dz.data(), scaled.data())};
  detail::row_product<kernels::Stored::transposed>(backend, detail::expert_schedule(plan, k, n),
                                                   detail::operand<S>(dy, detail::row_map(plan, dy_rows)),
                                                   detail::operand<S>(weight), epilogue, size);
  if (dgate) detail::add_parts(backend, partial, plan.order.data(), dgate.data(), false);
}

/// dW[e - first] += sum over p of e of x[p]^T dy[p], for the experts [first, first + dW.extent(0)).
/// x has K columns, dy N, dW is (n,K,N).
template <CudaScalar S, class P>
void expert_weight_gradient(CudaBackend<S, P>& backend, RoutingPlan const& plan, Arg<Matrix<S const>> x, Rows x_rows,
                            Arg<Matrix<S const>> dy, Rows dy_rows, Index first, Arg<TensorView<float, 3>> dweight) {
  Index const count = dweight.extent(0), k = dweight.extent(1), n = dweight.extent(2);
  detail::check_expert_weight_gradient(plan, x, x_rows, dy, dy_rows, first, dweight);
  detail::expect_product_sizes("expert_weight_gradient", plan.slots(), k, n);
  kernels::ContractionSchedule const schedule{
      plan.offsets.data() + first, static_cast<int>(count), static_cast<int>(k), static_cast<int>(n), 0, 0};
  kernels::WeightEpilogue<true> const epilogue{dweight.data(), static_cast<int>(k), static_cast<int>(n),
                                               detail::packs_columns<S>(n, dweight.data())};
  detail::contraction_product(backend, schedule, detail::operand<S>(x, detail::row_map(plan, x_rows)),
                              detail::operand<S>(dy, detail::row_map(plan, dy_rows)), epilogue,
                              detail::gradient_tile_size(count, k, n));
}

}  // namespace moduleformer
