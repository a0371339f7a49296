// SPDX-License-Identifier: MIT
#include "../devices.hpp"
#include "devices.hpp"

namespace cli {

Device const* find_cuda(std::string const& precision) { return precision == "float" ? &cuda_float() : &cuda_bfloat16(); }

}  // namespace cli
