// SPDX-License-Identifier: MIT
// The main function of the programs *_device.cu: without a device they say so and exit with 77, skipped for ctest.
#define BOOST_TEST_MODULE moduleformer_device
#include <boost/test/unit_test.hpp>

#include <cuda_runtime_api.h>

#include <cstdio>
#include <cstdlib>

namespace {

struct NeedsDevice {
  NeedsDevice() {
    int devices = 0;
    cudaError_t const status = cudaGetDeviceCount(&devices);
    if (status == cudaSuccess && devices > 0) return;
    std::printf("skipped: no CUDA device (%s)\n", status == cudaSuccess ? "none found" : cudaGetErrorString(status));
    std::fflush(stdout);
    std::_Exit(77);
  }
};

}  // namespace

BOOST_TEST_GLOBAL_FIXTURE(NeedsDevice);
