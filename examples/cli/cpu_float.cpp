// SPDX-License-Identifier: MIT
#include <moduleformer/backend/cpu.hpp>

#include "device_on.hpp"
#include "devices.hpp"

namespace cli {

Device const& cpu_float() {
  static DeviceOn<moduleformer::Cpu<float>> const device;
  return device;
}

}  // namespace cli
