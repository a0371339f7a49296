// SPDX-License-Identifier: MIT
#include "emulated.hpp"
// The suite:
#include "gates.hpp"
