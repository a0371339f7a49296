// SPDX-License-Identifier: MIT
#include "emulated.hpp"
// The suite:
#include "experts_backward.hpp"
