// SPDX-License-Identifier: MIT
#pragma once
// Cuda<S>: the CUDA backend on a device, whole; needs nvcc. A concept's answer is fixed where it is first asked, so
// every primitive is included here.

#include <moduleformer/backend/backend.hpp>
#include <moduleformer/backend/cuda/cuda.cuh>
#include <moduleformer/backend/cuda/gpu.cuh>
#include <moduleformer/backend/cuda/primitives.cuh>

namespace moduleformer {

template <CudaScalar S>
using Cuda = CudaBackend<S, Gpu>;

static_assert(Backend<Cuda<float>> && Backend<Cuda<bfloat16>>);

}  // namespace moduleformer
