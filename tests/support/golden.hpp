// SPDX-License-Identifier: MIT
#pragma once
// Reads the golden files (safetensors) for tests, independently of the library's io/:
//   GoldenFile file{"ops/routing_losses.safetensors"};  auto logits = file.tensor<double>("logits");
// Paths are relative to MODULEFORMER_TEST_DATA/golden, where the build says what MODULEFORMER_TEST_DATA is.

#include <nlohmann/json.hpp>

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
    std::uint64_t length = 0;
    if (bytes_.size() < sizeof length) throw std::runtime_error("cannot read golden file " + path_);
    std::memcpy(&length, bytes_.data(), sizeof length);
    data_ = sizeof length + length;
    header_ = nlohmann::json::parse(bytes_.data() + sizeof length, bytes_.data() + data_);
  }

  [[nodiscard]] bool has(std::string const& name) const { return header_.contains(name); }

  [[nodiscard]] std::vector<std::string> names() const {
    std::vector<std::string> names;
    for (auto const& [name, entry] : header_.items())
      if (name != "__metadata__") names.push_back(name);
    return names;
  }

  /// An entry of `__metadata__`, a string.
  [[nodiscard]] std::string metadata(std::string const& key) const { return header_.at("__metadata__").at(key); }

  /// The stored type's name: F32, F64 or I64.
  [[nodiscard]] std::string type(std::string const& name) const { return header_.at(name).at("dtype"); }

  template <class T>
  [[nodiscard]] GoldenTensor<T> tensor(std::string const& name) const {
    if (!has(name)) throw std::runtime_error(path_ + " has no tensor " + name);
    auto const& entry = header_.at(name);
    std::size_t const begin = entry.at("data_offsets").at(0), end = entry.at("data_offsets").at(1);
    GoldenTensor<T> result{entry.at("shape"), {}};
    if (type(name) == "F32") result.values = convert<T, float>(begin, end);
    else if (type(name) == "F64") result.values = convert<T, double>(begin, end);
    else if (type(name) == "I64") result.values = convert<T, std::int64_t>(begin, end);
    else throw std::runtime_error(path_ + ": " + name + " has type " + type(name));
    return result;
  }

 private:
  template <class T, class Stored>
  [[nodiscard]] std::vector<T> convert(std::size_t begin, std::size_t end) const {
    std::vector<T> values((end - begin) / sizeof(Stored));
    for (std::size_t i = 0; i < values.size(); ++i) {
      Stored stored;
      std::memcpy(&stored, bytes_.data() + data_ + begin + i * sizeof stored, sizeof stored);
      values[i] = static_cast<T>(stored);
    }
    return values;
  }

  std::string path_;
  std::vector<char> bytes_;
  std::size_t data_ = 0;
  nlohmann::json header_;
};

}  // namespace moduleformer::test
