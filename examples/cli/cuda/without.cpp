// SPDX-License-Identifier: MIT
#include "../devices.hpp"

namespace cli {

Device const* find_cuda(std::string const&) { return nullptr; }

}  // namespace cli
