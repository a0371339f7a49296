// SPDX-License-Identifier: MIT
#include "emulated.hpp"
// The suite:
#include "top_k.hpp"
