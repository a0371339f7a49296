// SPDX-License-Identifier: MIT
#pragma once
// CopyQueue: a thread's asynchronous copies into shared memory. They land as late as the contract allows, at the
// thread's wait for their group; what they read is then what lies there at the wait.

#include <moduleformer/core/types.hpp>

#include <algorithm>
#include <cstddef>
#include <cstring>
#include <vector>

namespace moduleformer::emulation {

class CopyQueue {
 public:
  /// 16 bytes: the first `bytes` of `from`, then zeros. Until they land the destination is NaN.
  void issue(void* to, void const* from, int bytes) {
    std::memset(to, 0xff, 16);
    copies_.push_back({to, from, static_cast<std::size_t>(bytes), groups_});
  }
  /// What was issued since the last commit becomes a group.
  void commit() { ++groups_; }
  /// Lands all groups but the `newest` ones.
  void wait(int newest) {
    auto const still_flying = [&](Copy const& copy) { return copy.group >= groups_ - newest; };
    auto const landed = std::find_if(copies_.begin(), copies_.end(), still_flying);
    for (auto copy = copies_.begin(); copy != landed; ++copy) {
      std::memset(copy->to, 0, 16);
      if (copy->bytes > 0) std::memcpy(copy->to, copy->from, copy->bytes);
    }
    copies_.erase(copies_.begin(), landed);
  }
  void clear() {
    copies_.clear();
    groups_ = 0;
  }

 private:
  struct Copy {
    void* to;
    void const* from;
    std::size_t bytes;
    Index group;
  };
  std::vector<Copy> copies_;  // the oldest first
  Index groups_ = 0;          // committed so far
};

}  // namespace moduleformer::emulation
