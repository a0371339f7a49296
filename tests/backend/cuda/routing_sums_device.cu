// SPDX-License-Identifier: MIT
#include "device.hpp"
// The suite:
#include "routing_sums.hpp"
