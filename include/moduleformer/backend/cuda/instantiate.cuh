// SPDX-License-Identifier: MIT
#pragma once
// Include this in one .cu file of a program, or of a library that it links, and define MODULEFORMER_EXTERN_TEMPLATES in
// all others: the CUDA backend's primitives are then compiled once, for minutes. (Our own build cuts it in pieces.)

#include <moduleformer/backend/cuda.cuh>

namespace moduleformer {

MODULEFORMER_CUDA_INSTANCES(, float, Gpu)
MODULEFORMER_CUDA_INSTANCES(, bfloat16, Gpu)
MODULEFORMER_CUDA_FLOAT_RESULTS(, bfloat16, Gpu)

}  // namespace moduleformer
