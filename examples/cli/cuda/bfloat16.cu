// SPDX-License-Identifier: MIT
#include <moduleformer/backend/cuda.cuh>

#include "../device_on.hpp"
#include "devices.hpp"

namespace cli {

Device const& cuda_bfloat16() {
  static DeviceOn<moduleformer::Cuda<moduleformer::bfloat16>> const device;
  return device;
}

}  // namespace cli
