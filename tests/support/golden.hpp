// SPDX-License-Identifier: MIT
#pragma once
// Reads the golden files (safetensors) for tests, independently of the library's io/:
//   GoldenFile file{"ops/routing_losses.safetensors"};  auto logits = file.tensor<double>("logits");
// Paths are relative to MODULEFORMER_TEST_DATA/golden, where the build says what MODULEFORMER_TEST_DATA is.

#include "golden_index.hpp"

#include <cstdint>
#include <cstring>
#include <fstream>
#include <iterator>
#include <stdexcept>
#include <string>
#include <vector>

namespace moduleformer::test {

/// A tensor's values in row-major order.
template <class T>
struct GoldenTensor {
  std::vector<std::int64_t> shape;
  std::vector<T> values;
};

inline std::string golden_path(std::string const& name) {
  return std::string(MODULEFORMER_TEST_DATA) + "/golden/" + name;
}

class GoldenFile {
 public:
  explicit GoldenFile(std::string const& name) : path_(golden_path(name)) {
    std::ifstream stream(path_, std::ios::binary);
    bytes_.assign(std::istreambuf_iterator<char>(stream), {});
    if (bytes_.empty()) throw std::runtime_error("cannot read golden file " + path_);
    index_ = read_golden_index(bytes_);
  }

  [[nodiscard]] bool has(std::string const& name) const { return index_.entries.contains(name); }

  [[nodiscard]] std::vector<std::string> names() const {
    std::vector<std::string> names;
    for (auto const& [name, entry] : index_.entries) names.push_back(name);
    return names;
  }

  /// An entry of `__metadata__`.
  [[nodiscard]] std::string metadata(std::string const& key) const { return index_.metadata.at(key); }

  /// The stored type's name: F32, F64 or I64.
  [[nodiscard]] std::string type(std::string const& name) const { return entry(name).type; }

  template <class T>
  [[nodiscard]] GoldenTensor<T> tensor(std::string const& name) const {
    GoldenEntry const& found = entry(name);
    if (found.type == "F32") return {found.shape, convert<T, float>(found)};
    if (found.type == "F64") return {found.shape, convert<T, double>(found)};
    if (found.type == "I64") return {found.shape, convert<T, std::int64_t>(found)};
    throw std::runtime_error(path_ + ": " + name + " has type " + found.type);
  }

 private:
  [[nodiscard]] GoldenEntry const& entry(std::string const& name) const {
    auto const found = index_.entries.find(name);
    if (found == index_.entries.end()) throw std::runtime_error(path_ + " has no tensor " + name);
    return found->second;
  }

  template <class T, class Stored>
  [[nodiscard]] std::vector<T> convert(GoldenEntry const& entry) const {
    std::vector<T> values((entry.end - entry.begin) / sizeof(Stored));
    for (std::size_t i = 0; i < values.size(); ++i) {
      Stored stored;
      std::memcpy(&stored, bytes_.data() + entry.begin + i * sizeof stored, sizeof stored);
      values[i] = static_cast<T>(stored);
    }
    return values;
  }

  std::string path_;
  std::vector<char> bytes_;
  GoldenIndex index_;
};

}  // namespace moduleformer::test
