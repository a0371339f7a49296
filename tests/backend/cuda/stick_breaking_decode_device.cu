// SPDX-License-Identifier: MIT
#include "device.hpp"
// The suite:
#include "stick_breaking_decode.hpp"
