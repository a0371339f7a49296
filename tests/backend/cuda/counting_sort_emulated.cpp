// SPDX-License-Identifier: MIT
#include "emulated.hpp"
// The suite:
#include "counting_sort.hpp"
