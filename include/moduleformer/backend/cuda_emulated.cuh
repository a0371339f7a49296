// SPDX-License-Identifier: MIT
#pragma once
// CudaEmulated<S>: the CUDA backend with its kernels run on the host, whole, for tests without a device. Any C++20
// compiler reads it. A concept's answer is fixed where it is first asked, so every primitive is included here.

#include <moduleformer/backend/backend.hpp>
#include <moduleformer/backend/cuda/cuda.cuh>
#include <moduleformer/backend/cuda/emulation/emulated.cuh>
#include <moduleformer/backend/cuda/primitives.cuh>

namespace moduleformer {

template <CudaScalar S>
using CudaEmulated = CudaBackend<S, Emulated>;

static_assert(Backend<CudaEmulated<float>> && Backend<CudaEmulated<bfloat16>>);

}  // namespace moduleformer
