// SPDX-License-Identifier: MIT
#pragma once
// A subcommand is a function that adds its options and returns what runs once they are parsed; its result is
// the exit status. Each stands in a file of its own.

#include "status.hpp"

#include <CLI/CLI.hpp>

#include <functional>

namespace cli {

using Run = std::function<int()>;

Run set_up_train(CLI::App& command);
Run set_up_generate(CLI::App& command);
Run set_up_eval(CLI::App& command);
Run set_up_inspect(CLI::App& command);
Run set_up_logits(CLI::App& command);
Run set_up_routes(CLI::App& command);
Run set_up_routing(CLI::App& command);
Run set_up_extend(CLI::App& command);
Run set_up_finetune(CLI::App& command);
Run set_up_prune(CLI::App& command);
Run set_up_extract(CLI::App& command);
Run set_up_insert(CLI::App& command);

}  // namespace cli
