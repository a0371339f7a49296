// SPDX-License-Identifier: MIT
#pragma once
// Fingerprint: a 64-bit hash of a list of words (FNV-1a, word by word), to notice that a file belongs to other data.
//   hash = (hash ^ word) * prime

#include <cstdint>

namespace moduleformer {

class Fingerprint {
 public:
  constexpr void add(std::uint64_t word) { value_ = (value_ ^ word) * 0x100000001b3u; }
  [[nodiscard]] constexpr std::uint64_t value() const { return value_; }

 private:
  std::uint64_t value_ = 0xcbf29ce484222325u;
};

}  // namespace moduleformer
