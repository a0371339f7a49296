// SPDX-License-Identifier: MIT
#pragma once
// Gpu: the platform that kernels run on when compiled by nvcc: device memory, a stream, launches. Errors are
// CudaError with the call and its sizes.

#include <moduleformer/backend/cuda/gpu_errors.cuh>
#include <moduleformer/backend/cuda/gpu_thread.cuh>
#include <moduleformer/backend/cuda/gpu_transfers.cuh>
#include <moduleformer/core/error.hpp>

#include <cuda_runtime.h>

#include <cstddef>
#include <source_location>
#include <string_view>
#include <utility>

namespace moduleformer {

namespace detail {

/// Blocks of a kernel that a multiprocessor shall hold at a time, which bounds its registers; 0: as the compiler likes.
template <class Kernel>
constexpr int blocks_at_once() {
  if constexpr (requires { Kernel::blocks_at_once; }) return Kernel::blocks_at_once;
  else return 0;
}

/// The one kernel of the library: a kernel object's call operator, once per thread.
template <class Kernel>
__global__ void __launch_bounds__(Kernel::threads, blocks_at_once<Kernel>()) run_kernel(__grid_constant__ Kernel const kernel) {
  kernel(GpuThread{});
}

/// Whose code for 9.0a, and no other, has static shared memory: how the host learns which code the device will run.
template <class T>
__global__ void warpgroup_probe([[maybe_unused]] T* out) {
#if MODULEFORMER_WARPGROUPS
  __shared__ T volatile place[32];
  place[threadIdx.x] = 1;
  __syncthreads();
  *out = place[31 - threadIdx.x];
#endif
}

}  // namespace detail

struct Gpu {
  using Thread = GpuThread;
  using Mailbox = GpuMailbox;

  /// Device memory. Its lifetime is not ordered with streams: freeing waits for the device.
  struct Memory {
    static constexpr bool is_host_memory = false;
    static void* allocate(std::size_t bytes) {
      void* data = nullptr;
      cudaError_t const status = cudaMalloc(&data, bytes);
      if (status == cudaErrorMemoryAllocation) {
        std::size_t free = 0, total = 0;
        (void)cudaGetLastError();
        (void)cudaMemGetInfo(&free, &total);
        fail<CudaError>("device memory: ", bytes, " bytes were asked for, ", free, " of ", total, " are free");
      }
      detail::check_cuda(status, "cudaMalloc of ", bytes, " bytes");
      return data;
    }
    static void deallocate(void* data, std::size_t) noexcept { (void)cudaFree(data); }
  };

  /// Work of a stream, kept to be run again: an instantiated CUDA graph.
  class Recording {
   public:
    Recording() = default;
    explicit Recording(cudaGraph_t graph) {
      cudaError_t const status = cudaGraphInstantiate(&graph_, graph, 0);
      (void)cudaGraphDestroy(graph);
      detail::check_cuda(status, "cudaGraphInstantiate");
    }
    Recording(Recording&& other) noexcept : graph_(std::exchange(other.graph_, nullptr)) {}
    Recording& operator=(Recording&& other) noexcept {
      std::swap(graph_, other.graph_);
      return *this;
    }
    ~Recording() {
      if (graph_ != nullptr) (void)cudaGraphExecDestroy(graph_);
    }
    [[nodiscard]] cudaGraphExec_t get() const { return graph_; }

   private:
    cudaGraphExec_t graph_ = nullptr;
  };

  /// An ordered queue of work on the current device.
  class Stream {
   public:
    Stream() {
      int devices = 0, device = 0, major = 0, minor = 0;
      detail::check_cuda(cudaGetDeviceCount(&devices), "cudaGetDeviceCount");
      detail::check_cuda(devices > 0 ? cudaSuccess : cudaErrorNoDevice, "cudaGetDeviceCount");
      detail::check_cuda(cudaGetDevice(&device), "cudaGetDevice");
      detail::check_cuda(cudaDeviceGetAttribute(&processors_, cudaDevAttrMultiProcessorCount, device), "device attributes");
      detail::check_cuda(cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, device), "device attributes");
      detail::check_cuda(cudaDeviceGetAttribute(&minor, cudaDevAttrComputeCapabilityMinor, device), "device attributes");
      detail::check_cuda(cudaDeviceGetAttribute(&most_shared_, cudaDevAttrMaxSharedMemoryPerBlockOptin, device),
                         "device attributes");
      detail::check_capability(major, minor);
      cudaFuncAttributes probe{};
      detail::check_cuda(cudaFuncGetAttributes(&probe, detail::warpgroup_probe<int>), "attributes of a kernel");
      has_warpgroups_ = probe.sharedSizeBytes > 0;
      detail::check_cuda(cudaStreamCreateWithFlags(&stream_, cudaStreamNonBlocking), "cudaStreamCreate");
    }
    Stream(Stream&& other) noexcept
        : stream_(std::exchange(other.stream_, nullptr)),
          upload_(std::move(other.upload_)),
          processors_(other.processors_),
          most_shared_(other.most_shared_),
          has_warpgroups_(other.has_warpgroups_) {}
    Stream& operator=(Stream&& other) noexcept {
      std::swap(stream_, other.stream_);
      std::swap(upload_, other.upload_);
      std::swap(processors_, other.processors_);
      std::swap(most_shared_, other.most_shared_);
      std::swap(has_warpgroups_, other.has_warpgroups_);
      return *this;
    }
    /// Waits for the stream's work: what it wrote is there for others.
    ~Stream() {
      if (stream_ == nullptr) return;
      (void)cudaStreamSynchronize(stream_);
      (void)cudaStreamDestroy(stream_);
    }

