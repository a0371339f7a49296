// SPDX-License-Identifier: MIT
#include "devices.hpp"

#include "status.hpp"
#include "values.hpp"

#include <moduleformer/backend/cpu.hpp>

#include <CLI/CLI.hpp>

namespace cli {

void add_device_options(CLI::App& command, DeviceOptions& options) {
  command.add_option("--device", options.device, "where the model computes; cuda: the current CUDA device, if the program was built\n"
                                                 "with CUDA")
      ->capture_default_str()
      ->check(CLI::IsMember({"cpu", "cuda"}))
      ->type_name("NAME")
      ->take_last();
  command.add_option("--precision", options.precision, "of activations: float, or bfloat16 on cuda, where it is the default; sums and\n"
                                                       "stored weights are float in both")
      ->check(CLI::IsMember({"float", "bfloat16"}))
      ->type_name("NAME")
      ->take_last();
  command.add_option("--threads", options.threads, "threads of the CPU, 0 for all")
      ->capture_default_str()
      ->check(integer(0, moduleformer::max_threads))
      ->type_name("INTEGER")
      ->take_last();
}

Device const& find_device(DeviceOptions const& options) {
  if (options.device == "cpu") {
    if (options.precision == "bfloat16") throw UsageError("--precision bfloat16 is for --device cuda");
    return cpu_float();
  }
  if (Device const* const device = find_cuda(options.precision)) return *device;
  throw UsageError("--device cuda: this program was built without CUDA; configure the build with -DMODULEFORMER_CUDA=ON, which\n"
                   "needs a CUDA toolkit (12.0 or later)");
}

std::string device_info() { return find_cuda("") != nullptr ? "with CUDA" : "without CUDA"; }

}  // namespace cli
