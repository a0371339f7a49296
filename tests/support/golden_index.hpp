// SPDX-License-Identifier: MIT
#pragma once
// The header of a golden file, parsed in golden_index.cpp so that tests need not compile a JSON library.

#include <cstddef>
#include <cstdint>
#include <map>
#include <string>
#include <vector>

namespace moduleformer::test {

struct GoldenEntry {
  std::string type;  // F32, F64 or I64
  std::vector<std::int64_t> shape;
  std::size_t begin = 0, end = 0;  // bytes of the file
};

struct GoldenIndex {
  std::map<std::string, GoldenEntry> entries;
  std::map<std::string, std::string> metadata;
};

/// From a whole safetensors file. Throws std::exception if it is none.
GoldenIndex read_golden_index(std::vector<char> const& bytes);

}  // namespace moduleformer::test
