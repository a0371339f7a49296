// SPDX-License-Identifier: MIT
#pragma once
// Workspace: a stack of scratch memory made of chunks that never move. A layer allocates what its
// backward needs and keeps it; temporaries stand on top and are released when a Scope ends. In
// steady state nothing is allocated from the system.

#include <moduleformer/core/error.hpp>
#include <moduleformer/core/tensor_view.hpp>

#include <algorithm>
#include <cstddef>
#include <exception>
#include <type_traits>
#include <utility>
#include <vector>

namespace moduleformer {

/// Alignment of every allocation in bytes: a cache line, and the widest vector register.
inline constexpr std::size_t memory_alignment = 64;

/// Memory: a type with static `void* allocate(std::size_t bytes)` (aligned) and
/// `void deallocate(void*, std::size_t bytes) noexcept`. One that wants to know which parts of a chunk are in use
/// (the emulated device's, for tests) also has static `void lend(void*, std::size_t bytes)` and `void take_back(...)`.
template <class Memory>
class Workspace {
 public:
  /// A place in the stack; releasing it frees everything allocated after it was taken.
  struct Mark {
    std::size_t chunk = 0;
    std::size_t used = 0;
  };

  Workspace() = default;
  Workspace(Workspace&& other) noexcept
      : chunks_(std::exchange(other.chunks_, {})), top_(std::exchange(other.top_, {})) {}
  Workspace& operator=(Workspace&& other) noexcept {
    std::swap(chunks_, other.chunks_);
    std::swap(top_, other.top_);
    return *this;
  }
  ~Workspace() {
    for (Chunk const& chunk : chunks_) Memory::deallocate(chunk.data, chunk.size);
  }

  /// Uninitialised elements; valid until a mark taken earlier is released.
  template <class T, class... Sizes>
  [[nodiscard]] auto allocate(Sizes... sizes) -> TensorView<T, static_cast<int>(sizeof...(Sizes))> {
    static_assert(std::is_trivially_copyable_v<T> && std::is_trivially_destructible_v<T>,
                  "moduleformer: a workspace holds trivial types only");
    Index count = 1;
    ((count *= static_cast<Index>(sizes)), ...);
    expects(count >= 0, "workspace: negative size");
    return {static_cast<T*>(bytes(static_cast<std::size_t>(count) * sizeof(T))), {static_cast<Index>(sizes)...}};
  }

  [[nodiscard]] Mark mark() const { return top_; }
  void release(Mark mark) {
    if constexpr (requires { Memory::take_back(nullptr, std::size_t{}); })
      for (Mark part = mark; part.chunk < chunks_.size() && part.chunk <= top_.chunk; part = {part.chunk + 1, 0})
        Memory::take_back(chunks_[part.chunk].data + part.used, chunks_[part.chunk].size - part.used);
    top_ = mark;
  }

  /// Bytes taken from the system.
  [[nodiscard]] std::size_t reserved() const {
    std::size_t total = 0;
    for (Chunk const& chunk : chunks_) total += chunk.size;
    return total;
  }

 private:
  struct Chunk {
    std::byte* data;
    std::size_t size;
  };
  static constexpr std::size_t smallest_chunk = std::size_t{1} << 20;

  void* bytes(std::size_t count) {
    void* const place = reserve((count + memory_alignment - 1) / memory_alignment * memory_alignment);
    if constexpr (requires { Memory::lend(nullptr, std::size_t{}); }) Memory::lend(place, count);
    return place;
  }

  void* reserve(std::size_t count) {
    while (top_.chunk < chunks_.size()) {
      Chunk const& chunk = chunks_[top_.chunk];
      if (chunk.size - top_.used >= count) {
        void* const place = chunk.data + top_.used;
        top_.used += count;
        return place;
      }
      top_ = {top_.chunk + 1, 0};
    }
    // Each chunk is at least half of all before it, so that a growing run needs few of them.
    chunks_.reserve(chunks_.size() + 1);
    chunks_.push_back(make_chunk(std::max({count, smallest_chunk, reserved() / 2}), count));
    top_ = {chunks_.size() - 1, count};
    Chunk const& made = chunks_.back();
    if constexpr (requires { Memory::take_back(nullptr, std::size_t{}); }) Memory::take_back(made.data, made.size);
    return made.data;
  }

  /// A chunk of the wanted size, or where memory is short a smaller one, down to the least that will do.
  static Chunk make_chunk(std::size_t wanted, std::size_t least) {
    for (std::size_t size = wanted;; size = std::max(least, size / 2)) {
      try {
        return {static_cast<std::byte*>(Memory::allocate(size)), size};
      } catch (std::exception const&) {
        if (size == least) throw;  // with what was needed
      }
    }
  }

  std::vector<Chunk> chunks_;
  Mark top_{};
};

/// Releases on destruction what was allocated since its construction.
template <class Memory>
class Scope {
 public:
  explicit Scope(Workspace<Memory>& workspace) : workspace_(workspace), mark_(workspace.mark()) {}
  Scope(Scope const&) = delete;
  Scope& operator=(Scope const&) = delete;
  ~Scope() { workspace_.release(mark_); }

 private:
  Workspace<Memory>& workspace_;
  typename Workspace<Memory>::Mark mark_;
};

}  // namespace moduleformer
