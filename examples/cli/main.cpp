// SPDX-License-Identifier: MIT
// moduleformer: trains, evaluates and runs ModuleFormers from the command line.
#include "command.hpp"

#include <moduleformer/backend/cpu/build_info.hpp>

#include <CLI/CLI.hpp>
#include <fmt/core.h>

#include <cerrno>
#include <cstdio>
#include <cstring>
#include <exception>
#include <initializer_list>
#include <new>
#include <stdexcept>

namespace {

int run(std::initializer_list<cli::Command> commands) {
  int status = cli::success;
  for (cli::Command const& command : commands)
    if (command.options->parsed()) status = command.run();
  // What could not be printed is a failure too: a full disk behind a redirection.
  if (std::fflush(stdout) != 0) throw std::runtime_error(fmt::format("standard output: {}", std::strerror(errno)));
  return status;
}

}  // namespace

int main(int argc, char** argv) {
  CLI::App app{"ModuleFormer: a sparse modular transformer. Text is bytes; models are folders with config.json and\n"
               "model.safetensors, as the published code writes them."};
  app.set_version_flag("--version", moduleformer::build_info());
  app.require_subcommand(1);
  app.footer("Exit status: 0 success, 1 failure, 2 wrong usage, 130 interrupted. Each command has its own --help.");
  auto const commands = {cli::train_command(app), cli::generate_command(app), cli::eval_command(app), cli::inspect_command(app),
                         cli::logits_command(app)};
  try {
    app.parse(argc, argv);
    return run(commands);
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