    [[nodiscard]] cudaStream_t get() const { return stream_; }
    /// Multiprocessors of the device: blocks that surely run at the same time.
    [[nodiscard]] int processors() const { return processors_; }
    [[nodiscard]] std::size_t most_shared() const { return static_cast<std::size_t>(most_shared_); }
    /// Whether kernels may use GpuWarpgroup: a device of 9.0, and code for 9.0a in the program.
    [[nodiscard]] bool has_warpgroups() const { return has_warpgroups_; }

    template <class Kernel>
    void launch(Kernel const& kernel, Index blocks, std::size_t shared_bytes, std::source_location where) {
      constexpr Index most_blocks = (Index{1} << 31) - 1;
      expects(blocks <= most_blocks, "kernel of ", place(where), ": expected at most ", most_blocks, " blocks, found ", blocks);
      constexpr std::size_t always_there = 48 << 10;
      if (shared_bytes > static_cast<std::size_t>(most_shared_))
        fail<CudaError>("kernel of ", place(where), ": expected at most ", most_shared_, " bytes of shared memory, found ",
                        shared_bytes);
      // Always the most: a thread with a smaller launch of this kernel would otherwise take the room away before ours.
      if (shared_bytes > always_there)
        detail::check_cuda(cudaFuncSetAttribute(detail::run_kernel<Kernel>, cudaFuncAttributeMaxDynamicSharedMemorySize,
                                                most_shared_),
                           "kernel of ", place(where), ": ", shared_bytes, " bytes of shared memory");
      detail::run_kernel<Kernel><<<static_cast<unsigned>(blocks), Kernel::threads, shared_bytes, stream_>>>(kernel);
      detail::check_cuda(cudaGetLastError(), "kernel of ", place(where), ", ", blocks, " blocks of ", Kernel::threads,
                         " threads, ", shared_bytes, " bytes of shared memory");
    }

    // Copies in the order of the stream; from_host and to_host have the host's side complete on return. to_host waits
    // for the device, from_host does for more than two megabytes only.
    void copy(void* to, void const* from, std::size_t bytes) {
      detail::check_cuda(cudaMemcpyAsync(to, from, bytes, cudaMemcpyDeviceToDevice, stream_), "device copy of ", bytes, " bytes");
    }
    void from_host(void* to, void const* from, std::size_t bytes) {
      expects_no_recording("a copy to the device");
      if (bytes <= detail::Upload::largest) return upload_(to, from, bytes, stream_);
      detail::check_cuda(cudaMemcpyAsync(to, from, bytes, cudaMemcpyHostToDevice, stream_), "copy of ", bytes, " bytes to the device");
      synchronize();  // pinned memory, and on some machines all memory, is read later
    }
    void to_host(void* to, void const* from, std::size_t bytes) {
      expects_no_recording("a copy from the device");
      detail::check_cuda(cudaMemcpyAsync(to, from, bytes, cudaMemcpyDeviceToHost, stream_), "copy of ", bytes, " bytes from the device");
      synchronize();
    }
    /// What f asks of this stream, not run but kept.
    template <class F>
    [[nodiscard]] Recording record(F const& f) {
      detail::check_cuda(cudaStreamBeginCapture(stream_, cudaStreamCaptureModeThreadLocal), "cudaStreamBeginCapture");
      cudaGraph_t graph = nullptr;
      is_recording_ = true;
      try {
        f();
      } catch (...) {
        is_recording_ = false;
        (void)cudaStreamEndCapture(stream_, &graph);
        if (graph != nullptr) (void)cudaGraphDestroy(graph);
        (void)cudaGetLastError();
        throw;
      }
      is_recording_ = false;
      detail::check_cuda(cudaStreamEndCapture(stream_, &graph), "cudaStreamEndCapture");
      return Recording(graph);
    }
    void replay(Recording const& recording) {
      detail::check_cuda(cudaGraphLaunch(recording.get(), stream_), "cudaGraphLaunch");
    }

    /// Waits for everything asked for; an error of earlier work shows here.
    void synchronize() { detail::check_cuda(cudaStreamSynchronize(stream_), "waiting for the device"); }

   private:
    struct Place {
      std::source_location where;
      friend std::ostream& operator<<(std::ostream& out, Place p) {
        std::string_view const path = p.where.file_name();
        return out << path.substr(path.rfind('/') + 1) << ':' << p.where.line();
      }
    };
    static Place place(std::source_location where) { return {where}; }

    /// A copy would be recorded with the host's place, which holds something else when it is done again.
    void expects_no_recording(char const* what) const {
      if (is_recording_) fail<CudaError>("recording work of the device: ", what, " cannot be recorded");
    }

    cudaStream_t stream_ = nullptr;
    detail::Upload upload_;
    int processors_ = 0;
    int most_shared_ = 0;  // bytes that a block may have
    bool has_warpgroups_ = false;
    bool is_recording_ = false;
  };
};

}  // namespace moduleformer
