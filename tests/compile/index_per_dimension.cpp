// SPDX-License-Identifier: MIT
// expect: moduleformer: one index per dimension
#include <moduleformer/core/tensor_view.hpp>

float element(moduleformer::Matrix<float const> matrix) {
#ifdef MISUSE
  return matrix(1);
#else
  return matrix(1, 2);
#endif
}
