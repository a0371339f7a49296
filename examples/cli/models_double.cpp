// SPDX-License-Identifier: MIT
#include "write_logits.hpp"

namespace cli {

template void write_logits<double>(LogitsOptions const&, bool);

}  // namespace cli
