// SPDX-License-Identifier: MIT
#pragma once
// For tests of ragged experts on the CPU: routing plans, arrays, references.

#include "primitives.hpp"
#include "routes.hpp"
