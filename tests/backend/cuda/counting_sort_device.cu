// SPDX-License-Identifier: MIT
#include "device.hpp"
// The suite:
#include "counting_sort.hpp"
