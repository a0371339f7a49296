// SPDX-License-Identifier: MIT
#include "emulated.hpp"
// The suite:
#include "cross_entropy.hpp"
