// SPDX-License-Identifier: MIT
// What training_device.cu compares with. Compiled without OpenMP, whose runtime a GPU machine may lack: one thread.
#include "training/beside_cpu_reference.hpp"

extern "C" int omp_get_max_threads() noexcept { return 1; }
extern "C" int omp_get_thread_num() noexcept { return 0; }
