// SPDX-License-Identifier: MIT
#pragma once
// Emulated: the platform that runs kernels on the host, for tests: memory that begins as NaN, a stream that runs
// each kernel at once, blocks spread over host threads. It mirrors Gpu. Kernels that do what no device defines
// (divergent barriers, warp operations without the whole warp, deadlocks) end in an Error that names the places.

#include <moduleformer/backend/cuda/emulation/block.cuh>
#include <moduleformer/backend/cuda/emulation/options.cuh>
#include <moduleformer/backend/cuda/emulation/runner.cuh>
#include <moduleformer/backend/cuda/emulation/thread.cuh>
#include <moduleformer/backend/mailbox.hpp>
#include <moduleformer/core/error.hpp>

#include <sanitizer/asan_interface.h>

#include <algorithm>
#include <atomic>
#include <cstddef>
#include <cstring>
#include <functional>
#include <new>
#include <source_location>
#include <vector>

namespace moduleformer {

struct Emulated {
  using Thread = EmulatedThread;
  using Mailbox = HostMailbox;

  /// Work of a stream, kept to be run again. What a workspace lends meanwhile is lent again with it.
  struct Recording {
    std::vector<std::function<void()>> work;
  };

  /// Host memory of the very size, which begins as NaN; so does every array of a workspace. The address sanitizer
  /// sees accesses beside either.
  struct Memory {
    static constexpr bool is_host_memory = false;  // kernels read it, callers do not
    static void* allocate(std::size_t bytes) {
      if (recording != nullptr) fail<CudaError>("recording work of the device: memory cannot be allocated meanwhile");
      std::size_t const total = emulation_options().memory_bytes, held = used.fetch_add(bytes);
      void* const data = held <= total && bytes <= total - held
                             ? ::operator new(bytes, std::align_val_t{alignment}, std::nothrow)
                             : nullptr;
      if (data == nullptr) {
        used -= bytes;
        fail<CudaError>("device memory: ", bytes, " bytes were asked for, ", total - std::min(total, held), " of ",
                        total, " are free");
      }
      return std::memset(data, 0xff, bytes);
    }
    static void deallocate(void* data, std::size_t bytes) noexcept {
      ::operator delete(data, std::align_val_t{alignment});
      used -= bytes;
    }
    /// Bytes that are allocated.
    [[nodiscard]] static std::size_t held() { return used; }

    static void lend(void* data, std::size_t bytes) {
      if (recording != nullptr) recording->work.emplace_back([=] { lend(data, bytes); });
      ASAN_UNPOISON_MEMORY_REGION(data, bytes);
      std::memset(data, 0xff, bytes);
    }
    static void take_back([[maybe_unused]] void* data, [[maybe_unused]] std::size_t bytes) {
      if (recording != nullptr) recording->work.emplace_back([=] { take_back(data, bytes); });
      ASAN_POISON_MEMORY_REGION(data, bytes);
    }

   private:
    static constexpr std::size_t alignment = 64;
    static inline std::atomic<std::size_t> used{0};
  };

  class Stream {
   public:
    [[nodiscard]] int processors() const { return 4; }
    [[nodiscard]] std::size_t most_shared() const { return emulation_options().shared_limit; }
    [[nodiscard]] bool has_warpgroups() const { return emulation_options().warpgroups; }

    template <class Kernel>
    void launch(Kernel const& kernel, Index blocks, std::size_t shared_bytes, std::source_location where) {
      if (recording != nullptr)
        return (void)recording->work.emplace_back([=, this] { launch(kernel, blocks, shared_bytes, where); });
      constexpr Index most_blocks = (Index{1} << 31) - 1;
      expects(blocks <= most_blocks, "kernel of ", emulation::Place{where}, ": expected at most ", most_blocks,
              " blocks, found ", blocks);
      auto const body = [](void const* object, emulation::Block& block, int thread) {
        (*static_cast<Kernel const*>(object))(EmulatedThread{block, thread});
      };
      emulation::run({body, &kernel, Kernel::threads, blocks, shared_bytes, where});
      ++launches_;
      blocks_ += blocks;
    }

    void copy(void* to, void const* from, std::size_t bytes) {
      if (recording != nullptr) return (void)recording->work.emplace_back([=, this] { copy(to, from, bytes); });
      if (bytes > 0) std::memmove(to, from, bytes);
    }
    void from_host(void* to, void const* from, std::size_t bytes) {
      expects_no_recording("a copy to the device");
      copy(to, from, bytes);
    }
    void to_host(void* to, void const* from, std::size_t bytes) {
      expects_no_recording("a copy from the device");
      copy(to, from, bytes);
    }
    void synchronize() { expects_no_recording("waiting for the device"); }

    /// What f asks of this stream, not run but kept.
    template <class F>
    [[nodiscard]] Recording record(F const& f) {
      expects_no_recording("another recording");
      Recording made;
      struct Reset {
        ~Reset() { recording = nullptr; }
      } const reset;
      recording = &made;
      f();
      return made;
    }
    void replay(Recording const& kept) {
      for (auto const& work : kept.work) work();
    }

    // What ran so far.
    [[nodiscard]] Index launches() const { return launches_; }
    [[nodiscard]] Index blocks() const { return blocks_; }

   private:
    static void expects_no_recording(char const* what) {
      if (recording != nullptr) fail<CudaError>("recording work of the device: ", what, " cannot be recorded");
    }

    Index launches_ = 0;
    Index blocks_ = 0;
  };

 private:
  static inline thread_local Recording* recording = nullptr;
};

}  // namespace moduleformer
