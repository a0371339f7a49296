// SPDX-License-Identifier: MIT
#include "device.hpp"
// The suite:
#include "experts_backward.hpp"
