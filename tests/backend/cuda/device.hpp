// SPDX-License-Identifier: MIT
#pragma once
// The suite that is included after this runs on the device; compiled by nvcc and linked with device_main.cpp.

// The whole backend, so that its primitives are known to be compiled elsewhere.
#include <moduleformer/backend/cuda.cuh>

#include <tuple>

namespace moduleformer::test {

using Backends = std::tuple<Cuda<float>, Cuda<bfloat16>>;

}  // namespace moduleformer::test
