// SPDX-License-Identifier: MIT
#pragma once
// The windows of a text that a trained model is run over, and the options that choose them: the same options give the
// same batches.

#include "text.hpp"

#include <string>
#include <vector>

namespace cli {

struct ScoredText {
  DataOptions data;         // --data, --tokens
  double held_out = 1;      // --held-out
  moduleformer::Index rows = 8, window = 0;  // --rows, --window

  /// The files that are read.
  [[nodiscard]] std::vector<std::string> inputs() const;
  /// Tokens of a window: --window, or that of the training of the model in a folder.
  [[nodiscard]] moduleformer::Index window_for(std::string const& folder) const;
  /// Throws UsageError for text that the model's vocabulary is not made of. `folder` is the model's.
  [[nodiscard]] Data read(LanguageModel const& model, std::string const& folder) const;
};

void add_scored_text_options(CLI::App& command, ScoredText& text);
/// All of them but --data and --tokens.
void add_window_options(CLI::App& command, ScoredText& text);

}  // namespace cli
