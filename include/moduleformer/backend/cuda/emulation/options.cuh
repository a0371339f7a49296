// SPDX-License-Identifier: MIT
#pragma once
// What tests may choose about the emulated device. A kernel that synchronises as it must computes the same bits
// under every choice.

#include <cstddef>
#include <cstdint>

namespace moduleformer::emulation {

/// Which of several threads or blocks that may go on does so first. Shuffled also mixes threads that a barrier
/// let go with threads that have not begun.
enum class Order { forward, reverse, shuffled };

struct Options {
  Order order = Order::forward;
  std::uint64_t seed = 1;  // of shuffled
  int workers = 1;         // host threads over which blocks are spread
  bool warpgroups = true;  // whether the device has what GpuWarpgroup asks for
  std::size_t shared_limit = 227 << 10;  // bytes of shared memory that a block may have; 8.0: 163 KiB
  std::size_t memory_bytes = std::size_t{64} << 30;  // that the device has
};

}  // namespace moduleformer::emulation

namespace moduleformer {

/// The options of all emulated devices; read at each launch. Not to be changed during one.
inline emulation::Options& emulation_options() {
  static emulation::Options options;
  return options;
}

}  // namespace moduleformer
