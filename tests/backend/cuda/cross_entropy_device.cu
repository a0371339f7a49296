// SPDX-License-Identifier: MIT
#include "device.hpp"
// The suite:
#include "cross_entropy.hpp"
