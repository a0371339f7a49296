// SPDX-License-Identifier: MIT
#pragma once
// A subcommand: its options, and what runs once they are parsed. Each stands in a file of its own.

#include <CLI/CLI.hpp>

#include <functional>
#include <stdexcept>

namespace cli {

/// Exit statuses; 128 + signal after an interruption.
enum Status : int { success = 0, failure = 1, wrong_usage = 2 };

/// Options that contradict each other or the model: status 2.
class UsageError : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

struct Command {
  CLI::App* options;
  std::function<int()> run;  // returns the exit status
};

Command train_command(CLI::App& app);
Command generate_command(CLI::App& app);
Command eval_command(CLI::App& app);
Command inspect_command(CLI::App& app);
Command logits_command(CLI::App& app);

}  // namespace cli
