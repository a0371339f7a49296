// SPDX-License-Identifier: MIT
#pragma once
// How the program ends.

#include <stdexcept>

namespace cli {

/// Exit statuses; 128 + signal after an interruption.
enum Status : int { success = 0, failure = 1, wrong_usage = 2 };

/// Options that contradict each other or the model: status 2. Everything else that is thrown: 1.
class UsageError : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

}  // namespace cli
