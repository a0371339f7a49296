// SPDX-License-Identifier: MIT
#pragma once
// Repeated: a piece of device work that is done again and again on the same places. A backend that can record work
// (CUDA graphs) records it when it is asked for the second time with the same key, and from then on only repeats it;
// what changes between the times lies in backend memory. Elsewhere the function is simply called.

#include <algorithm>
#include <atomic>
#include <cstdint>
#include <optional>
#include <span>
#include <type_traits>
#include <vector>

namespace moduleformer {

/// A number that no other call of this process has had: names what may be replaced at the same address.
inline std::uint64_t new_serial_number() {
  static std::atomic<std::uint64_t> last{0};
  return ++last;
}

namespace detail {

template <class B>
struct RecordingOf {
  struct Type {};
  static constexpr bool exists = false;
};
template <class B>
  requires requires { typename B::Recording; }
struct RecordingOf<B> {
  using Type = typename B::Recording;
  static constexpr bool exists = true;
};

}  // namespace detail

template <class B>
class Repeated {
 public:
  /// f(), or what it did before under this key: f must then ask for exactly the same work (sizes, addresses, constants)
  /// whenever the key is the same. The first time it runs as it is, so that memory is there and errors come as usual.
  template <class F>
  void operator()(B& backend, std::span<std::uint64_t const> key, F const& f) {
    if constexpr (detail::RecordingOf<B>::exists) {
      bool const same = std::ranges::equal(key, key_);
      if (same && recording_) return backend.replay(*recording_);
      if (same) {
        recording_.emplace(backend.record(f));
        return backend.replay(*recording_);
      }
      recording_.reset();
      key_.clear();  // until f has run
      f();
      key_.assign(key.begin(), key.end());
    } else {
      f();
    }
  }
  /// Whether the last call only repeated recorded work.
  [[nodiscard]] bool is_recorded() const { return recording_.has_value(); }

 private:
  std::vector<std::uint64_t> key_;
  std::optional<typename detail::RecordingOf<B>::Type> recording_;
};

}  // namespace moduleformer
