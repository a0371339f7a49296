// SPDX-License-Identifier: MIT
#pragma once
// A copy of a golden model's folder whose config.json and tensors can be edited.

#include <moduleformer/io/json_file.hpp>
#include <moduleformer/io/output_file.hpp>
#include <moduleformer/io/safetensors_writer.hpp>
#include <moduleformer/io/tensor_source.hpp>

#include "io/support.hpp"
#include "support/golden.hpp"

#include <nlohmann/json.hpp>

#include <algorithm>
#include <filesystem>
#include <string>
#include <vector>

namespace moduleformer::test {

class ModelFolder {
 public:
  explicit ModelFolder(std::string const& golden = "mlp_router_mutual_information") : path_(temporary_ / "model") {
    std::filesystem::create_directory(path_);
    for (char const* const file : {"config.json", "model.safetensors"})
      std::filesystem::copy_file(golden_path(golden) + "/" + file, path_ / file);
  }

  [[nodiscard]] std::filesystem::path const& path() const { return path_; }
  [[nodiscard]] std::filesystem::path beside(std::string const& name) const { return temporary_ / name; }

  /// Sets a key, or removes it.
  void set(std::string const& key, nlohmann::json const& value) {
    auto config = read_json(path_ / "config.json");
    config[key] = value;
    write_text(path_ / "config.json", config.dump());
  }
  void remove(std::string const& key) {
    auto config = read_json(path_ / "config.json");
    config.erase(key);
    write_text(path_ / "config.json", config.dump());
  }

  /// Writes the tensors again after edit(std::vector<OutputTensor>&).
  template <class Edit>
  void edit_tensors(Edit&& edit) {
    {
      TensorSource const source{path_};
      std::vector<OutputTensor> tensors;
      for (auto const& [name, tensor] : source.tensors()) {
        if (!tensor.data_type.type) continue;  // a buffer
        auto store = [data = tensor.data(), bytes = tensor.data_type.bytes](Index first, std::span<std::byte> to) {
          std::copy_n(data + first * bytes, to.size(), to.data());
        };
        tensors.push_back({name, *tensor.data_type.type, tensor.shape, store});
      }
      edit(tensors);
      write_safetensors(path_ / "edited", tensors);
    }
    std::filesystem::rename(path_ / "edited", path_ / "model.safetensors");
  }
  /// Edits one tensor.
  template <class Edit>
  void edit_tensor(std::string const& name, Edit&& edit) {
    edit_tensors([&](std::vector<OutputTensor>& tensors) {
      auto const place = std::ranges::find(tensors, name, &OutputTensor::name);
      if (place == tensors.end()) throw std::runtime_error("no tensor " + name);
      edit(*place);
    });
  }

 private:
  TemporaryFolder temporary_;
  std::filesystem::path path_;
};

/// A tensor of zeros.
inline OutputTensor zeros(std::string name, StorageType type, std::vector<Index> shape) {
  return {std::move(name), type, std::move(shape), [](Index, std::span<std::byte> bytes) { std::ranges::fill(bytes, std::byte{0}); }};
}

}  // namespace moduleformer::test
