// SPDX-License-Identifier: MIT
#pragma once
// Cross-entropy of logits = x W^T, fused, on the CUDA backend: chunks of rows make their logits in float, losses in
// double and d = scale (softmax - onehot) in S, then dx = d W and dW += d^T x. The (N,V) matrix never exists as a
// whole, and nothing waits for the device. Labels were checked where they lay in host memory.

#include <moduleformer/backend/checks.hpp>
#include <moduleformer/backend/cuda/cuda.cuh>
#include <moduleformer/backend/cuda/kernels/cross_entropy.cuh>
#include <moduleformer/backend/cuda/kernels/reduction.cuh>
#include <moduleformer/backend/cuda/linear.cuh>
#include <moduleformer/backend/primitive_checks.hpp>
#include <moduleformer/backend/workspace.hpp>

#include <algorithm>
#include <concepts>
#include <type_traits>

namespace moduleformer {

namespace detail {

/// Elements from one row of logits to the next: rows begin at 128 aligned bytes whatever the vocabulary.
constexpr Index logits_stride(Index vocabulary) { return round_up(vocabulary, Index{64}); }

/// Rows of a chunk: its logits take at most 1 GiB (more where the vocabulary passes 2M). The input gradient has a tile of
/// the result for 128 rows and 256 columns of x, and needs one for each multiprocessor.
constexpr Index cross_entropy_chunk(Index vocabulary) {
  constexpr Index elements = Index{1} << 28;
  return std::clamp<Index>(elements / std::max<Index>(logits_stride(vocabulary), 1) / 128 * 128, 128, 4096);
}

/// The losses (N) of rows of V logits, and d (or null) = scale[0] (softmax - onehot); rows of both begin a stride apart.
template <CudaScalar S, class P>
void cross_entropy_of_logits(CudaBackend<S, P>& backend, Matrix<float const> logits, Index vocabulary,
                             Vector<TokenId const> labels, double const* scale, Matrix<S> d, Vector<double> losses) {
  Index const rows = logits.extent(0), stride = logits.extent(1);
  auto const launch = [&]<int Threads, bool Keeps>() {
    using Kernel = kernels::CrossEntropyRows<S, Threads, Keeps>;
    if (Keeps && Kernel::shared_bytes(vocabulary) > backend.most_shared()) return false;
    backend.launch(Kernel{logits.data(), labels.data(), scale, d.data(), losses.data(), vocabulary, stride}, rows,
                   Kernel::shared_bytes(vocabulary));
    return true;
  };
  if (vocabulary <= 2048) launch.template operator()<128, false>();
  else if (!d || !launch.template operator()<1024, true>()) launch.template operator()<1024, false>();
}

}  // namespace detail

/// x (N,D), W (V,D), labels (N). sum[0] = the sum over labels other than ignore_label; dx (N,D) overwritten and
/// dW (V,D) added to, unless null (scale is then not read).
template <CudaScalar S, class P>
void cross_entropy(CudaBackend<S, P>& backend, Arg<Matrix<S const>> x, Arg<Matrix<S const>> weight,
                   Vector<TokenId const> labels, Vector<double const> scale, Arg<Matrix<S>> dx, Matrix<float> dweight,
                   Vector<double> sum) {
  Index const rows = x.extent(0), vocabulary = weight.extent(0), stride = detail::logits_stride(vocabulary);
  detail::check_cross_entropy(x, weight, labels, dx, dweight);

  bool const gradient = static_cast<bool>(dx) || static_cast<bool>(dweight);
  Index const chunk = std::min(rows, detail::cross_entropy_chunk(vocabulary));
  Scope const scope{backend.workspace()};
  auto const losses = backend.workspace().template allocate<double>(rows);
  auto const logits = backend.workspace().template allocate<float>(chunk, stride);
  Matrix<S> d{};
  if constexpr (std::same_as<S, float>) {
    if (gradient) d = logits;
  } else {
    if (gradient) d = backend.workspace().template allocate<S>(chunk, stride);
  }
  for (Index begin = 0; begin < rows; begin += chunk) {
    Index const count = std::min(chunk, rows - begin);
    Matrix<S const> const part = x.rows(begin, count);
    detail::dense_forward<S, P, float>(backend, part, weight, {}, logits.data(), stride);
    detail::cross_entropy_of_logits<S, P>(backend, logits.rows(0, count), vocabulary, labels.rows(begin, count), scale.data(),
                                          d.rows(0, count), losses.rows(begin, count));
    auto const slopes = detail::operand<S>(d.rows(0, count));
    if (dx) detail::dense_input_gradient<S, P>(backend, slopes, count, weight, dx.rows(begin, count), false);
    if (dweight) detail::dense_weight_gradient<S, P>(backend, slopes, part, dweight);
  }
  using Finish = kernels::AddUp<double>;
  backend.launch(Finish{losses.data(), rows, sum.data(), false}, 1, Finish::shared_bytes);
}

}  // namespace moduleformer
