// SPDX-License-Identifier: MIT
// What generation_device.cu compares with. Compiled without OpenMP, whose runtime a GPU machine may lack: one thread.
#include <moduleformer/backend/cpu.hpp>

#include "model/generation_beside_cpu.hpp"

namespace mf = moduleformer;

std::vector<mf::Generated> mf::test::cpu_generated(Variant const& variant, GenerationOptions const& options) {
  return generated<Cpu<float>>(variant, options);
}

extern "C" int omp_get_max_threads() noexcept { return 1; }
extern "C" int omp_get_thread_num() noexcept { return 0; }
