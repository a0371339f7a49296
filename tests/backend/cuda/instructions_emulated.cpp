// SPDX-License-Identifier: MIT
#include "emulated.hpp"
// The suite:
#include "instructions.hpp"
