// SPDX-License-Identifier: MIT
#pragma once
// The backend of a model that names none.

#include <moduleformer/backend/cpu.hpp>

namespace moduleformer {

using DefaultBackend = Cpu<float>;

}  // namespace moduleformer
