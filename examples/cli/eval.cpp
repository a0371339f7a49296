// SPDX-License-Identifier: MIT
// moduleformer eval: how well a language model predicts a text, and how its routers spread the tokens.
#include "baselines.hpp"
#include "command.hpp"
#include "devices.hpp"
#include "report.hpp"
#include "text.hpp"
#include "train_options.hpp"

#include <CLI/CLI.hpp>
#include <fmt/core.h>

#include <memory>

namespace cli {
namespace {

namespace mf = moduleformer;

struct Eval {
  std::string model, svg;
  DataOptions data;
  DeviceOptions device;
  double held_out = 1;
  mf::Index rows = 8, window = 0;

  explicit Eval(CLI::App& command) {
    command.add_option("--model", model, "folder of the model")->required()->type_name("DIR");
    add_data_options(command, data);
    command.add_option("--held-out", held_out, "fraction of each document, its tail, that is scored; if below 1, a unigram and a\n"
                                               "trigram model of the rest are scored too")
        ->capture_default_str()
        ->check(CLI::Range(0.0, 1.0))
        ->type_name("NUMBER");
    command.add_option("--window", window, "tokens of a window; every token is predicted once, from those before it in its window;\n"
                                           "0: as in training, or 512")
        ->capture_default_str()
        ->check(CLI::Range(std::int64_t{0}, std::int64_t{1} << 40))
        ->type_name("INTEGER");
    command.add_option("--rows", rows, "windows at a time")->capture_default_str()->check(CLI::PositiveNumber)->type_name("INTEGER");
    command.add_option("--svg", svg, "draw the routers' use into this file")->type_name("FILE");
    add_device_options(command, device);
  }

  int run() {
    if (!svg.empty()) {
      std::vector<std::string> inputs = data.files;
      inputs.push_back(data.ids);
      check_output(svg, model, inputs);
    }
    auto const loaded = find_device(device).load(model, false);
    if (data.ids.empty()) expect_text_model(loaded->config(), model);
    mf::BatchOptions const options{.rows = rows,
                                   .tokens = window > 0 ? window : stored_window(model, *loaded).value_or(512),
                                   .held_out = held_out,
                                   .eos = data.ids.empty() && has_end_mark(loaded->config())};
    Data const read = read_data(data, options);
    bool const is_text = is_text_model(loaded->config());
    auto const evaluation = loaded->evaluate(read, device.threads);
    print_score(evaluation, is_text);
    if (held_out < 1) print_baselines(fit_baselines(read, loaded->config().vocab_size), is_text);
    print_routers(evaluation);
    if (!svg.empty()) draw_routers(evaluation, fmt::format("{}: how each router spread {} tokens", model, evaluation.tokens), svg);
    return success;
  }
};

}  // namespace

Run set_up_eval(CLI::App& command) {
  return [eval = std::make_shared<Eval>(command)] { return eval->run(); };
}

}  // namespace cli
