// SPDX-License-Identifier: MIT
// moduleformer: trains, evaluates and runs ModuleFormers from the command line.
#include "command.hpp"
#include "devices.hpp"

#include <moduleformer/backend/cpu/build_info.hpp>

#include <CLI/CLI.hpp>
#include <fmt/core.h>

#include <cerrno>
#include <cstdio>
#include <cstring>
#include <exception>
#include <new>
#include <stdexcept>

namespace {

struct Command {
  char const* name;
  char const* description;
  cli::Run (*set_up)(CLI::App&);
};

constexpr Command commands[] = {
    {"train", "Train a new model on text, or go on with a stopped run. Ctrl-C saves and exits with 130.", cli::set_up_train},
    {"generate", "Continue text under a language model.", cli::set_up_generate},
    {"eval", "Score a text under a model: bits per byte, perplexity; load and entropies of each router.", cli::set_up_eval},
    {"inspect", "Describe a model: sizes, policies, parameters, bytes, FLOPs per token.", cli::set_up_inspect},
    {"logits", "Run a batch of ids through a model of either kind: logits, losses, gradients.", cli::set_up_logits},
    {"routing", "Report what routers do with text of several domains.", cli::set_up_routing},
    {"extend", "Give a model new experts, dormant until they are activated.", cli::set_up_extend},
    {"finetune", "Train a model, or a part of it, on other data, into a new folder.", cli::set_up_finetune},
    {"prune", "Remove the experts that a task does not use.", cli::set_up_prune},
    {"extract", "Write one expert of a model into a file.", cli::set_up_extract},
    {"insert", "Take an expert from a file into a model.", cli::set_up_insert},
    {"routes", "Record which experts each token goes to; compare two records.", cli::set_up_routes},
};

}  // namespace

int main(int argc, char** argv) {
  CLI::App app{"ModuleFormer: a sparse modular transformer. Text is bytes; models are folders with config.json and\n"
               "model.safetensors, as the published code writes them."};
  app.set_version_flag("--version", moduleformer::build_info() + ", " + cli::device_info());
  app.require_subcommand(1);
  app.footer(
      "Exit status: 0 success, 1 failure, 2 wrong usage, 3 routes that drifted, 130 interrupted. Each command has its "
      "own --help.");
  cli::Run run;
  for (Command const& command : commands) {
    auto* const options = app.add_subcommand(command.name, command.description);
    options->callback([&run, start = command.set_up(*options)] { run = start; });
  }
  try {
    app.parse(argc, argv);
    int const status = run();
    // What could not be printed is a failure too: a full disk behind a redirection.
    if (std::fflush(stdout) != 0) throw std::runtime_error(fmt::format("standard output: {}", std::strerror(errno)));
    return status;
  } catch (CLI::ParseError const& error) {
    return app.exit(error) == 0 ? cli::success : cli::wrong_usage;
  } catch (cli::UsageError const& error) {
    fmt::print(stderr, "moduleformer: {}\n", error.what());
    return cli::wrong_usage;
  } catch (std::bad_alloc const&) {
    fmt::print(stderr, "moduleformer: out of memory\n");
    return cli::failure;
  } catch (std::exception const& error) {
    fmt::print(stderr, "moduleformer: {}\n", error.what());
    return cli::failure;
  }
}
