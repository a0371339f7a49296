// SPDX-License-Identifier: MIT
#pragma once
// Elementwise primitives on the CUDA backend: adding the experts of a token to its residual, dropout (the same mask
// as the CPU's), activations, sums and inner products. Outputs may be inputs.

#include <moduleformer/backend/arguments.hpp>
#include <moduleformer/backend/checks.hpp>
#include <moduleformer/backend/cuda/cuda.cuh>
#include <moduleformer/backend/cuda/kernels/elementwise.cuh>
#include <moduleformer/backend/cuda/kernels/reduction.cuh>
#include <moduleformer/backend/workspace.hpp>

#include <algorithm>
#include <concepts>

namespace moduleformer {

namespace detail {

/// 1 / (1 - probability), rounded as on the CPU.
inline float kept_factor(Dropout const& drop) {
  return static_cast<float>(1.0 / (1.0 - static_cast<double>(drop.probability)));
}

/// Elements that one block of an inner product takes: at most 1024 blocks.
constexpr Index sum_piece(Index size) {
  constexpr Index unit = kernels::InnerProduct::threads * kernels::InnerProduct::pack;
  return std::max(4 * unit, round_up(ceil_divide(size, 1024), unit));
}

/// out[0] = or += <x, y> over `size` elements.
template <class T, CudaScalar S, class P>
void inner_product(CudaBackend<S, P>& backend, float const* x, float const* y, Index size, T* out, bool add) {
  using Product = kernels::InnerProduct;
  Index const piece = sum_piece(size), pieces = ceil_divide(size, piece);
  Scope const scope{backend.workspace()};
  auto const sums = backend.workspace().template allocate<double>(pieces);
  bool const packed = kernels::may_pack<Product::pack>(x, y);
  backend.launch(Product{x, y, sums.data(), size, piece, packed}, pieces, Product::shared_bytes);
  using Finish = kernels::AddUp<T>;
  backend.launch(Finish{sums.data(), pieces, out, add}, 1, Finish::shared_bytes);
}

/// out = residual (or 0) + dropout(the sum of each token's slots).
template <CudaScalar S, class P>
void launch_combine(CudaBackend<S, P>& backend, Index slots, S const* y, Dropout drop, S const* residual,
                    Matrix<S> out) {
  Index const width = out.extent(1);
  kernels::Elements<S> elements = kernels::elements_at<S>(out.size(), y, residual, out.data());
  elements.packed = elements.packed && (slots == 1 || width % kernels::pack_size<S> == 0);
  backend.launch(kernels::Combine<S>{elements, y, residual, out.data(), slots, width, drop, kept_factor(drop)},
                 elements.blocks());
}

/// out += x.
template <class T, CudaScalar S, class P>
void launch_add(CudaBackend<S, P>& backend, Matrix<T const> x, Matrix<T> out) {
  expect_same("add", "out", out, x);
  auto const elements = kernels::elements_at<T>(out.size(), x.data(), out.data());
  backend.launch(kernels::Add<T>{elements, x.data(), out.data()}, elements.blocks());
}

}  // namespace detail

/// out[t] = residual[t] + dropout(sum_s y[t*slots+s]), s ascending; residual, out (N,D), y (N*slots,D).
/// out may be residual.
template <CudaScalar S, class P>
void combine(CudaBackend<S, P>& backend, Index slots, Arg<Matrix<S const>> y, Dropout drop,
             Arg<Matrix<S const>> residual, Arg<Matrix<S>> out) {
  detail::expect_combine("combine", slots, y, drop, residual, out);
  detail::launch_combine(backend, slots, y.data(), drop, residual.data(), out);
}

/// out = dropout(x), which is its own backward; out may be x.
template <CudaScalar S, class P>
void apply_dropout(CudaBackend<S, P>& backend, Dropout drop, Arg<Matrix<S const>> x, Arg<Matrix<S>> out) {
  detail::expect_same("apply_dropout", "out", out, x);
  detail::expect_probability("apply_dropout", drop);
  if (drop.probability == 0 && out.data() == x.data()) return;
  detail::launch_combine(backend, 1, x.data(), drop, static_cast<S const*>(nullptr), out);
}

/// out = x times draws near 1, which is its own backward; out may be x.
template <CudaScalar S, class P>
void apply_jitter(CudaBackend<S, P>& backend, Jitter jitter, Arg<Matrix<S const>> x, Arg<Matrix<S>> out) {
  detail::expect_same("apply_jitter", "out", out, x);
  detail::expect_width("apply_jitter", jitter);
  if (jitter.width == 0) return apply_dropout(backend, Dropout{}, x, out);
  auto const elements = kernels::elements_at<S>(x.size(), x.data(), out.data());
  backend.launch(kernels::ApplyJitter<S>{elements, x.data(), out.data(), jitter}, elements.blocks());
}

/// y = act(z); y may be z.
template <CudaScalar S, class P, class Act>
void activation_forward(CudaBackend<S, P>& backend, Act const& act, Arg<Matrix<S const>> z, Arg<Matrix<S>> y) {
  detail::expect_same("activation_forward", "y", y, z);
  auto const elements = kernels::elements_at<S>(z.size(), z.data(), y.data());
  backend.launch(kernels::Activate<S, Act>{elements, z.data(), y.data(), act}, elements.blocks());
}

/// dz = dy act'(z); dz may be dy.
template <CudaScalar S, class P, class Act>
void activation_backward(CudaBackend<S, P>& backend, Act const& act, Arg<Matrix<S const>> dy, Arg<Matrix<S const>> z,
                         Arg<Matrix<S>> dz) {
  detail::expect_same("activation_backward", "dy", dy, z);
  detail::expect_same("activation_backward", "dz", dz, z);
  auto const elements = kernels::elements_at<S>(z.size(), dy.data(), z.data(), dz.data());
  backend.launch(kernels::ActivateBackward<S, Act>{elements, dy.data(), z.data(), dz.data(), act}, elements.blocks());
}

/// out += x, of activations or of what is added in float.
template <CudaScalar S, class P>
void add(CudaBackend<S, P>& backend, Arg<Matrix<S const>> x, Arg<Matrix<S>> out) {
  detail::launch_add(backend, x, out);
}
template <CudaScalar S, class P>
  requires(!std::same_as<S, float>)
void add(CudaBackend<S, P>& backend, Matrix<float const> x, Matrix<float> out) {
  detail::launch_add(backend, x, out);
}

/// out = x * factor[0]; out may be x.
template <CudaScalar S, class P>
void scale_by(CudaBackend<S, P>& backend, Vector<float const> factor, Matrix<float const> x, Matrix<float> out) {
  detail::expect_extents("scale_by", "factor", factor, 1);
  detail::expect_same("scale_by", "out", out, x);
  auto const elements = kernels::elements_at<float>(x.size(), x.data(), out.data());
  backend.launch(kernels::ScaleBy{elements, factor.data(), x.data(), out.data()}, elements.blocks());
}

/// out[0] = <x, y> over all elements, summed in double.
template <CudaScalar S, class P>
void dot(CudaBackend<S, P>& backend, Matrix<float const> x, Matrix<float const> y, Vector<float> out) {
  detail::expect_same("dot", "y", y, x);
  detail::expect_extents("dot", "out", out, 1);
  detail::inner_product(backend, x.data(), y.data(), x.size(), out.data(), false);
}

}  // namespace moduleformer
