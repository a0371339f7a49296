// SPDX-License-Identifier: MIT
#pragma once
// Cross-entropy of logits = x W^T, fused: chunks of rows make their logits, the sum of
// -log softmax(logits)[label] (lse - logit, the loss in double), d = scale (softmax - onehot) in place,
// then dx = d W and dW += d^T x. The (N,V) matrix never exists as a whole.

#include <moduleformer/backend/cpu/embedding.hpp>
#include <moduleformer/backend/cpu/linear.hpp>
#include <moduleformer/backend/cpu/parallel.hpp>
#include <moduleformer/backend/primitive_checks.hpp>
#include <moduleformer/core/error.hpp>
#include <moduleformer/core/math.hpp>

#include <algorithm>
#include <cmath>
#include <limits>

namespace moduleformer {

namespace detail {

/// Rows of a chunk: few enough that its logits stay small, many enough that reading W pays.
constexpr Index cross_entropy_rows(Index vocabulary) {
  constexpr Index elements = Index{1} << 22;
  return std::clamp<Index>(elements / std::max<Index>(vocabulary, 1), 128, 512);
}

/// The largest element, NaN left out; lane by lane, since a reduction to the maximum is not vectorised otherwise.
template <Real S>
S largest_element(S const* x, Index count) {
  constexpr Index lanes = 16;
  S largest[lanes];
  std::fill_n(largest, lanes, -std::numeric_limits<S>::infinity());
  Index i = 0;
  for (; i + lanes <= count; i += lanes)
    for (Index l = 0; l < lanes; ++l) largest[l] = x[i + l] > largest[l] ? x[i + l] : largest[l];
  for (; i < count; ++i) largest[0] = x[i] > largest[0] ? x[i] : largest[0];
  return *std::max_element(largest, largest + lanes);
}

/// One row: returns its loss; with `gradient` the logits become scale (softmax - onehot). The exponentials
/// are summed in parts of a few hundred, these in double.
template <Real S>
double cross_entropy_row(S* logits, Index count, TokenId label, S scale, bool gradient) {
  constexpr Index part = 256;
  if (label == ignore_label) {
    if (gradient) std::fill_n(logits, count, S(0));
    return 0;
  }
  S const largest = largest_element(logits, count);
  double const chosen = static_cast<double>(logits[label]) - static_cast<double>(largest);
  double sum = 0;
  for (Index begin = 0; begin < count; begin += part) {
    S const* const from = logits + begin;
    Index const size = std::min(part, count - begin);
    S exponentials[part];
    S partial = 0;
#pragma omp simd reduction(+ : partial)
    for (Index i = 0; i < size; ++i) {
      exponentials[i] = math::exp(from[i] - largest);
      partial += exponentials[i];
    }
    sum += static_cast<double>(partial);
    if (gradient) std::copy_n(exponentials, size, logits + begin);
  }
  if (gradient) {
    S const factor = static_cast<S>(static_cast<double>(scale) / sum);
#pragma omp simd
    for (Index i = 0; i < count; ++i) logits[i] *= factor;
    logits[label] -= scale;
  }
  return std::log(sum) - chosen;
}

}  // namespace detail

/// x (N,D), W (V,D), labels (N). sum[0] = the sum over labels other than ignore_label; dx (N,D) overwritten and
/// dW (V,D) added to, unless null (scale is then not read). Throws Error for a label outside the vocabulary.
template <Real S>
void cross_entropy(Cpu<S>& backend, Arg<Matrix<S const>> x, Arg<Matrix<S const>> weight,
                   Arg<Vector<TokenId const>> labels, Vector<double const> scale, Arg<Matrix<S>> dx,
                   Arg<Matrix<S>> dweight, Vector<double> sum) {
  Index const rows = x.extent(0), vocabulary = weight.extent(0);
  detail::check_cross_entropy(x, weight, labels, dx, dweight);
  for (Index t = 0; t < rows; ++t)
    expects(labels[t] == ignore_label || (labels[t] >= 0 && labels[t] < vocabulary),
            "cross_entropy: label at position ", t, ": expected 0 to ", vocabulary - 1, " or ", ignore_label,
            ", found ", labels[t]);

  bool const gradient = static_cast<bool>(dx) || static_cast<bool>(dweight);
  S const slope_scale = gradient ? static_cast<S>(scale[0]) : S(0);
  Index const chunk = std::min(rows, detail::cross_entropy_rows(vocabulary));
  Scope const scope{backend.workspace()};
  auto const buffer = backend.workspace().template allocate<S>(chunk, vocabulary);
  auto const losses = backend.workspace().template allocate<double>(chunk);
  double total = 0;
  for (Index begin = 0; begin < rows; begin += chunk) {
    Index const count = std::min(chunk, rows - begin);
    auto const part = x.rows(begin, count);
    auto const logits = buffer.rows(0, count);
    linear(backend, part, weight, {}, logits);
    detail::parallel_blocks(backend, count, detail::row_block(vocabulary), [&](Index first, Index end) {
      for (Index r = first; r < end; ++r)
        losses[r] = detail::cross_entropy_row(logits.slice(r).data(), vocabulary, labels[begin + r],
                                              slope_scale, gradient);
    });
    for (Index r = 0; r < count; ++r) total += losses[r];
    if (dx) linear_input_gradient(backend, logits, weight, dx.rows(begin, count), false);
    if (dweight) linear_weight_gradient(backend, logits, part, 0, dweight);
  }
  sum[0] = total;
}

}  // namespace moduleformer
