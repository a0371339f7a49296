// SPDX-License-Identifier: MIT
#pragma once
// AdamW (backend/arguments.hpp has the formula) and the squared norm of a gradient on the CUDA backend. Weights,
// moments and gradients are float; the weights' copy in S is what the layers read.

#include <moduleformer/backend/arguments.hpp>
#include <moduleformer/backend/checks.hpp>
#include <moduleformer/backend/cuda/cuda.cuh>
#include <moduleformer/backend/cuda/elementwise.cuh>
#include <moduleformer/backend/cuda/kernels/update.cuh>
#include <moduleformer/core/error.hpp>

#include <cmath>

namespace moduleformer {

namespace detail {

inline kernels::AdamWFactors adamw_factors(AdamWStep const& step) {
  double const t = static_cast<double>(step.step);
  return {.beta1 = static_cast<float>(step.beta1),
          .rest1 = static_cast<float>(1 - step.beta1),
          .beta2 = static_cast<float>(step.beta2),
          .rest2 = static_cast<float>(1 - step.beta2),
          .m_factor = static_cast<float>(step.learning_rate / (1 - std::pow(step.beta1, t))),
          .v_factor = static_cast<float>(1 / (1 - std::pow(step.beta2, t))),
          .epsilon = static_cast<float>(step.epsilon),
          .decay = static_cast<float>(step.learning_rate * step.weight_decay)};
}

}  // namespace detail

/// One step for a range of elements: gradient, times clip[0] -> weight, its copy rounded to S (or null), first and
/// second moment, all of one size. If clip[0] is not finite, all stays.
template <CudaScalar S, class P>
void adamw(CudaBackend<S, P>& backend, AdamWStep const& step, Vector<double const> clip, Vector<float const> gradient,
           Vector<float> weight, Arg<Vector<S>> rounded, Vector<float> m, Vector<float> v) {
  using Kernel = kernels::AdamW<S>;
  Index const size = weight.size();
  detail::expect_extents("adamw", "gradient", gradient, size);
  detail::expect_extents("adamw", "m", m, size);
  detail::expect_extents("adamw", "v", v, size);
  if (rounded) detail::expect_extents("adamw", "the rounded copy", rounded, size);
  expects(step.step > 0, "adamw: steps count from 1, found ", step.step);
  bool const packed =
      kernels::may_pack<Kernel::pack>(gradient.data(), weight.data(), rounded.data(), m.data(), v.data());
  backend.launch(Kernel{detail::adamw_factors(step), clip.data(), gradient.data(), weight.data(), rounded.data(),
                        m.data(), v.data(), size, packed},
                 detail::ceil_divide(size, Kernel::threads * Kernel::pack));
}

/// sum[0] += the sum of squares.
template <CudaScalar S, class P>
void squared_norm(CudaBackend<S, P>& backend, Vector<float const> x, Vector<double> sum) {
  detail::inner_product(backend, x.data(), x.data(), x.size(), sum.data(), true);
}

}  // namespace moduleformer
