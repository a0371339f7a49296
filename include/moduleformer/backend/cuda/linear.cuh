// SPDX-License-Identifier: MIT
#pragma once
// Dense layers on the CUDA backend with W (N,K) as PyTorch's Linear stores it: y = x W^T + bias, dx = dy W,
// dW += dy^T x, db += column sums of dy. They are products of one expert whose slots are the rows. A weight gradient
// of few tiles cuts the rows it sums over into parts whose products are added in ascending order.

#include <moduleformer/backend/checks.hpp>
#include <moduleformer/backend/cuda/cuda.cuh>
#include <moduleformer/backend/cuda/kernels/column_sums.cuh>
#include <moduleformer/backend/cuda/kernels/product_epilogues.cuh>
#include <moduleformer/backend/cuda/product_launch.cuh>
#include <moduleformer/backend/workspace.hpp>
#include <moduleformer/core/error.hpp>

#include <algorithm>

namespace moduleformer {

namespace detail {

/// out[order[i]] (order null: out[i]) = or += the sum of parts (count, size) in ascending order.
template <CudaScalar S, class P>
void add_parts(CudaBackend<S, P>& backend, Matrix<float const> parts, std::int32_t const* order, float* out, bool add) {
  Index const size = parts.extent(1), blocks = ceil_divide(size, kernels::AddParts::threads);
  backend.launch(kernels::AddParts{parts.data(), parts.extent(0), size, order, out, add},
                 std::min<Index>(blocks, Index{backend.processors()} * 8));
}

/// As linear; rows of y begin `stride` elements apart.
template <CudaScalar S, class P, class Out>
void dense_forward(CudaBackend<S, P>& backend, Matrix<S const> x, Matrix<S const> weight, Vector<S const> bias, Out* y,
                   Index stride) {
  Index const m = x.extent(0), k = x.extent(1), n = weight.extent(0);
  expect_extents("linear", "weight", weight, n, k);
  if (bias) expect_extents("linear", "bias", bias, n);
  expect_product_sizes("linear", m, stride, k);
  kernels::RowSchedule const schedule{nullptr, static_cast<int>(m), 1, static_cast<int>(n), static_cast<int>(k)};
  kernels::LinearEpilogue<S, Out> const epilogue{bias.data(), y, static_cast<int>(stride), false,
                                                 packs_columns<S>(stride, bias.data(), y)};
  row_product<kernels::Stored::transposed>(backend, schedule, operand<S>(x), operand<S>(weight), epilogue,
                                           product_tile_size(m, 1, n));
}

/// As linear_input_gradient, of m rows of dy.
template <CudaScalar S, class P>
void dense_input_gradient(CudaBackend<S, P>& backend, kernels::Operand<S> const& dy, Index m, Matrix<S const> weight,
                          Matrix<S> dx, bool accumulate) {
  Index const n = weight.extent(0), k = weight.extent(1);
  expect_extents("linear_input_gradient", "dx", dx, m, k);
  expect_product_sizes("linear_input_gradient", m, n, k);
  kernels::RowSchedule const schedule{nullptr, static_cast<int>(m), 1, static_cast<int>(k), static_cast<int>(n)};
  kernels::LinearEpilogue<S, S> const epilogue{nullptr, dx.data(), static_cast<int>(k), accumulate,
                                               packs_columns<S>(k, dx.data())};
  row_product<kernels::Stored::plain>(backend, schedule, dy, operand<S>(weight), epilogue, product_tile_size(m, 1, k));
}

/// As linear_weight_gradient, from the first column of dy on.
template <CudaScalar S, class P>
void dense_weight_gradient(CudaBackend<S, P>& backend, kernels::Operand<S> const& dy, Matrix<S const> x,
                           Matrix<float> dweight) {
  Index const m = x.extent(0), n = dweight.extent(0), k = x.extent(1);
  expect_extents("linear_weight_gradient", "dweight", dweight, n, k);
  expect_product_sizes("linear_weight_gradient", m, n, k);
  auto const [parts, size] = dense_gradient_tiles(n, k, m);
  Index const depth = round_up(ceil_divide(m, parts), Index{64});
  kernels::ContractionSchedule const schedule{nullptr,          static_cast<int>(parts), static_cast<int>(n),
                                              static_cast<int>(k), static_cast<int>(depth), static_cast<int>(m)};
  if (parts == 1) {
    kernels::WeightEpilogue<true> const epilogue{dweight.data(), static_cast<int>(n), static_cast<int>(k),
                                                 packs_columns<S>(k, dweight.data())};
    return contraction_product(backend, schedule, dy, operand<S>(x), epilogue, size);
  }
  Scope const scope{backend.workspace()};
  auto const partial = backend.workspace().template allocate<float>(parts, n * k);
  kernels::WeightEpilogue<false> const epilogue{partial.data(), static_cast<int>(n), static_cast<int>(k),
                                                packs_columns<S>(k, partial.data())};
  contraction_product(backend, schedule, dy, operand<S>(x), epilogue, size);
  add_parts(backend, partial, nullptr, dweight.data(), true);
}

}  // namespace detail

/// y (M,N) = x (M,K) W^T + bias, W (N,K), bias (N) or null.
template <CudaScalar S, class P>
void linear(CudaBackend<S, P>& backend, Arg<Matrix<S const>> x, Arg<Matrix<S const>> weight, Arg<Vector<S const>> bias,
            Arg<Matrix<S>> y) {
  detail::expect_extents("linear", "y", y, x.extent(0), weight.extent(0));
  detail::dense_forward<S, P, S>(backend, x, weight, bias, y.data(), y.extent(1));
}
/// The same with float results.
template <CudaScalar S, class P>
  requires(!std::is_same_v<S, float>)
void linear(CudaBackend<S, P>& backend, Arg<Matrix<S const>> x, Arg<Matrix<S const>> weight, Arg<Vector<S const>> bias,
            Arg<Matrix<float>> y) {
  detail::expect_extents("linear", "y", y, x.extent(0), weight.extent(0));
  detail::dense_forward<S, P, float>(backend, x, weight, bias, y.data(), y.extent(1));
}

/// dx (M,K) = dy (M,N) W (N,K), or += with `accumulate`.
template <CudaScalar S, class P>
void linear_input_gradient(CudaBackend<S, P>& backend, Arg<Matrix<S const>> dy, Arg<Matrix<S const>> weight,
                           Arg<Matrix<S>> dx, bool accumulate) {
  detail::expect_extents("linear_input_gradient", "weight", weight, dy.extent(1), weight.extent(1));
  detail::dense_input_gradient<S, P>(backend, detail::operand<S>(dy), dy.extent(0), weight, dx, accumulate);
}

/// dW (n,K) += dy[:, first:first+n]^T x with dy (M,N), x (M,K).
template <CudaScalar S, class P>
void linear_weight_gradient(CudaBackend<S, P>& backend, Arg<Matrix<S const>> dy, Arg<Matrix<S const>> x, Index first,
                            Arg<Matrix<float>> dweight) {
  Index const n = dweight.extent(0), stride = dy.extent(1);
  detail::expect_extents("linear_weight_gradient", "x", x, dy.extent(0), x.extent(1));
  expects(first >= 0 && first + n <= stride, "linear_weight_gradient: expected columns ", first, " to ", first + n,
          " of dy, found ", stride);
  detail::expect_product_sizes("linear_weight_gradient", stride);
  detail::dense_weight_gradient<S, P>(backend, detail::operand<S>(dy, {}, first), x, dweight);
}

/// db (n) += column sums of dy[:, first:first+n].
template <CudaScalar S, class P>
void bias_gradient(CudaBackend<S, P>& backend, Arg<Matrix<S const>> dy, Index first, Arg<Vector<float>> dbias) {
  Index const m = dy.extent(0), n = dbias.extent(0), stride = dy.extent(1);
  expects(first >= 0 && first + n <= stride, "bias_gradient: expected columns ", first, " to ", first + n,
          " of dy, found ", stride);
  using Kernel = kernels::ColumnSums<S>;
  Index const parts = detail::ceil_divide(m, Kernel::rows_per_block);
  Scope const scope{backend.workspace()};
  auto const partial = backend.workspace().template allocate<float>(parts, n);
  bool const packed = stride % Kernel::pack == 0 && kernels::may_pack<Kernel::pack>(dy.data() + first);
  backend.launch(Kernel{dy.data() + first, stride, m, n, partial.data(), packed},
                 parts * detail::ceil_divide(n, Kernel::width), Kernel::shared_bytes);
  using Add = kernels::AddManyParts;
  backend.launch(Add{{}, partial.data(), parts, n, dbias.data()}, detail::ceil_divide(n, 32), Add::shared_bytes);
}

}  // namespace moduleformer
