// SPDX-License-Identifier: MIT
#pragma once
// The devices that this program was built for, and the options that choose one.

#include "device.hpp"

#include <string>

namespace CLI {
class App;
}

namespace cli {

struct DeviceOptions {
  std::string device = "cpu";  // --device
  std::string precision;       // --precision; empty: as the device likes
  int threads = 0;             // --threads
};

/// Adds --device, --precision and --threads.
void add_device_options(CLI::App& command, DeviceOptions& options);
/// Throws UsageError for a device that this program was not built for, or a precision that it has not.
Device const& find_device(DeviceOptions const& options);
/// Whether this program was built with CUDA, for --version.
std::string device_info();

Device const& cpu_float();
void write_logits_in_double(LogitsOptions const& options, bool classifies);
/// Null if the program was built without CUDA: see cuda/.
Device const* find_cuda(std::string const& precision);

}  // namespace cli
