// SPDX-License-Identifier: MIT
#pragma once
// The backend of a model that names none: the CPU in float. A .cu file has no such default, since Eigen and nvcc do
// not go together: there a model names its backend, and naming the CPU's stops with a sentence.

#if defined(__CUDACC__)

namespace moduleformer {

template <class S = float>
struct Cpu {
  static_assert(sizeof(S) == 0,
                "moduleformer: in a .cu file a model names its backend, mf::Cuda<float> or mf::Cuda<mf::bfloat16>; the CPU "
                "backend belongs in a .cpp file");
};

using DefaultBackend = Cpu<float>;

}  // namespace moduleformer

#else

#include <moduleformer/backend/cpu.hpp>

namespace moduleformer {

using DefaultBackend = Cpu<float>;

}  // namespace moduleformer

#endif
