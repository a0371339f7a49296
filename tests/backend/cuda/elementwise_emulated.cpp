// SPDX-License-Identifier: MIT
#include "emulated.hpp"
// The suite:
#include "elementwise.hpp"
