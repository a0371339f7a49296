// SPDX-License-Identifier: MIT
// Run where no device can be seen (CUDA_VISIBLE_DEVICES=-1, or none is there): every way to begin says so in one
// sentence, and says it again; other errors of the driver name the call. Needs no test framework.
#include <moduleformer/backend/cuda/cuda.cuh>
#include <moduleformer/backend/cuda/gpu.cuh>
#include <moduleformer/backend/buffer.hpp>

#include <cstdio>
#include <string>

namespace mf = moduleformer;

namespace {

int failures = 0;

template <class F>
void expect(std::string const& expected, F const& f) {
  std::string message = "no error";
  try {
    f();
  } catch (mf::CudaError const& error) {
    message = error.what();
  }
  if (message.find(expected) == 0) return;
  std::printf("expected \"%s...\", found \"%s\"\n", expected.c_str(), message.c_str());
  ++failures;
}

}  // namespace

int main() {
  std::string const none = "CUDA backend: expected a CUDA device, found none (";
  for (int round = 0; round < 2; ++round) {
    expect(none, [] { mf::Buffer<float, mf::Gpu::Memory> const buffer(1000); });
    expect(none, [] { mf::Gpu::Stream const stream; });
    expect(none, [] { mf::CudaBackend<float, mf::Gpu> const backend; });
    expect(none, [] { (void)mf::CudaBackend<mf::bfloat16, mf::Gpu>().workspace().allocate<float>(3); });
  }
  expect("CUDA backend: expected a device of compute capability 8.0 or more, found 7.5", [] { mf::detail::check_capability(7, 5); });
  mf::detail::check_capability(8, 0);
  mf::detail::check_capability(12, 1);
  expect("kernel of x.cuh:3: no kernel image is available for execution on the device (cudaErrorNoKernelImageForDevice); the "
         "program was compiled for other devices", [] { mf::detail::check_cuda(cudaErrorNoKernelImageForDevice, "kernel of x.cuh:", 3); });
  expect("copy of 7 bytes: an illegal memory access was encountered (cudaErrorIllegalAddress)",
         [] { mf::detail::check_cuda(cudaErrorIllegalAddress, "copy of ", 7, " bytes"); });
  std::puts(failures == 0 ? "every message as expected" : "failed");
  return failures == 0 ? 0 : 1;
}
