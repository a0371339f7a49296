// SPDX-License-Identifier: MIT
#include <moduleformer/backend/cuda_emulated.cuh>

#include <cuda/devices.hpp>
#include <device_on.hpp>

namespace cli {

Device const& cuda_bfloat16() {
  static DeviceOn<moduleformer::CudaEmulated<moduleformer::bfloat16>> const device;
  return device;
}

}  // namespace cli
