// SPDX-License-Identifier: MIT
#include <moduleformer/backend/cuda_emulated.cuh>

#include <cuda/devices.hpp>
#include <device_on.hpp>

namespace cli {

Device const& cuda_float() {
  static DeviceOn<moduleformer::CudaEmulated<float>> const device;
  return device;
}

}  // namespace cli
