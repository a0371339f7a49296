// SPDX-License-Identifier: MIT
#include "scored_text.hpp"

#include "train_options.hpp"
#include "values.hpp"

#include <CLI/CLI.hpp>

namespace cli {

namespace mf = moduleformer;

void add_scored_text_options(CLI::App& command, ScoredText& text) {
  add_data_options(command, text.data);
  add_window_options(command, text);
}

void add_window_options(CLI::App& command, ScoredText& text) {
  command.add_option("--held-out", text.held_out, "fraction of each document, its tail, that the model reads")
      ->capture_default_str()
      ->check(number({0, 1}))
      ->type_name("NUMBER");
  command
      .add_option("--window", text.window,
                  "tokens of a window; every token is predicted once, from those before it in its window;\n"
                  "0: as in training, or 512")
      ->capture_default_str()
      ->check(integer(0, largest_size))
      ->type_name("INTEGER");
  command.add_option("--rows", text.rows, "windows at a time")
      ->capture_default_str()
      ->check(integer(1, largest_size))
      ->type_name("INTEGER");
}

std::vector<std::string> ScoredText::inputs() const {
  std::vector<std::string> files = data.files;
  files.push_back(data.ids);
  return files;
}

mf::Index ScoredText::window_for(std::string const& folder) const {
  return window > 0 ? window : stored_window(folder).value_or(512);
}

Data ScoredText::read(LanguageModel const& model, std::string const& folder) const {
  if (data.ids.empty()) expect_text_model(model.config(), folder);
  return read_data(data, {.rows = rows,
                          .tokens = window_for(folder),
                          .held_out = held_out,
                          .eos = data.ids.empty() && has_end_mark(model.config())});
}

}  // namespace cli
