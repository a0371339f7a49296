// SPDX-License-Identifier: MIT
#pragma once
// CudaBackend<S, Platform>: the CUDA backend's type: a stream, a workspace of device memory, and the one way to
// launch a kernel. Its primitives are the free functions of this folder (launchers: checks, grid, shared
// memory) over the kernels in kernels/ (device code). The platform is Gpu under nvcc, or Emulated on the host.
//
// A kernel is a trivially copyable struct of its arguments with
//   static constexpr int threads;                               of a block
//   static constexpr int blocks_at_once;                        (optional) see gpu.cuh
//   template <class Thread>
//   MODULEFORMER_DEVICE void operator()(Thread const&) const;   what one thread does

#include <moduleformer/backend/workspace.hpp>
#include <moduleformer/core/error.hpp>
#include <moduleformer/core/platform.hpp>
#include <moduleformer/core/types.hpp>

#include <concepts>
#include <cstddef>
#include <source_location>
#include <type_traits>

namespace moduleformer {

/// Scalars that the CUDA backend stores activations in; it adds in float.
template <class S>
concept CudaScalar = std::same_as<S, float> || std::same_as<S, bfloat16>;

template <CudaScalar S, class P>
class CudaBackend {
 public:
  using Scalar = S;
  using Accumulator = float;
  using Platform = P;
  using Memory = typename P::Memory;
  using Mailbox = typename P::Mailbox;
  using Recording = typename P::Recording;

  /// Threads of the host play no part; the parameter is every backend's.
  explicit CudaBackend(int = 0) {}

  [[nodiscard]] Workspace<Memory>& workspace() { return workspace_; }
  [[nodiscard]] typename P::Stream& stream() { return stream_; }
  [[nodiscard]] int processors() const { return stream_.processors(); }
  /// Bytes of shared memory that a block may have.
  [[nodiscard]] std::size_t most_shared() const { return stream_.most_shared(); }

  /// Runs the kernel in order with what was asked for before; no blocks, no launch.
  template <class Kernel>
  void launch(Kernel const& kernel, Index blocks, std::size_t shared_bytes = 0,
              std::source_location where = std::source_location::current()) {
    static_assert(std::is_trivially_copyable_v<Kernel>, "moduleformer: a kernel's arguments are trivially copyable");
    static_assert(sizeof(Kernel) <= 4096, "moduleformer: a kernel has at most 4096 bytes of arguments");
    static_assert(Kernel::threads % 32 == 0 && Kernel::threads <= 1024, "moduleformer: a block is 1 to 32 whole warps");
    if (blocks > 0) stream_.launch(kernel, blocks, shared_bytes, where);
  }

  /// The work that f asks for, not done but kept: a CUDA graph. f neither allocates device memory nor copies to or from
  /// the host. Throws CudaError where that fails; the backend stays usable.
  template <class F>
  [[nodiscard]] Recording record(F const& f) {
    return stream_.record(f);
  }
  /// Does recorded work again: the same kernels on the same places.
  void replay(Recording const& recording) { stream_.replay(recording); }

 private:
  Workspace<Memory> workspace_;  // outlives the stream, whose end waits for the work that uses it
  typename P::Stream stream_;
};

}  // namespace moduleformer
