// SPDX-License-Identifier: MIT
#pragma once
// Layer norm over rows and its gradient on the CUDA backend (formulas: backend/cpu/norm.hpp). Statistics, and the
// gradients of weight and bias, are float. What is to be normalised, or dy, may be a sum over slots: one pass over
// memory.

#include <moduleformer/backend/checks.hpp>
#include <moduleformer/backend/cuda/cuda.cuh>
#include <moduleformer/backend/cuda/elementwise.cuh>
#include <moduleformer/backend/cuda/kernels/norm.cuh>
#include <moduleformer/backend/cuda/kernels/norm_backward.cuh>
#include <moduleformer/backend/primitive_checks.hpp>
#include <moduleformer/backend/workspace.hpp>

#include <algorithm>
#include <cstddef>
#include <type_traits>

namespace moduleformer {

namespace detail {

/// Rows whose contributions to dweight and dbias make one part: at most 512 parts.
constexpr Index norm_rows_of_block(Index rows) { return std::max<Index>(8, ceil_divide(rows, 512)); }

/// Of x, or of h = x + dropout(the sum of y's slots) if there are slots.
template <CudaScalar S, class P>
void launch_layer_norm(CudaBackend<S, P>& backend, char const* where, Matrix<S const> x, Index slots, Matrix<S const> y,
                       Dropout drop, Matrix<S> h, Vector<S const> weight, Vector<S const> bias, double epsilon,
                       Matrix<S> out, Vector<float> mean, Vector<float> inverse_deviation) {
  Index const rows = x.extent(0), width = x.extent(1);
  check_layer_norm(where, x, weight, bias, mean, inverse_deviation);
  constexpr int pack = kernels::pack_size<S>;
  bool const packed = width % pack == 0 &&
                      kernels::may_pack<pack>(x.data(), y.data(), h.data(), out.data(), weight.data(), bias.data());
  auto const launch = [&]<int Team>(std::integral_constant<int, Team>) {
    using Kernel = kernels::LayerNorm<S, Team>;
    backend.launch(
        Kernel{x.data(), slots, y.data(), drop, kept_factor(drop), h.data(), weight.data(), bias.data(),
               static_cast<float>(epsilon), out.data(), mean.data(), inverse_deviation.data(), rows, width, packed},
        ceil_divide(rows, Kernel::rows_at_once), Kernel::shared_bytes);
  };
  if (width <= kernels::LayerNorm<S, 32>::chunk) launch(std::integral_constant<int, 32>{});
  else launch(std::integral_constant<int, 256>{});
}

/// With dy[t] = residual[t] + the sum of y's slots, if there are slots.
template <CudaScalar S, class P>
void launch_layer_norm_backward(CudaBackend<S, P>& backend, char const* where, Index slots, Matrix<S const> y,
                                Matrix<S const> residual, Matrix<S const> x, Vector<S const> weight,
                                Vector<float const> mean, Vector<float const> inverse_deviation, Matrix<S> dx,
                                Vector<float> dweight, Vector<float> dbias) {
  Index const rows = x.extent(0), width = x.extent(1);
  check_layer_norm_backward(where, x, weight, mean, inverse_deviation, dx, dweight, dbias);

  using Layout = kernels::NormGradient<S>;
  constexpr std::size_t most_shared_bytes = 48 << 10;
  Index const rows_of_block = norm_rows_of_block(rows), blocks = ceil_divide(rows, rows_of_block);
  bool const packed = width % Layout::pack == 0 &&
                      kernels::may_pack<Layout::pack>(y.data(), residual.data(), x.data(), weight.data(), dx.data());
  Index const places = Layout::places(width);
  bool const sums_rows = dweight || dbias;
  if (!(dx || sums_rows) || rows == 0) return;
  Scope const scope{backend.workspace()};
  auto const parts = backend.workspace().template allocate<float>(sums_rows ? blocks : 0, 2, places);
  Layout const gradient{residual.data(),
                        slots,
                        y.data(),
                        x.data(),
                        weight.data(),
                        mean.data(),
                        inverse_deviation.data(),
                        dx.data(),
                        sums_rows ? parts.data() : nullptr,
                        rows,
                        width,
                        rows_of_block,
                        packed};
  if (width <= Layout::chunk) {
    using Kernel = kernels::LayerNormBackward<S>;
    backend.launch(Kernel{gradient}, blocks, Kernel::shared_bytes());
  } else {
    bool const shared_parts = sums_rows && Layout::bytes(Layout::room + 2 * places) <= most_shared_bytes;
    kernels::LongNormBackward<S> const kernel{gradient, shared_parts};
    backend.launch(kernel, blocks, kernel.shared_bytes());
  }
  using Add = kernels::AddNormParts<Layout>;
  if (sums_rows)
    backend.launch(Add{{}, parts.data(), blocks, width, dweight.data(), dbias.data()}, Add::blocks(width),
                   Add::shared_bytes);
}

}  // namespace detail

/// x, y (N,D), weight and bias (D); mean (N) and inverse_deviation (N) or null. y may be x.
template <CudaScalar S, class P>
void layer_norm(CudaBackend<S, P>& backend, Arg<Matrix<S const>> x, Arg<Vector<S const>> weight,
                Arg<Vector<S const>> bias, double epsilon, Arg<Matrix<S>> y, Vector<float> mean,
                Vector<float> inverse_deviation) {
  detail::expect_same("layer_norm", "y", y, x);
  detail::launch_layer_norm<S>(backend, "layer_norm", x, 0, {}, {}, {}, weight, bias, epsilon, y, mean,
                               inverse_deviation);
}

/// h[t] = residual[t] + dropout(sum_s y[t*slots+s]), s ascending, and out = layer norm of h; y (N*slots,D), residual,
/// h, out (N,D); the others as for layer_norm. h may be residual.
template <CudaScalar S, class P>
void combine_layer_norm(CudaBackend<S, P>& backend, Index slots, Arg<Matrix<S const>> y, Dropout drop,
                        Arg<Matrix<S const>> residual, Arg<Vector<S const>> weight, Arg<Vector<S const>> bias,
                        double epsilon, Arg<Matrix<S>> h, Arg<Matrix<S>> out, Vector<float> mean,
                        Vector<float> inverse_deviation) {
  detail::expect_combine("combine_layer_norm", slots, y, drop, residual, h);
  detail::expect_same("combine_layer_norm", "out", out, h);
  if (drop.probability > 0 && h.extent(1) % 4 != 0) {  // the mask's groups of four straddle rows
    combine(backend, slots, y, drop, residual, h);
    layer_norm(backend, h, weight, bias, epsilon, out, mean, inverse_deviation);
  } else {
    detail::launch_layer_norm<S>(backend, "combine_layer_norm", residual, slots, y, drop, h, weight, bias, epsilon, out,
                                 mean, inverse_deviation);
  }
}

/// dy, x (N,D), weight (D), mean and inverse_deviation (N) of forward -> dx (N,D) +=, dweight (D) +=, dbias (D) +=,
/// each of which may be null.
template <CudaScalar S, class P>
void layer_norm_backward(CudaBackend<S, P>& backend, Arg<Matrix<S const>> dy, Arg<Matrix<S const>> x,
                         Arg<Vector<S const>> weight, Vector<float const> mean, Vector<float const> inverse_deviation,
                         Arg<Matrix<S>> dx, Vector<float> dweight, Vector<float> dbias) {
  detail::expect_same("layer_norm_backward", "dy", dy, x);
  detail::launch_layer_norm_backward<S>(backend, "layer_norm_backward", 0, {}, dy, x, weight, mean, inverse_deviation,
                                        dx, dweight, dbias);
}

/// The same with dy[t] = residual[t] + sum_s y[t*slots+s], s ascending; residual (N,D), y (N*slots,D).
template <CudaScalar S, class P>
void combine_layer_norm_backward(CudaBackend<S, P>& backend, Index slots, Arg<Matrix<S const>> y,
                                 Arg<Matrix<S const>> residual, Arg<Matrix<S const>> x, Arg<Vector<S const>> weight,
                                 Vector<float const> mean, Vector<float const> inverse_deviation, Arg<Matrix<S>> dx,
                                 Vector<float> dweight, Vector<float> dbias) {
  detail::expect_combine("combine_layer_norm_backward", slots, y, {}, residual, x);
  detail::launch_layer_norm_backward<S>(backend, "combine_layer_norm_backward", slots, y, residual, x, weight, mean,
                                        inverse_deviation, dx, dweight, dbias);
}

}  // namespace moduleformer
