// SPDX-License-Identifier: MIT
#pragma once
// Counter-based random numbers: Philox4x32-10 (Salmon et al., "Parallel random numbers: as easy as
// 1, 2, 3", SC 2011). A number is a pure function of (seed, step, stream, index), so it does not
// depend on threads, order or recomputation, and a resumed run continues it from two integers.

#include <moduleformer/core/platform.hpp>

#include <array>
#include <cstdint>

namespace moduleformer {

/// What identifies a family of random numbers: seed and step of the run, and the place that draws.
struct RandomKey {
  std::uint64_t seed = 0;
  std::uint32_t step = 0;
  std::uint32_t stream = 0;

  /// The same seed and step for another place.
  [[nodiscard]] MODULEFORMER_HOST_DEVICE constexpr RandomKey at(std::uint32_t other) const {
    return {seed, step, other};
  }
};

/// Four independent 32-bit words for one index.
MODULEFORMER_HOST_DEVICE constexpr std::array<std::uint32_t, 4> random_words(RandomKey key, std::uint64_t index) {
  std::uint32_t k0 = static_cast<std::uint32_t>(key.seed), k1 = static_cast<std::uint32_t>(key.seed >> 32);
  std::uint32_t c0 = static_cast<std::uint32_t>(index), c1 = static_cast<std::uint32_t>(index >> 32);
  std::uint32_t c2 = key.step, c3 = key.stream;
  for (int round = 0; round < 10; ++round) {
    std::uint64_t const p0 = std::uint64_t{0xD2511F53u} * c0, p1 = std::uint64_t{0xCD9E8D57u} * c2;
    c0 = static_cast<std::uint32_t>(p1 >> 32) ^ c1 ^ k0;
    c1 = static_cast<std::uint32_t>(p1);
    c2 = static_cast<std::uint32_t>(p0 >> 32) ^ c3 ^ k1;
    c3 = static_cast<std::uint32_t>(p0);
    k0 += 0x9E3779B9u;
    k1 += 0xBB67AE85u;
  }
  return {c0, c1, c2, c3};
}

/// A word as a number in (0, 1): the centre of one of 2^23 cells, exact in float, never 0 or 1.
MODULEFORMER_HOST_DEVICE constexpr float to_unit(std::uint32_t word) {
  return (static_cast<float>(word >> 9) + 0.5f) * 0x1p-23f;
}

}  // namespace moduleformer
