// SPDX-License-Identifier: MIT
#include "text.hpp"

#include "status.hpp"
#include "values.hpp"

#include <moduleformer/io/safetensors.hpp>

#include <CLI/CLI.hpp>
#include <fmt/core.h>

#include <filesystem>
#include <vector>

namespace cli {

namespace mf = moduleformer;

void add_data_options(CLI::App& command, DataOptions& data) {
  auto* const files =
      command.add_option("--data", data.files, "text files; each is one document")->check(named())->type_name("FILE");
  command
      .add_option("--tokens", data.ids,
                  "safetensors file with the integer tensor input_ids, (T) or (B,T), one document per\n"
                  "row; for vocabularies other than bytes")
      ->check(named())
      ->type_name("IDS.safetensors")
      ->excludes(files);
}

Data read_data(DataOptions const& data, mf::BatchOptions const& options) {
  if (data.files.empty() && data.ids.empty()) throw UsageError("expected --data FILE... or --tokens IDS.safetensors");
  if (options.rows > largest_size / options.tokens)
    throw UsageError(fmt::format("--rows {} of --window {}: expected at most {} tokens in all", options.rows,
                                 options.tokens, largest_size));
  if (!data.ids.empty()) return mf::TokenBatches(read_ids(data.ids), options);
  return mf::ByteBatches(mf::ByteBatches::Files(data.files.begin(), data.files.end()), options);
}

std::vector<std::vector<mf::TokenId>> read_ids(std::string const& file) {
  mf::SafetensorsFile const opened{file};
  mf::StoredTensor const& tensor = opened.at("input_ids");
  if (tensor.shape.empty() || tensor.shape.size() > 2 || tensor.size == 0)
    mf::fail<mf::FormatError>(tensor.where(), ": expected shape (T) or (B, T) without zeros, found ", mf::shape_text(tensor.shape));
  auto const ids = tensor.read<mf::TokenId>();
  std::vector<std::vector<mf::TokenId>> documents;
  for (auto begin = ids.begin(); begin != ids.end(); begin += tensor.shape.back())
    documents.emplace_back(begin, begin + tensor.shape.back());
  return documents;
}

mf::Batch read_batch(std::string const& path) {
  mf::SafetensorsFile const file{path};
  mf::StoredTensor const& ids = file.at("input_ids");
  if (ids.shape.size() != 2) mf::fail<mf::FormatError>(ids.where(), ": expected shape (B, T), found ", mf::shape_text(ids.shape));
  mf::Batch batch{.rows = ids.shape[0], .tokens = ids.shape[1], .ids = ids.read<mf::TokenId>()};
  if (auto const* const mask = file.find("attention_mask"); mask != nullptr) {
    mask->expect_shape(ids.shape);
    for (mf::TokenId const bit : mask->read<mf::TokenId>()) {
      if (bit != 0 && bit != 1) mf::fail<mf::FormatError>(mask->where(), ": expected zeros and ones, found ", bit);
      batch.mask.push_back(static_cast<std::uint8_t>(bit));
    }
  }
  if (auto const* const labels = file.find("labels"); labels != nullptr) {
    bool const per_row = labels->shape == std::vector<mf::Index>{batch.rows} || labels->shape == std::vector<mf::Index>{batch.rows, 1};
    if (!per_row) labels->expect_shape(ids.shape);
    batch.labels = labels->read<mf::TokenId>();
  }
  return batch;
}

bool has_end_mark(mf::Config const& config) { return config.vocab_size == 257 && config.eos_token_id == mf::ByteBatches::eos_id; }

bool is_text_model(mf::Config const& config) { return config.vocab_size == 256 || has_end_mark(config); }

void expect_text_model(mf::Config const& config, std::string const& folder) {
  if (!is_text_model(config))
    throw UsageError(fmt::format("{} has a vocabulary of {} ids, not bytes; give ids with --tokens IDS.safetensors instead of text",
                                 folder, config.vocab_size));
}

std::vector<mf::TokenId> bytes_to_ids(std::string const& text) {
  std::vector<mf::TokenId> ids;
  for (char const c : text) ids.push_back(static_cast<unsigned char>(c));
  return ids;
}

}  // namespace cli
