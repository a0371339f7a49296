// SPDX-License-Identifier: MIT
// The CPU's part of checkpoint_device.cu. Compiled without OpenMP, whose runtime a GPU machine may lack: one thread.
#include "io/checkpoint_cpu.hpp"

extern "C" int omp_get_max_threads() noexcept { return 1; }
extern "C" int omp_get_thread_num() noexcept { return 0; }
