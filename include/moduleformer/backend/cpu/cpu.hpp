// SPDX-License-Identifier: MIT
#pragma once
// Cpu<S>: the CPU backend's type: a thread count and a workspace. Its primitives are the free
// functions of the other files in this folder; backend/cpu.hpp includes them all.

#include <moduleformer/backend/checks.hpp>
#include <moduleformer/backend/mailbox.hpp>
#include <moduleformer/backend/workspace.hpp>
#include <moduleformer/core/error.hpp>
#include <moduleformer/core/types.hpp>

#include <omp.h>

#include <cstddef>
#include <new>

namespace moduleformer {

/// Aligned host memory.
struct HostMemory {
  static constexpr bool is_host_memory = true;  // parameters may lie in mapped files
  static void* allocate(std::size_t bytes) { return ::operator new(bytes, std::align_val_t{memory_alignment}); }
  static void deallocate(void* data, std::size_t) noexcept { ::operator delete(data, std::align_val_t{memory_alignment}); }
};

/// More threads than any machine has cores would only exhaust its memory with stacks.
inline constexpr int max_threads = 1024;

template <Real S = float>
class Cpu {
 public:
  using Scalar = S;
  using Accumulator = S;
  using Memory = HostMemory;
  using Mailbox = HostMailbox;

  /// 0 threads: as many as OpenMP would start.
  explicit Cpu(int threads = 0) : threads_(threads > 0 ? threads : omp_get_max_threads()) {
    expects(threads >= 0 && threads <= max_threads, "Cpu: expected 1 to ", max_threads, " threads, or 0 for all, found ", threads);
  }

  [[nodiscard]] int threads() const { return threads_; }
  [[nodiscard]] Workspace<Memory>& workspace() { return workspace_; }

 private:
  int threads_;
  Workspace<Memory> workspace_;
};

}  // namespace moduleformer
