// SPDX-License-Identifier: MIT
// moduleformer logits: a batch of ids through any model, with losses and gradients, to compare with other programs.
#include "command.hpp"
#include "models.hpp"

#include <memory>

namespace cli {
namespace {

struct LogitsCommand {
  LogitsOptions options;

  explicit LogitsCommand(CLI::App& command) {
    command.add_option("--model", options.model, "folder of the model")->required()->type_name("DIR");
    command.add_option("--input", options.input, "input_ids (B,T), and if wanted attention_mask (B,T) and labels: (B,T), position t is scored\n"
                                         "against label t+1, -100 does not count; (B) for a classifier")
        ->required()
        ->type_name("IN.safetensors");
    command.add_option("--output", options.output, "logits (B,T,V), of a classifier (B,labels); aux_loss, the unweighted sum over routers; with\n"
                                           "labels also loss, the total")
        ->required()
        ->type_name("OUT.safetensors");
    command.add_flag("--gradients", options.gradients, "also write grad.<parameter> of the total loss, for every parameter");
    command.add_flag("--double", options.in_double, "compute and write in double precision");
    command.add_option("--threads", options.threads, "threads, 0 for all")->capture_default_str()->check(CLI::Range(0, moduleformer::max_threads))->type_name("INTEGER")->take_last();
  }

  int run() const {
    check_output(options.output, options.model, {options.input});
    bool const classifies = is_classifier(options.model);
    options.in_double ? write_logits<double>(options, classifies) : write_logits<float>(options, classifies);
    return success;
  }
};

}  // namespace

Run set_up_logits(CLI::App& command) {
  return [logits = std::make_shared<LogitsCommand>(command)] { return logits->run(); };
}

}  // namespace cli
