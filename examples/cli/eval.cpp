// SPDX-License-Identifier: MIT
// moduleformer eval: how well a language model predicts a text, and how its routers spread the tokens.
#include "baselines.hpp"
#include "command.hpp"
#include "devices.hpp"
#include "report.hpp"
#include "scored_text.hpp"
#include "values.hpp"

#include <moduleformer/io/route_file.hpp>

#include <CLI/CLI.hpp>
#include <fmt/core.h>

#include <memory>
#include <string>
#include <string_view>
#include <vector>

namespace cli {
namespace {

namespace mf = moduleformer;

struct Eval {
  std::string model, svg, replay;
  ScoredText text;
  DeviceOptions device;

  explicit Eval(CLI::App& command) {
    command.add_option("--model", model, "folder of the model")->required()->check(named())->type_name("DIR");
    add_scored_text_options(command, text);
    auto* const held_out = command.get_option("--held-out");
    held_out->description(held_out->get_description() +
                          "; if below 1, a unigram and a\ntrigram model of the rest are scored too");
    command
        .add_option("--replay", replay,
                    "run the model on the experts of this record instead of its routers' choice; of\n"
                    "the same text, cut alike")
        ->check(named())
        ->type_name("FILE.safetensors");
    command.add_option("--svg", svg, "draw the routers' use into this file")->check(named())->type_name("FILE");
    add_device_options(command, device);
  }

  int run() {
    if (!svg.empty()) {
      std::vector<std::string> inputs = text.inputs();
      inputs.push_back(replay);
      check_output(svg, model, inputs);
    }
    auto const loaded = find_device(device).load(model, false);
    Data const read = text.read(*loaded, model);
    bool const is_text = is_text_model(loaded->config());
    auto const evaluation =
        replay.empty() ? loaded->evaluate(read, device.threads) : evaluate_on(*loaded, read, mf::load_routes(replay));
    print_score(evaluation, is_text, text.window_for(model));
    print_selection(loaded->policies());
    if (text.held_out < 1) print_baselines(fit_baselines(read, loaded->config().vocab_size), is_text);
    print_routers(evaluation);
    if (!svg.empty())
      draw_routers(evaluation, fmt::format("{}: how each router spread {} tokens", model, evaluation.tokens), svg);
    return success;
  }

  /// On recorded routes; errors name their file.
  [[nodiscard]] mf::Evaluation evaluate_on(LanguageModel const& loaded, Data const& read,
                                           mf::RouteRecord const& record) const {
    try {
      record.expect_model(loaded.config(), mf::shared_counts(loaded.policies().shared_experts));
      return loaded.evaluate(read, device.threads, &record);
    } catch (mf::Error const& error) {
      if (!std::string_view(error.what()).starts_with("record of routes")) throw;
      mf::fail<mf::Error>(replay, ": ", error.what());
    }
  }
};

}  // namespace

Run set_up_eval(CLI::App& command) {
  return [eval = std::make_shared<Eval>(command)] { return eval->run(); };
}

}  // namespace cli
