// SPDX-License-Identifier: MIT
#include "emulated.hpp"
// The suite:
#include "expert_choice.hpp"
