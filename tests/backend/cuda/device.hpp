// SPDX-License-Identifier: MIT
#pragma once
// The suite that is included after this runs on the device; compiled by nvcc and linked with device_main.cpp.

#include <moduleformer/backend/cuda/cuda.cuh>
#include <moduleformer/backend/cuda/gpu.cuh>

#include <tuple>

namespace moduleformer::test {

using Backends = std::tuple<CudaBackend<float, Gpu>, CudaBackend<bfloat16, Gpu>>;

}  // namespace moduleformer::test
