// SPDX-License-Identifier: MIT
#pragma once
// What a program with CUDA links in place of without.cpp: with.cpp and these two.

#include "../device.hpp"

namespace cli {

Device const& cuda_float();
Device const& cuda_bfloat16();

}  // namespace cli
