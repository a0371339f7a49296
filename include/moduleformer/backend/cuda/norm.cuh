// SPDX-License-Identifier: MIT
#pragma once
// Layer norm over rows and its gradient on the CUDA backend (formulas: backend/cpu/norm.hpp). Statistics, and the
// gradients of weight and bias, are float.

#include <moduleformer/backend/checks.hpp>
#include <moduleformer/backend/cuda/cuda.cuh>
#include <moduleformer/backend/cuda/kernels/norm.cuh>
#include <moduleformer/backend/workspace.hpp>

#include <algorithm>
#include <cstddef>
#include <type_traits>

namespace moduleformer {

namespace detail {

/// Rows whose contributions to dweight and dbias make one part: at most 512 parts.
constexpr Index norm_rows_of_block(Index rows) { return std::max<Index>(8, ceil_divide(rows, 512)); }

}  // namespace detail

/// x, y (N,D), weight and bias (D); mean (N) and inverse_deviation (N) or null. y may be x.
template <CudaScalar S, class P>
void layer_norm(CudaBackend<S, P>& backend, Arg<Matrix<S const>> x, Arg<Vector<S const>> weight,
                Arg<Vector<S const>> bias, double epsilon, Arg<Matrix<S>> y, Vector<float> mean,
                Vector<float> inverse_deviation) {
  Index const rows = x.extent(0), width = x.extent(1);
  detail::expect_extents("layer_norm", "y", y, rows, width);
  detail::expect_extents("layer_norm", "weight", weight, width);
  detail::expect_extents("layer_norm", "bias", bias, width);
  if (mean) detail::expect_extents("layer_norm", "mean", mean, rows);
  if (inverse_deviation) detail::expect_extents("layer_norm", "inverse_deviation", inverse_deviation, rows);
  constexpr int pack = kernels::pack_size<S>;
  bool const packed = width % pack == 0 && kernels::may_pack<pack>(x.data(), y.data(), weight.data(), bias.data());
  auto const launch = [&]<int Team>(std::integral_constant<int, Team>) {
    using Kernel = kernels::LayerNorm<S, Team>;
    backend.launch(Kernel{x.data(), weight.data(), bias.data(), static_cast<float>(epsilon), y.data(), mean.data(),
                          inverse_deviation.data(), rows, width, packed},
                   detail::ceil_divide(rows, Kernel::rows_at_once), Kernel::shared_bytes);
  };
  if (width <= kernels::LayerNorm<S, 32>::chunk) launch(std::integral_constant<int, 32>{});
  else launch(std::integral_constant<int, 256>{});
}

/// dy, x (N,D), weight (D), mean and inverse_deviation (N) of forward -> dx (N,D) +=, dweight (D) +=, dbias (D) +=,
/// each of which may be null.
template <CudaScalar S, class P>
void layer_norm_backward(CudaBackend<S, P>& backend, Arg<Matrix<S const>> dy, Arg<Matrix<S const>> x,
                         Arg<Vector<S const>> weight, Vector<float const> mean, Vector<float const> inverse_deviation,
                         Arg<Matrix<S>> dx, Vector<float> dweight, Vector<float> dbias) {
  Index const rows = x.extent(0), width = x.extent(1);
  detail::expect_extents("layer_norm_backward", "dy", dy, rows, width);
  detail::expect_extents("layer_norm_backward", "weight", weight, width);
  detail::expect_extents("layer_norm_backward", "mean", mean, rows);
  detail::expect_extents("layer_norm_backward", "inverse_deviation", inverse_deviation, rows);
  if (dx) detail::expect_extents("layer_norm_backward", "dx", dx, rows, width);
  if (dweight) detail::expect_extents("layer_norm_backward", "dweight", dweight, width);
  if (dbias) detail::expect_extents("layer_norm_backward", "dbias", dbias, width);

  using Kernel = kernels::LayerNormBackward<S>;
  constexpr std::size_t most_shared_bytes = 48 << 10;
  Index const rows_of_block = detail::norm_rows_of_block(rows), blocks = detail::ceil_divide(rows, rows_of_block);
  bool const packed =
      width % Kernel::pack == 0 && kernels::may_pack<Kernel::pack>(dy.data(), x.data(), weight.data(), dx.data());
  Index const places = Kernel::places(width);
  bool const sums_rows = dweight || dbias;
  Scope const scope{backend.workspace()};
  auto const parts = backend.workspace().template allocate<float>(sums_rows ? blocks : 0, 2, places);
  bool const shared_parts = sums_rows && Kernel::bytes(Kernel::room + 2 * places) <= most_shared_bytes;
  float* const parts_data = sums_rows ? parts.data() : nullptr;
  Kernel const kernel{dy.data(), x.data(), weight.data(), mean.data(), inverse_deviation.data(), dx.data(), parts_data,
                      rows, width, rows_of_block, packed, shared_parts};
  if (dx || sums_rows) backend.launch(kernel, blocks, kernel.shared_bytes());
  auto const finish = [&](Vector<float> sums, Index which) {
    if (!sums || rows == 0) return;
    using Add = kernels::AddNormParts<Kernel>;
    backend.launch(Add{parts.data() + which * places, blocks, 2 * places, width, sums.data()}, places / 32,
                   Add::shared_bytes);
  };
  finish(dweight, 0);
  finish(dbias, 1);
}

}  // namespace moduleformer
