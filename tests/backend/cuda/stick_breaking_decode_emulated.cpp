// SPDX-License-Identifier: MIT
#include "emulated.hpp"
// The suite:
#include "stick_breaking_decode.hpp"
