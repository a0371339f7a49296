// SPDX-License-Identifier: MIT

#include "golden_index.hpp"

#include <nlohmann/json.hpp>

#include <cstring>
#include <stdexcept>

namespace moduleformer::test {

GoldenIndex read_golden_index(std::vector<char> const& bytes) {
  std::uint64_t length = 0;
  if (bytes.size() < sizeof length) throw std::runtime_error("a golden file is absent or too short");
  std::memcpy(&length, bytes.data(), sizeof length);
  std::size_t const data = sizeof length + length;
  auto const header = nlohmann::json::parse(bytes.data() + sizeof length, bytes.data() + data);
  GoldenIndex index;
  for (auto const& [name, entry] : header.items()) {
    if (name == "__metadata__") {
      index.metadata = entry;
      continue;
    }
    std::size_t const begin = entry.at("data_offsets").at(0), end = entry.at("data_offsets").at(1);
    index.entries[name] = {entry.at("dtype"), entry.at("shape"), data + begin, data + end};
  }
  return index;
}

}  // namespace moduleformer::test
