// SPDX-License-Identifier: MIT
#pragma once
// CUB's twin of counting_sort.cuh, for comparison and timing: a radix sort of (key, number) pairs; offsets by binary
// search, as the counting sort finds those of large keys. In the stream's order, scratch from the workspace (16 bytes a
// value), nothing waits for the device. Only for nvcc; no primitive uses it. Not cub::DeviceHistogram: it counts for
// each block, at 32-bit offsets into the counts of all, so that 2^24 keys take gigabytes, and where blocks times keys
// exceed 2^31 it writes out of bounds (CCCL 3.0).

#include <moduleformer/backend/checks.hpp>
#include <moduleformer/backend/cuda/cuda.cuh>
#include <moduleformer/backend/cuda/gpu.cuh>
#include <moduleformer/backend/cuda/kernels/counting_sort.cuh>
#include <moduleformer/backend/workspace.hpp>
#include <moduleformer/core/error.hpp>

#include <cub/device/device_radix_sort.cuh>
#include <cuda_runtime.h>

#include <bit>
#include <cstddef>
#include <cstdint>
#include <limits>

namespace moduleformer {

namespace kernels {

/// numbers[i] = i.
struct Enumerate {
  static constexpr int threads = 256;
  std::int32_t* numbers;
  Index size;

  template <class Thread>
  MODULEFORMER_DEVICE void operator()(Thread const& thread) const {
    Index const i = thread.block() * threads + thread.index();
    if (i < size) numbers[i] = static_cast<std::int32_t>(i);
  }
};

}  // namespace kernels

namespace detail {

/// call(scratch, bytes) twice, as CUB's device functions want it: to learn how much scratch it takes, and to run.
template <CudaScalar S, class Call>
void call_cub(CudaBackend<S, Gpu>& backend, char const* what, Call call) {
  std::size_t bytes = 0;
  check_cuda(call(nullptr, bytes), what, ": size of scratch memory");
  Scope const scope{backend.workspace()};
  // An address that is not null, or CUB takes the call for a question.
  auto const scratch = backend.workspace().template allocate<std::byte>(bytes > 0 ? bytes : 1);
  check_cuda(call(scratch.data(), bytes), what, " with ", bytes, " bytes of scratch memory");
}

/// The same as sort_by_key: order (P) = 0, 1, 2, ... stably sorted by keys (P), each in [0, key_count); offsets
/// (key_count + 1, or null) = where the values of each key begin.
template <CudaScalar S>
void sort_by_key_with_cub(CudaBackend<S, Gpu>& backend, Vector<std::int32_t const> keys, Index key_count,
                          Vector<std::int32_t> order, Vector<Index> offsets) {
  Index const size = keys.extent(0);
  constexpr Index most = std::numeric_limits<std::int32_t>::max();
  expects(size <= most && key_count < most, "sort_by_key_with_cub: too many values or keys: ", size, ", ", key_count);
  int const count = static_cast<int>(size);
  int const bits = key_count <= 2 ? 1 : static_cast<int>(std::bit_width(static_cast<std::uint64_t>(key_count - 1)));
  cudaStream_t const stream = backend.stream().get();
  Scope const scope{backend.workspace()};
  auto const numbers = backend.workspace().template allocate<std::int32_t>(size);
  auto const sorted_keys = backend.workspace().template allocate<std::uint32_t>(size);
  auto const* const unsigned_keys = reinterpret_cast<std::uint32_t const*>(keys.data());
  backend.launch(kernels::Enumerate{numbers.data(), size}, ceil_divide(size, kernels::Enumerate::threads));
  if (size > 0)
    call_cub(backend, "cub::DeviceRadixSort::SortPairs", [&](void* scratch, std::size_t& bytes) {
      return cub::DeviceRadixSort::SortPairs(scratch, bytes, unsigned_keys, sorted_keys.data(), numbers.data(),
                                             order.data(), count, 0, bits, stream);
    });
  if (!offsets) return;
  expects(offsets.extent(0) == key_count + 1, "sort_by_key_with_cub: expected offsets of ", key_count + 1, ", found ",
          offsets.extent(0));
  backend.launch(kernels::KeyOffsets{keys.data(), order.data(), size, offsets.data(), key_count + 1},
                 ceil_divide(key_count + 1, kernels::KeyOffsets::threads));
}

}  // namespace detail

}  // namespace moduleformer
