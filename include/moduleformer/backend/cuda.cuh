// SPDX-License-Identifier: MIT
#pragma once
// Cuda<S>: the CUDA backend on a device, whole; needs nvcc. A concept's answer is fixed where it is first asked, so
// every primitive is included here.

#include <moduleformer/backend/backend.hpp>
#include <moduleformer/backend/cuda/cuda.cuh>
#include <moduleformer/backend/cuda/gpu.cuh>
#include <moduleformer/backend/cuda/instance_list.cuh>
#include <moduleformer/backend/cuda/primitives.cuh>

namespace moduleformer {

template <CudaScalar S>
using Cuda = CudaBackend<S, Gpu>;

static_assert(Backend<Cuda<float>> && Backend<Cuda<bfloat16>>);

#if defined(MODULEFORMER_EXTERN_TEMPLATES)  // compiled elsewhere: cuda/instantiate.cuh
MODULEFORMER_CUDA_INSTANCES(extern, float, Gpu)
MODULEFORMER_CUDA_INSTANCES(extern, bfloat16, Gpu)
MODULEFORMER_CUDA_FLOAT_RESULTS(extern, bfloat16, Gpu)
#endif

}  // namespace moduleformer
