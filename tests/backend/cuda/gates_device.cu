// SPDX-License-Identifier: MIT
#include "device.hpp"
// The suite:
#include "gates.hpp"
