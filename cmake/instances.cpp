// SPDX-License-Identifier: MIT
// Explicit instantiations of the CPU backend's primitives, compiled once for all our programs and tests.
#include <moduleformer/backend/cpu/instantiate.hpp>
