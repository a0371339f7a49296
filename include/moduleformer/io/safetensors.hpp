// SPDX-License-Identifier: MIT
#pragma once
// Reads a safetensors file (github.com/huggingface/safetensors, "Format"): the header is checked whole,
// the data stay where they are, mapped.

#include <moduleformer/core/error.hpp>
#include <moduleformer/core/types.hpp>
#include <moduleformer/io/mapped_file.hpp>
#include <moduleformer/io/safetensors_header.hpp>
#include <moduleformer/io/stored_tensor.hpp>

#include <filesystem>
#include <memory>
#include <sstream>
#include <string>
#include <string_view>
#include <utility>

namespace moduleformer {

/// The entry of a name; nothing if there is none.
[[nodiscard]] inline StoredTensor const* find_tensor(TensorTable const& tensors, std::string_view name) {
  auto const place = tensors.find(name);
  return place == tensors.end() ? nullptr : &place->second;
}

/// One mapped safetensors file.
///
///     SafetensorsFile const file{"input.safetensors"};
///     std::vector<TokenId> const ids = file.at("input_ids").read<TokenId>();
class SafetensorsFile {
 public:
  /// Maps the file and checks its header. Throws Error if it cannot be opened, FormatError if it is not
  /// what it should be.
  explicit SafetensorsFile(std::filesystem::path path)
      : file_(std::make_shared<MappedFile const>(std::move(path))),
        header_(read_safetensors_header(file_->bytes(), name())) {
    for (auto& [name, tensor] : header_.tensors) tensor.file = file_;
  }

  [[nodiscard]] std::filesystem::path const& path() const { return file_->path(); }
  [[nodiscard]] Metadata const& metadata() const { return header_.metadata; }
  /// A metadata value; empty if there is none.
  [[nodiscard]] std::string_view metadata(std::string_view key) const {
    auto const place = header_.metadata.find(key);
    return place == header_.metadata.end() ? std::string_view{} : std::string_view{place->second};
  }
  [[nodiscard]] TensorTable const& tensors() const { return header_.tensors; }
  [[nodiscard]] StoredTensor const* find(std::string_view tensor) const { return find_tensor(header_.tensors, tensor); }
  /// Throws FormatError if there is no tensor of that name.
  [[nodiscard]] StoredTensor const& at(std::string_view tensor) const {
    auto const* const found = find(tensor);
    if (found == nullptr) fail<FormatError>(path(), ": no tensor ", quoted_name(tensor));
    return *found;
  }

 private:
  [[nodiscard]] std::string name() const {
    std::ostringstream text;
    text << file_->path();
    return text.str();
  }

  std::shared_ptr<MappedFile const> file_;
  SafetensorsHeader header_;
};

}  // namespace moduleformer
