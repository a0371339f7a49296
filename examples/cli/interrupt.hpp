// SPDX-License-Identifier: MIT
#pragma once
// Ctrl-C (and SIGTERM) as a request: while a guard lives, the first one is noted, a second one ends the
// program as usual.

#include <csignal>

namespace cli {

namespace detail {
inline volatile std::sig_atomic_t received_signal = 0;
}

class InterruptGuard {
 public:
  InterruptGuard() {
    detail::received_signal = 0;
    for (int const signal : {SIGINT, SIGTERM}) std::signal(signal, note);
  }
  ~InterruptGuard() {
    for (int const signal : {SIGINT, SIGTERM}) std::signal(signal, SIG_DFL);
  }
  InterruptGuard(InterruptGuard const&) = delete;
  InterruptGuard& operator=(InterruptGuard const&) = delete;

  /// The signal that was received, 0 if none.
  [[nodiscard]] int signal() const { return detail::received_signal; }

 private:
  static void note(int signal) {
    detail::received_signal = signal;
    std::signal(signal, SIG_DFL);
  }
};

}  // namespace cli
