// SPDX-License-Identifier: MIT
// Uses the library as a consumer of the package's component cuda does, with a device or without.
#include <moduleformer/io.hpp>
#include <moduleformer/moduleformer.cuh>

#include <cstdio>
#include <string>

#if defined(EIGEN_WORLD_VERSION)
#error "Eigen is included in a .cu file"
#endif

std::string other();

int main() {
  try {
    moduleformer::Cuda<float> backend;
    std::printf("a device of %d multiprocessors\n", backend.processors());
  } catch (moduleformer::CudaError const& error) {
    std::printf("%s\n", error.what());
  }
  return other() == "ModuleFormer" ? 0 : 1;
}
