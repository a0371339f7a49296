// SPDX-License-Identifier: MIT
#pragma once
// CudaEmulated<S>: the CUDA backend with its kernels run on the host, whole, for tests without a device. Any C++20
// compiler reads it. A concept's answer is fixed where it is first asked, so every primitive is included here.

#include <moduleformer/backend/backend.hpp>
#include <moduleformer/backend/cuda/cuda.cuh>
#include <moduleformer/backend/cuda/emulation/emulated.cuh>
#include <moduleformer/backend/cuda/instance_list.cuh>
#include <moduleformer/backend/cuda/primitives.cuh>

namespace moduleformer {

template <CudaScalar S>
using CudaEmulated = CudaBackend<S, Emulated>;

static_assert(Backend<CudaEmulated<float>> && Backend<CudaEmulated<bfloat16>>);

#if defined(MODULEFORMER_EXTERN_EMULATED)  // compiled elsewhere, once for many tests
MODULEFORMER_CUDA_INSTANCES(extern, float, Emulated)
MODULEFORMER_CUDA_INSTANCES(extern, bfloat16, Emulated)
MODULEFORMER_CUDA_FLOAT_RESULTS(extern, bfloat16, Emulated)
#endif

}  // namespace moduleformer
