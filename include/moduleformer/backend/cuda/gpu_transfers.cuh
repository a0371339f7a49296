// SPDX-License-Identifier: MIT
#pragma once
// How numbers go between host and device while the device works on: through pinned memory of the host, since a copy
// from or to ordinary memory makes the host wait for everything before it.

#include <moduleformer/backend/cuda/gpu_errors.cuh>
#include <moduleformer/core/tensor_view.hpp>

#include <cuda_runtime.h>

#include <cstddef>
#include <cstring>
#include <span>
#include <utility>

namespace moduleformer::detail {

/// Pinned memory of the host.
class PinnedMemory {
 public:
  PinnedMemory() = default;
  explicit PinnedMemory(std::size_t bytes) : size_(bytes) {
    check_cuda(cudaMallocHost(&data_, bytes), "pinned memory of ", bytes, " bytes");
  }
  PinnedMemory(PinnedMemory&& other) noexcept : data_(std::exchange(other.data_, nullptr)), size_(std::exchange(other.size_, 0)) {}
  PinnedMemory& operator=(PinnedMemory&& other) noexcept {
    std::swap(data_, other.data_);
    std::swap(size_, other.size_);
    return *this;
  }
  ~PinnedMemory() {
    if (data_ != nullptr) (void)cudaFreeHost(data_);
  }
  [[nodiscard]] std::byte* data() const { return static_cast<std::byte*>(data_); }
  [[nodiscard]] std::size_t size() const { return size_; }

 private:
  void* data_ = nullptr;
  std::size_t size_ = 0;
};

/// A point in a stream's work that the host can wait for.
class Event {
 public:
  Event() = default;
  Event(Event&& other) noexcept : event_(std::exchange(other.event_, nullptr)) {}
  Event& operator=(Event&& other) noexcept {
    std::swap(event_, other.event_);
    return *this;
  }
  ~Event() {
    if (event_ != nullptr) (void)cudaEventDestroy(event_);
  }
  void record(cudaStream_t stream) {
    if (event_ == nullptr) check_cuda(cudaEventCreateWithFlags(&event_, cudaEventDisableTiming), "cudaEventCreate");
    check_cuda(cudaEventRecord(event_, stream), "cudaEventRecord");
  }
  /// Returns at once if nothing was recorded.
  void wait() {
    if (event_ != nullptr) check_cuda(cudaEventSynchronize(event_), "waiting for the device");
  }

 private:
  cudaEvent_t event_ = nullptr;
};

/// Copies from the host of which none is waited for: through two halves of pinned memory in turn; a half is written again
/// when the device has read all of it.
class Upload {
 public:
  static constexpr std::size_t largest = std::size_t{2} << 20;

  /// At most `largest` bytes; `from` may change on return.
  void operator()(void* to, void const* from, std::size_t bytes, cudaStream_t stream) {
    if (memory_.size() == 0) memory_ = PinnedMemory(2 * largest);
    if (used_ + bytes > largest) {
      read_[half_].record(stream);
      half_ = 1 - half_;
      used_ = 0;
      read_[half_].wait();
    }
    std::byte* const place = memory_.data() + static_cast<std::size_t>(half_) * largest + used_;
    std::memcpy(place, from, bytes);
    check_cuda(cudaMemcpyAsync(to, place, bytes, cudaMemcpyHostToDevice, stream), "copy of ", bytes, " bytes to the device");
    used_ += bytes;
  }

 private:
  PinnedMemory memory_;
  Event read_[2];
  int half_ = 0;
  std::size_t used_ = 0;
};

}  // namespace moduleformer::detail

namespace moduleformer {

/// Numbers on their way from the device to the host.
class GpuMailbox {
 public:
  /// Sends numbers that earlier work of the backend's stream makes; receive() must have fetched what was sent before.
  template <class B>
  void send(B& backend, Vector<double const> numbers) {
    std::size_t const bytes = static_cast<std::size_t>(numbers.size()) * sizeof(double);
    if (memory_.size() < bytes) memory_ = detail::PinnedMemory(bytes);
    count_ = static_cast<std::size_t>(numbers.size());
    cudaStream_t const stream = backend.stream().get();
    detail::check_cuda(cudaMemcpyAsync(memory_.data(), numbers.data(), bytes, cudaMemcpyDeviceToHost, stream), "copy of ", bytes,
                       " bytes from the device");
    sent_.record(stream);
  }
  /// Waits for them, and not for later work. Valid until the next send().
  [[nodiscard]] std::span<double const> receive() {
    sent_.wait();
    return {reinterpret_cast<double const*>(memory_.data()), count_};
  }

 private:
  detail::PinnedMemory memory_;
  detail::Event sent_;
  std::size_t count_ = 0;
};

}  // namespace moduleformer
