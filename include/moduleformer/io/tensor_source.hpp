// SPDX-License-Identifier: MIT
#pragma once
// The tensors of a checkpoint as one table, whether they lie in one file or in shards: reading and
// writing <stem>.safetensors, or <stem>-00001-of-0000N.safetensors with <stem>.safetensors.index.json
// {"metadata": {"total_size": bytes}, "weight_map": {tensor: shard}} (the Hugging Face layout).

#include <moduleformer/core/error.hpp>
#include <moduleformer/core/types.hpp>
#include <moduleformer/io/json_file.hpp>
#include <moduleformer/io/output_file.hpp>
#include <moduleformer/io/safetensors.hpp>
#include <moduleformer/io/safetensors_writer.hpp>
#include <moduleformer/io/save_id.hpp>
#include <moduleformer/io/stored_tensor.hpp>

#include <nlohmann/json.hpp>

#include <algorithm>
#include <filesystem>
#include <map>
#include <set>
#include <span>
#include <string>
#include <string_view>
#include <system_error>
#include <utility>
#include <vector>

namespace moduleformer {

/// All tensors of a folder's checkpoint, or of one file. Entries keep their files mapped.
class TensorSource {
 public:
  /// A folder with <stem>.safetensors or <stem>.safetensors.index.json (the first wins), or a file.
  /// Throws Error if there is neither; FormatError for a bad file, a missing shard, a tensor missing or
  /// in another shard than the index says, shards of different saves.
  explicit TensorSource(std::filesystem::path const& path, std::string_view stem = "model");

  [[nodiscard]] TensorTable const& tensors() const { return tensors_; }
  [[nodiscard]] StoredTensor const* find(std::string_view tensor) const { return find_tensor(tensors_, tensor); }
  /// Throws FormatError if there is no tensor of that name.
  [[nodiscard]] StoredTensor const& at(std::string_view tensor) const {
    auto const* const found = find(tensor);
    if (found == nullptr) fail<FormatError>(path_, ": no tensor ", quoted_name(tensor));
    return *found;
  }
  /// The metadata of the file, or of the shards together (the first shard's value of each key).
  [[nodiscard]] Metadata const& metadata() const { return metadata_; }
  /// The save id of all files; empty if none has one.
  [[nodiscard]] std::string const& save_id() const { return ids_.id(); }
  /// The file, or the index.
  [[nodiscard]] std::filesystem::path const& path() const { return path_; }

 private:
  void read_file(SafetensorsFile const& file);
  void read_index();

