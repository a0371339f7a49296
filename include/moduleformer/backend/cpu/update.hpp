// SPDX-License-Identifier: MIT
#pragma once
// AdamW (backend/arguments.hpp has the formula) and the squared norm of a gradient. What is the same for all
// elements is computed in double; the norm adds fixed blocks, each summed in double, in ascending order.

#include <moduleformer/backend/arguments.hpp>
#include <moduleformer/backend/cpu/linear.hpp>
#include <moduleformer/backend/cpu/parallel.hpp>
#include <moduleformer/core/error.hpp>

#include <bit>
#include <cmath>
#include <cstdint>
#include <type_traits>

namespace moduleformer {

namespace detail {

/// sqrt(x) to a few units in the last place, x >= 0, by Newton's steps for 1/sqrt(x) from the exponent's half
/// (relative error 0.034, squared and times 1.5 in each step): std::sqrt may set errno, which keeps a loop from being
/// vectorised.
template <Real S>
S fast_sqrt(S x) {
  constexpr bool wide = std::is_same_v<S, double>;
  using Bits = std::conditional_t<wide, std::uint64_t, std::uint32_t>;
  constexpr Bits magic = static_cast<Bits>(wide ? 0x5fe6eb50c7b537a9u : 0x5f375a86u);
  S inverse = std::bit_cast<S>(magic - (std::bit_cast<Bits>(x) >> 1));
  S const half = S(0.5) * x;
  inverse *= S(1.5) - half * inverse * inverse;
  inverse *= S(1.5) - half * inverse * inverse;
  inverse *= S(1.5) - half * inverse * inverse;
  if constexpr (wide) inverse *= S(1.5) - half * inverse * inverse;
  return x * inverse;
}

}  // namespace detail

/// One step for a range of elements: gradient -> weight, first and second moment, all of one size. If
/// step[0].clip is not finite, all stays. The weight is its own copy in S: expected null.
template <Real S>
void adamw(Cpu<S>& backend, AdamWConstants const& constants, Vector<AdamWStep const> step,
           Arg<Vector<S const>> gradient, Arg<Vector<S>> weight, Arg<Vector<S>> rounded, Arg<Vector<S>> m, Arg<Vector<S>> v) {
  Index const size = weight.size();
  detail::expect_extents("adamw", "gradient", gradient, size);
  detail::expect_extents("adamw", "m", m, size);
  detail::expect_extents("adamw", "v", v, size);
  expects(!rounded, "adamw: the CPU's weights have no copy");
  AdamWStep const now = step[0];
  if (!std::isfinite(now.clip)) return;
  S const clip = static_cast<S>(now.clip);
  S const beta1 = static_cast<S>(constants.beta1), rest1 = static_cast<S>(1 - constants.beta1);
  S const beta2 = static_cast<S>(constants.beta2), rest2 = static_cast<S>(1 - constants.beta2);
  S const m_factor = static_cast<S>(now.learning_rate / now.first_correction);
  S const v_factor = static_cast<S>(1 / now.second_correction);
  S const epsilon = static_cast<S>(constants.epsilon);
  S const keep = static_cast<S>(1 - now.learning_rate * constants.weight_decay);
  detail::parallel_blocks(backend, size, 4 * detail::elementwise_block, [&](Index begin, Index end) {
    S const* const g = gradient.data();
    S* const w = weight.data();
    S* const first = m.data();
    S* const second = v.data();
#pragma omp simd
    for (Index i = begin; i < end; ++i) {
      S const slope = clip * g[i];
      S const mean = beta1 * first[i] + rest1 * slope;
      S const square = beta2 * second[i] + rest2 * slope * slope;
      first[i] = mean;
      second[i] = square;
      w[i] = keep * w[i] - m_factor * mean / (detail::fast_sqrt(v_factor * square) + epsilon);
    }
  });
}

/// sum[0] += the sum of squares.
template <Real S>
void squared_norm(Cpu<S>& backend, Arg<Vector<S const>> x, Vector<double> sum) {
  sum[0] += detail::sum_blocks(backend, x.size(), [&](Index begin, Index end) {
    return detail::inner_product_in_double(x.data() + begin, x.data() + begin, end - begin);
  });
}

}  // namespace moduleformer
