// SPDX-License-Identifier: MIT
#pragma once
// What the program reads: text files (id = byte, each file one document), or a safetensors file of ids for
// other vocabularies.

#include "device.hpp"

#include <string>
#include <vector>

namespace CLI {
class App;
}

namespace cli {

struct DataOptions {
  std::vector<std::string> files;  // --data
  std::string ids;                 // --tokens
};

/// Adds --data and --tokens.
void add_data_options(CLI::App& command, DataOptions& data);

/// Throws UsageError unless exactly one of the two was given; Error for files that cannot be read.
Data read_data(DataOptions const& data, moduleformer::BatchOptions const& options);

/// Rows of the integer tensor `input_ids`, (T) or (B,T), as documents.
std::vector<std::vector<moduleformer::TokenId>> read_ids(std::string const& file);

/// input_ids (B,T), and if they are there attention_mask (B,T) and labels, of any shape. Throws FormatError
/// naming file and tensor.
moduleformer::Batch read_batch(std::string const& file);

/// Whether a model's ids are bytes, perhaps with the end mark 256.
bool is_text_model(moduleformer::Config const& config);
/// Whether its documents begin and end with the mark.
bool has_end_mark(moduleformer::Config const& config);
/// Throws UsageError for text that the model's vocabulary is not made of, naming --tokens.
void expect_text_model(moduleformer::Config const& config, std::string const& folder);

std::vector<moduleformer::TokenId> bytes_to_ids(std::string const& text);

}  // namespace cli
