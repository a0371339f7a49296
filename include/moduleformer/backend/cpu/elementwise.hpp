// SPDX-License-Identifier: MIT
#pragma once
// Elementwise primitives: adding the experts of a token to its residual, dropout, jitter, activations, sums and
// inner products. Dropout's mask is a function of key and element (backend/arguments.hpp), so that
// backward makes it again; without dropout no random number is made.

#include <moduleformer/backend/arguments.hpp>
#include <moduleformer/backend/cpu/activation.hpp>
#include <moduleformer/backend/cpu/linear.hpp>
#include <moduleformer/backend/cpu/parallel.hpp>
#include <moduleformer/core/error.hpp>
#include <moduleformer/core/random.hpp>

#include <algorithm>
#include <cstddef>
#include <cstdint>

namespace moduleformer {

namespace detail {

/// Elements whose dropout factors are made at a time.
inline constexpr Index dropout_block = 256;

/// Factors (0 or 1 / (1 - probability)) of elements begin..begin+count, at most dropout_block; `room`
/// holds dropout_block + 8. Returns where the first one is.
template <Real S>
S const* dropout_factors(Dropout const& drop, Index begin, Index count, S* room) {
  S const kept = static_cast<S>(1.0 / (1.0 - static_cast<double>(drop.probability)));
  float const probability = drop.probability;
  RandomKey const key = drop.random.key();
  std::uint64_t const first = static_cast<std::uint64_t>(begin) / 4;
  Index const groups = ceil_divide(begin % 4 + count, 4);
  for (Index g = 0; g < groups; ++g) {
    auto const words = random_words(key, first + static_cast<std::uint64_t>(g));
    room[4 * g] = to_unit(words[0]) >= probability ? kept : S(0);
    room[4 * g + 1] = to_unit(words[1]) >= probability ? kept : S(0);
    room[4 * g + 2] = to_unit(words[2]) >= probability ? kept : S(0);
    room[4 * g + 3] = to_unit(words[3]) >= probability ? kept : S(0);
  }
  return room + begin % 4;
}

/// sums = y[0] + y[1] + ... over `slots` consecutive rows of `width`, at columns c..c+count.
template <Real S>
void sum_slots(S const* y, Index slots, Index width, Index count, S* sums) {
  std::copy_n(y, count, sums);
  for (Index s = 1; s < slots; ++s) {
    S const* const row = y + s * width;
#pragma omp simd
    for (Index i = 0; i < count; ++i) sums[i] += row[i];
  }
}

/// Row t of combine; the pointers are those of the row's beginnings.
template <Real S>
void combine_row(Index slots, S const* y, Dropout const& drop, S const* residual, S* out, Index t, Index width) {
  for (Index c = 0; c < width; c += dropout_block) {
    Index const count = std::min(dropout_block, width - c);
    S sums[dropout_block];
    sum_slots(y + c, slots, width, count, sums);
    S const* const from = residual + c;
    S* const to = out + c;
    if (drop.probability > 0) {
      S room[dropout_block + 8];
      S const* const factors = dropout_factors(drop, t * width + c, count, room);
#pragma omp simd
      for (Index i = 0; i < count; ++i) to[i] = from[i] + factors[i] * sums[i];
    } else {
#pragma omp simd
      for (Index i = 0; i < count; ++i) to[i] = from[i] + sums[i];
    }
  }
}

}  // namespace detail

/// out[t] = residual[t] + dropout(sum_s y[t*slots+s]), s ascending; residual, out (N,D), y (N*slots,D).
/// out may be residual.
template <Real S>
void combine(Cpu<S>& backend, Index slots, Arg<Matrix<S const>> y, Dropout drop, Arg<Matrix<S const>> residual,
             Arg<Matrix<S>> out) {
  Index const tokens = out.extent(0), width = out.extent(1);
  detail::expect_combine("combine", slots, y, drop, residual, out);
  detail::parallel_blocks(backend, tokens, detail::row_block(width), [&](Index begin, Index end) {
    for (Index t = begin; t < end; ++t)
      detail::combine_row(slots, y.data() + t * slots * width, drop, residual.data() + t * width,
                          out.data() + t * width, t, width);
  });
}

/// out = dropout(x), which is its own backward; out may be x.
template <Real S>
void apply_dropout(Cpu<S>& backend, Dropout drop, Arg<Matrix<S const>> x, Arg<Matrix<S>> out) {
  detail::expect_same("apply_dropout", "out", out, x);
  detail::expect_probability("apply_dropout", drop);
  detail::parallel_blocks(backend, x.size(), detail::elementwise_block, [&](Index begin, Index end) {
    if (drop.probability == 0) {
      if (out.data() != x.data()) std::copy(x.data() + begin, x.data() + end, out.data() + begin);
      return;
    }
    for (Index at = begin; at < end; at += detail::dropout_block) {
      Index const count = std::min(detail::dropout_block, end - at);
      S room[detail::dropout_block + 8];
      S const* const factors = detail::dropout_factors(drop, at, count, room);
      S const* const from = x.data() + at;
      S* const to = out.data() + at;
#pragma omp simd
      for (Index i = 0; i < count; ++i) to[i] = factors[i] * from[i];
    }
  });
}

/// out = x times draws near 1, which is its own backward; out may be x.
template <Real S>
void apply_jitter(Cpu<S>& backend, Jitter jitter, Arg<Matrix<S const>> x, Arg<Matrix<S>> out) {
  detail::expect_same("apply_jitter", "out", out, x);
  detail::expect_width("apply_jitter", jitter);
  if (jitter.width == 0) return apply_dropout(backend, Dropout{}, x, out);
  RandomKey const key = jitter.random.key();
  detail::parallel_blocks(backend, x.size(), detail::elementwise_block, [&](Index begin, Index end) {
    for (Index group = begin / 4; 4 * group < end; ++group) {
      auto const words = random_words(key, static_cast<std::uint64_t>(group));
      for (Index i = std::max(begin, 4 * group); i < std::min(end, 4 * group + 4); ++i)
        out.data()[i] = static_cast<S>(jitter.factor(words[static_cast<std::size_t>(i % 4)])) * x.data()[i];
    }
  });
}

/// y = act(z); y may be z.
template <Real S, class Act>
void activation_forward(Cpu<S>& backend, Act const& act, Arg<Matrix<S const>> z, Arg<Matrix<S>> y) {
  detail::expect_same("activation_forward", "y", y, z);
  detail::parallel_blocks(backend, z.size(), detail::elementwise_block, [&](Index begin, Index end) {
    detail::activate(act, S(1), z.data() + begin, y.data() + begin, end - begin);
  });
}

/// dz = dy act'(z); dz may be dy.
template <Real S, class Act>
void activation_backward(Cpu<S>& backend, Act const& act, Arg<Matrix<S const>> dy, Arg<Matrix<S const>> z,
                         Arg<Matrix<S>> dz) {
  detail::expect_same("activation_backward", "dy", dy, z);
  detail::expect_same("activation_backward", "dz", dz, z);
  detail::parallel_blocks(backend, z.size(), detail::elementwise_block, [&](Index begin, Index end) {
    detail::activation_gradients<Act, S>(act, S(1), dy.data() + begin, z.data() + begin, dz.data() + begin, nullptr,
                                         end - begin);
  });
}

/// out += x.
template <Real S>
void add(Cpu<S>& backend, Arg<Matrix<S const>> x, Arg<Matrix<S>> out) {
  detail::expect_same("add", "out", out, x);
  detail::parallel_blocks(backend, x.size(), detail::elementwise_block, [&](Index begin, Index end) {
#pragma omp simd
    for (Index i = begin; i < end; ++i) out[i] += x[i];
  });
}

/// out = x * factor[0]; out may be x.
template <Real S>
void scale_by(Cpu<S>& backend, Arg<Vector<S const>> factor, Arg<Matrix<S const>> x, Arg<Matrix<S>> out) {
  detail::expect_extents("scale_by", "factor", factor, 1);
  detail::expect_same("scale_by", "out", out, x);
  S const by = factor[0];
  detail::parallel_blocks(backend, x.size(), detail::elementwise_block, [&](Index begin, Index end) {
#pragma omp simd
    for (Index i = begin; i < end; ++i) out[i] = by * x[i];
  });
}

/// out[0] = <x, y> over all elements, summed in double.
template <Real S>
void dot(Cpu<S>& backend, Arg<Matrix<S const>> x, Arg<Matrix<S const>> y, Arg<Vector<S>> out) {
  detail::expect_same("dot", "y", y, x);
  detail::expect_extents("dot", "out", out, 1);
  out[0] = static_cast<S>(detail::sum_blocks(backend, x.size(), [&](Index begin, Index end) {
    return detail::inner_product_in_double(x.data() + begin, y.data() + begin, end - begin);
  }));
}

}  // namespace moduleformer
