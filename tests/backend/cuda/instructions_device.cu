// SPDX-License-Identifier: MIT
#include "device.hpp"
// The suite:
#include "instructions.hpp"
