// SPDX-License-Identifier: MIT
#pragma once
// The suite that is included after this runs on the emulated device.

#include <moduleformer/backend/cuda/emulation/emulated.cuh>
#include <moduleformer/backend/cuda/cuda.cuh>

#include <tuple>

namespace moduleformer::test {

using Backends = std::tuple<CudaBackend<float, Emulated>, CudaBackend<bfloat16, Emulated>>;

}  // namespace moduleformer::test
