// SPDX-License-Identifier: MIT
#pragma once
// AdamW (backend/arguments.hpp has the formula) and the squared norm of a gradient. What is the same for all
// elements is computed in double; the norm adds fixed blocks, each summed in double, in ascending order.

#include <moduleformer/backend/arguments.hpp>
#include <moduleformer/backend/cpu/linear.hpp>
#include <moduleformer/backend/cpu/parallel.hpp>
#include <moduleformer/core/error.hpp>

#include <cmath>

namespace moduleformer {

/// One step for a range of elements: gradient -> weight, first and second moment, all of one size.
template <Real S>
void adamw(Cpu<S>& backend, AdamWStep const& step, Arg<Vector<S const>> gradient, Arg<Vector<S>> weight,
           Arg<Vector<S>> m, Arg<Vector<S>> v) {
  Index const size = weight.size();
  detail::expect_extents("adamw", "gradient", gradient, size);
  detail::expect_extents("adamw", "m", m, size);
  detail::expect_extents("adamw", "v", v, size);
  expects(step.step > 0, "adamw: steps count from 1, found ", step.step);
  double const t = static_cast<double>(step.step);
  S const clip = static_cast<S>(step.gradient_scale);
  S const beta1 = static_cast<S>(step.beta1), rest1 = static_cast<S>(1 - step.beta1);
  S const beta2 = static_cast<S>(step.beta2), rest2 = static_cast<S>(1 - step.beta2);
  S const m_factor = static_cast<S>(step.learning_rate / (1 - std::pow(step.beta1, t)));
  S const v_factor = static_cast<S>(1 / (1 - std::pow(step.beta2, t)));
  S const epsilon = static_cast<S>(step.epsilon), keep = static_cast<S>(1 - step.learning_rate * step.weight_decay);
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
      w[i] = keep * w[i] - m_factor * mean / (std::sqrt(v_factor * square) + epsilon);
    }
  });
}

/// Sum of squares.
template <Real S>
double squared_norm(Cpu<S>& backend, Arg<Vector<S const>> x) {
  return detail::sum_blocks(backend, x.size(), [&](Index begin, Index end) {
    double sum = 0;
#pragma omp simd reduction(+ : sum)
    for (Index i = begin; i < end; ++i) sum += static_cast<double>(x[i]) * static_cast<double>(x[i]);
    return sum;
  });
}

}  // namespace moduleformer