  std::filesystem::path path_;
  TensorTable tensors_;
  Metadata metadata_;
  SaveIdCheck ids_;
};

/// Writes tensors, which are split into shards of at most max_shard_bytes of data (a single larger
/// tensor gets a shard of its own), or go into one file if they fit. The folder must hold no files of
/// an earlier checkpoint of that stem: write into a FolderCommit's folder.
void write_tensors(std::filesystem::path const& folder, std::string_view stem, std::span<OutputTensor const> tensors,
                   Metadata const& metadata, Index max_shard_bytes = 5'000'000'000);

/// Whether a file name is one that write_tensors can produce for the stem. A FolderCommit that replaces
/// a checkpoint drops these from the old folder: old shards beside a new file would be dead weight.
inline bool is_tensor_file(std::string_view name, std::string_view stem) {
  if (!name.starts_with(stem)) return false;
  name.remove_prefix(stem.size());
  if (name == ".safetensors" || name == ".safetensors.index.json") return true;
  constexpr std::string_view pattern = "-00000-of-00000.safetensors";
  return name.size() == pattern.size() &&
         std::ranges::equal(name, pattern, [](char c, char p) { return p == '0' ? c >= '0' && c <= '9' : c == p; });
}

inline TensorSource::TensorSource(std::filesystem::path const& path, std::string_view stem) : path_(path) {
  std::error_code code;
  if (!std::filesystem::is_directory(path, code)) {
    read_file(SafetensorsFile{path});
    return;
  }
  std::string const name = std::string{stem} + ".safetensors";
  path_ = path / name;
  if (std::filesystem::exists(path_, code)) {
    read_file(SafetensorsFile{path_});
    return;
  }
  path_ += ".index.json";
  bool const is_pickled = std::filesystem::exists(path / "pytorch_model.bin", code) ||
                          std::filesystem::exists(path / "pytorch_model.bin.index.json", code);
  expects(std::filesystem::exists(path_, code), path, " has neither ", name, " nor ", name, ".index.json",
          is_pickled ? "; convert its pytorch_model files to safetensors first" : "");
  read_index();
}

inline void TensorSource::read_file(SafetensorsFile const& file) {
  ids_.see(file.path(), file.metadata(save_id_key));
  metadata_.insert(file.metadata().begin(), file.metadata().end());
  tensors_.insert(file.tensors().begin(), file.tensors().end());
}

inline void TensorSource::read_index() {
  nlohmann::json const index = read_json(path_, 3);
  auto const map = index.is_object() ? index.find("weight_map") : index.end();
  if (map == index.end() || !map->is_object())
    fail<FormatError>(path_, ": expected an object with an object weight_map");
  if (auto const metadata = index.find("metadata"); metadata != index.end() && metadata->is_object()) {
    auto const id = metadata->find(save_id_key);
    if (id != metadata->end() && id->is_string()) ids_.see(path_, id->get_ref<std::string const&>());
  }

  std::set<std::string> shards;
  for (auto const& [tensor, shard] : map->items()) {
    bool const is_name = shard.is_string() && shard.get_ref<std::string const&>().ends_with(".safetensors") &&
                         shard.get_ref<std::string const&>().find_first_of("/\\") == std::string::npos;
    if (!is_name) {
      fail<FormatError>(path_, ": weight_map must give tensor ", quoted_name(tensor), " a file name, found ",
                        quoted_name(shard.dump(-1, ' ', true, nlohmann::json::error_handler_t::replace)));
    }
    shards.insert(shard.get<std::string>());
  }
  for (auto const& shard : shards) {
    auto const shard_path = path_.parent_path() / shard;
    std::error_code code;
    if (!std::filesystem::exists(shard_path, code))
      fail<FormatError>(path_, ": shard ", quoted_name(shard), " is missing");
    SafetensorsFile const opened{shard_path};
    for (auto const& [tensor, entry] : opened.tensors()) {
      auto const promised = map->find(tensor);
      if (promised == map->end()) fail<FormatError>(entry.where(), ": not in the weight_map of ", path_);
      if (*promised != shard) {
        fail<FormatError>(entry.where(), ": the weight_map of ", path_, " says it is in ",
                          quoted_name(promised->get_ref<std::string const&>()));
      }
    }
    read_file(opened);
  }
  for (auto const& [tensor, shard] : map->items()) {
    if (!tensors_.contains(tensor)) {
      fail<FormatError>(path_, ": tensor ", quoted_name(tensor), " is missing in shard ",
                        quoted_name(shard.get_ref<std::string const&>()));
    }
  }
}

inline void write_tensors(std::filesystem::path const& folder, std::string_view stem,
                          std::span<OutputTensor const> tensors, Metadata const& metadata, Index max_shard_bytes) {
  expects(max_shard_bytes > 0, "max_shard_bytes must be positive, found ", max_shard_bytes);
  std::vector<std::span<OutputTensor const>> shards;
  Index total = 0;
  for (std::size_t begin = 0, end = 0; begin < tensors.size(); begin = end) {
    Index bytes = 0;
    for (; end < tensors.size() && (end == begin || tensors[end].bytes() <= max_shard_bytes - bytes); ++end) {
      bytes += tensors[end].bytes();
    }
    shards.push_back(tensors.subspan(begin, end - begin));
    total += bytes;
  }
  std::string const whole_name = std::string{stem} + ".safetensors";
  if (shards.size() <= 1) return write_safetensors(folder / whole_name, tensors, metadata);

  expects(shards.size() < 100'000, "shards of ", max_shard_bytes, " bytes would be ", shards.size(), ", at most 99999");
  auto const digits = [](std::size_t number) {
    std::string const text = std::to_string(number);
    return std::string(5 - text.size(), '0') + text;
  };
  nlohmann::json weight_map = nlohmann::json::object();
  for (std::size_t i = 0; i < shards.size(); ++i) {
    std::string const name = std::string{stem} + "-" + digits(i + 1) + "-of-" + digits(shards.size()) + ".safetensors";
    for (auto const& tensor : shards[i]) {
      expects(weight_map.emplace(tensor.name, name).second, folder, ": the tensor name ", quoted_name(tensor.name),
              " is taken");
    }
    write_safetensors(folder / name, shards[i], metadata);
  }
  nlohmann::json index{{"metadata", {{"total_size", total}}}, {"weight_map", std::move(weight_map)}};
  if (auto const id = metadata.find(save_id_key); id != metadata.end()) index["metadata"][id->first] = id->second;
  write_file(folder / (whole_name + ".index.json"), index.dump(2) + "\n");
}

}  // namespace moduleformer
