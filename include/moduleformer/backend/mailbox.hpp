// SPDX-License-Identifier: MIT
#pragma once
// HostMailbox: numbers on their way from a backend to the host, for backends whose memory the host can read.

#include <moduleformer/core/tensor_view.hpp>

#include <span>
#include <vector>

namespace moduleformer {

class HostMailbox {
 public:
  /// Sends numbers that earlier work of the backend makes; receive() must have fetched what was sent before.
  template <class B>
  void send(B&, Vector<double const> numbers) {
    numbers_.assign(numbers.begin(), numbers.end());
  }
  /// Waits for them. Valid until the next send().
  [[nodiscard]] std::span<double const> receive() { return numbers_; }

 private:
  std::vector<double> numbers_;
};

}  // namespace moduleformer
