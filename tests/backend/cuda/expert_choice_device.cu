// SPDX-License-Identifier: MIT
#include "device.hpp"
// The suite:
#include "expert_choice.hpp"
