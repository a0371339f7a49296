// SPDX-License-Identifier: MIT
#pragma once
// What becomes of CUDA's error codes: CudaError, which names the call and its sizes.

#include <moduleformer/core/error.hpp>

#include <cuda_runtime.h>

namespace moduleformer::detail {

/// Throws CudaError unless the call succeeded. A failed call leaves no error behind for the next one. Any call may be the
/// one that finds out that there is no device, or that its kernels were not compiled for it.
template <class... Parts>
void check_cuda(cudaError_t status, Parts const&... call) {
  if (status == cudaSuccess) return;
  (void)cudaGetLastError();
  if (status == cudaErrorNoDevice || status == cudaErrorInsufficientDriver || status == cudaErrorStubLibrary)
    fail<CudaError>("CUDA backend: expected a CUDA device, found none (", cudaGetErrorString(status), ")");
  bool const not_compiled = status == cudaErrorNoKernelImageForDevice || status == cudaErrorUnsupportedPtxVersion;
  fail<CudaError>(call..., ": ", cudaGetErrorString(status), " (", cudaGetErrorName(status), ")",
                  not_compiled ? "; the program was compiled for other devices, see CMAKE_CUDA_ARCHITECTURES" : "");
}

/// Throws CudaError for devices whose instructions are too few.
inline void check_capability(int major, int minor) {
  if (major < 8)
    fail<CudaError>("CUDA backend: expected a device of compute capability 8.0 or more, found ", major, ".", minor);
}

}  // namespace moduleformer::detail
