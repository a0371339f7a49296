// SPDX-License-Identifier: MIT
#include "device.hpp"
// The suite:
#include "top_k.hpp"
