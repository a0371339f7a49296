// SPDX-License-Identifier: MIT
#include <moduleformer/backend/cuda.cuh>

#include "../device_on.hpp"
#include "devices.hpp"

namespace cli {

Device const& cuda_float() {
  static DeviceOn<moduleformer::Cuda<float>> const device;
  return device;
}

}  // namespace cli
