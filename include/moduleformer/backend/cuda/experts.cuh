// SPDX-License-Identifier: MIT
#pragma once
// Products of ragged experts on the CUDA backend: z = x[p] W[e], y[p] = gate[slot] act(z), and the input gradient
// dx[p] = dy[p] W[e]^T, for sorted slots p with their experts e. Rows are gathered while a tile loads and scattered
// while it is stored; counts per expert stay on the device.

#include <moduleformer/backend/checks.hpp>
#include <moduleformer/backend/cuda/cuda.cuh>
#include <moduleformer/backend/cuda/kernels/product_epilogues.cuh>
#include <moduleformer/backend/cuda/product_launch.cuh>
#include <moduleformer/backend/primitive_checks.hpp>
#include <moduleformer/core/error.hpp>
#include <moduleformer/core/functors.hpp>

namespace moduleformer {

namespace detail {

inline kernels::RowSchedule expert_schedule(RoutingPlan const& plan, Index columns, Index depth) {
  return {plan.offsets.data(), static_cast<int>(plan.slots()), static_cast<int>(plan.experts),
          static_cast<int>(columns), static_cast<int>(depth)};
}

}  // namespace detail

/// z = x[p] W[e] with W (E,K,N); pre[p sorted] = z (P,N) or null; y[p] = gate[slot] act(z), gate (P) or null for 1.
template <CudaScalar S, class P, class Act>
void expert_forward(CudaBackend<S, P>& backend, RoutingPlan const& plan, Act const& act, Arg<Matrix<S const>> x,
                    Rows x_rows, Arg<TensorView<S const, 3>> weight, Arg<Vector<float const>> gate, Arg<Matrix<S>> pre,
                    Arg<Matrix<S>> y, Rows y_rows) {
  Index const k = weight.extent(1), n = weight.extent(2);
  detail::check_expert_forward(plan, x, x_rows, weight, gate, pre, y, y_rows);
  detail::expect_product_sizes("expert_forward", plan.slots(), k, n);
  kernels::ExpertEpilogue<S, Act> const epilogue{act,
                                                 plan.order.data(),
                                                 gate.data(),
                                                 pre.data(),
                                                 y.data(),
                                                 detail::row_map(plan, y_rows),
                                                 static_cast<int>(n),
                                                 detail::packs_columns<S>(n, pre.data(), y.data())};
  detail::row_product<kernels::Stored::plain>(
      backend, detail::expert_schedule(plan, n, k), detail::operand<S>(x, detail::row_map(plan, x_rows)),
      detail::operand<S>(weight), epilogue, detail::product_tile_size(plan.slots(), plan.experts, n));
}

/// dx[p] = dy[p] W[e]^T with W (E,K,N), dy of N columns, dx of K.
template <CudaScalar S, class P>
void expert_input_gradient(CudaBackend<S, P>& backend, RoutingPlan const& plan, Arg<Matrix<S const>> dy, Rows dy_rows,
                           Arg<TensorView<S const, 3>> weight, Arg<Matrix<S>> dx, Rows dx_rows) {
  Index const k = weight.extent(1), n = weight.extent(2);
  detail::check_expert_input_gradient(plan, dy, dy_rows, weight, dx, dx_rows);
  detail::expect_product_sizes("expert_input_gradient", plan.slots(), k, n);
  kernels::ExpertEpilogue<S, Identity> const epilogue{{},
                                                      plan.order.data(),
                                                      nullptr,
                                                      nullptr,
                                                      dx.data(),
                                                      detail::row_map(plan, dx_rows),
                                                      static_cast<int>(k),
                                                      detail::packs_columns<S>(k, dx.data())};
  detail::row_product<kernels::Stored::transposed>(
      backend, detail::expert_schedule(plan, k, n), detail::operand<S>(dy, detail::row_map(plan, dy_rows)),
      detail::operand<S>(weight), epilogue, detail::product_tile_size(plan.slots(), plan.experts, k));
}

}  // namespace moduleformer
