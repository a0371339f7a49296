// SPDX-License-Identifier: MIT
#pragma once
// AdamW (backend/arguments.hpp has the formula) and the squared norm of a gradient on the CUDA backend. Weights,
// moments and gradients are float; the weights' copy in S is what the layers read.

#include <moduleformer/backend/arguments.hpp>
#include <moduleformer/backend/checks.hpp>
#include <moduleformer/backend/cuda/cuda.cuh>
#include <moduleformer/backend/cuda/elementwise.cuh>
#include <moduleformer/backend/cuda/kernels/update.cuh>

namespace moduleformer {

/// One step for a range of elements: gradient -> weight, its copy rounded to S (or null), first and second moment, all
/// of one size. If step[0].clip is not finite, all stays.
template <CudaScalar S, class P>
void adamw(CudaBackend<S, P>& backend, AdamWConstants const& constants, Vector<AdamWStep const> step,
           Vector<float const> gradient, Vector<float> weight, Arg<Vector<S>> rounded, Vector<float> m, Vector<float> v) {
  using Kernel = kernels::AdamW<S>;
  Index const size = weight.size();
  detail::expect_extents("adamw", "gradient", gradient, size);
  detail::expect_extents("adamw", "m", m, size);
  detail::expect_extents("adamw", "v", v, size);
  if (rounded) detail::expect_extents("adamw", "the rounded copy", rounded, size);
  bool const packed =
      kernels::may_pack<Kernel::pack>(gradient.data(), weight.data(), rounded.data(), m.data(), v.data());
  backend.launch(Kernel{constants, step.data(), gradient.data(), weight.data(), rounded.data(),
                        m.data(), v.data(), size, packed},
                 detail::ceil_divide(size, Kernel::threads * Kernel::pack));
}

/// sum[0] += the sum of squares.
template <CudaScalar S, class P>
void squared_norm(CudaBackend<S, P>& backend, Vector<float const> x, Vector<double> sum) {
  detail::inner_product(backend, x.data(), x.data(), x.size(), sum.data(), true);
}

}  // namespace moduleformer
