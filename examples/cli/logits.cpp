// SPDX-License-Identifier: MIT
// moduleformer logits: a batch of ids through any model, with losses and gradients, to compare with other programs.
#include "command.hpp"
#include "devices.hpp"
#include "folder.hpp"
#include "values.hpp"

#include <CLI/CLI.hpp>

#include <memory>

namespace cli {
namespace {

struct LogitsCommand {
  LogitsOptions options;
  DeviceOptions device;
  bool in_double = false;

  explicit LogitsCommand(CLI::App& command) {
    command.add_option("--model", options.model, "folder of the model")->required()->check(named())->type_name("DIR");
    command
        .add_option("--input", options.input,
                    "input_ids (B,T), and if wanted attention_mask (B,T) and labels: (B,T), position t is scored\n"
                    "against label t+1, -100 does not count; (B) for a classifier")
        ->required()
        ->check(named())
        ->type_name("IN.safetensors");
    command
        .add_option("--output", options.output,
                    "logits (B,T,V), of a classifier (B,labels); aux_loss, the unweighted sum over routers; with\n"
                    "labels also loss, the total")
        ->required()
        ->check(named())
        ->type_name("OUT.safetensors");
    command.add_flag("--gradients", options.gradients, "also write grad.<parameter> of the total loss, for every parameter");
    command.add_flag("--double", in_double, "compute and write in double precision, on the CPU");
    add_device_options(command, device);
  }

  int run() {
    options.threads = device.threads;
    Device const& chosen = find_device(device);
    if (in_double && (device.device != "cpu" || !device.precision.empty()))
      throw UsageError("--double computes on the CPU, it excludes --device cuda and --precision");
    check_output(options.output, options.model, {options.input});
    bool const classifies = is_classifier(options.model);
    in_double ? write_logits_in_double(options, classifies) : chosen.write_logits(options, classifies);
    return success;
  }
};

}  // namespace

Run set_up_logits(CLI::App& command) {
  return [logits = std::make_shared<LogitsCommand>(command)] { return logits->run(); };
}

}  // namespace cli
