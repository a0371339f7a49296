// SPDX-License-Identifier: MIT
#pragma once
// Include this in one source file of a program, or of a library that it links, and define
// MODULEFORMER_EXTERN_TEMPLATES in all others: the CPU backend's primitives are then compiled once.

#include <moduleformer/backend/cpu.hpp>
#include <moduleformer/backend/cpu/instance_list.hpp>

namespace moduleformer {

MODULEFORMER_CPU_INSTANCES(, float)
MODULEFORMER_CPU_INSTANCES(, double)

}  // namespace moduleformer
