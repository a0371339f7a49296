// SPDX-License-Identifier: MIT
#pragma once
// Sizes of dense layers for tests on every backend.

#include <moduleformer/core/types.hpp>

namespace moduleformer::test {

struct LinearSize {
  Index m, n, k;
};
// One token; few outputs with many rows (a router's gradient is cut into parts); tiles and their remainders.
inline constexpr LinearSize linear_sizes[] = {{1, 1, 1},     {1, 300, 129}, {4, 67, 131},  {5, 16, 64},
                                              {127, 65, 33}, {129, 1, 40},  {257, 513, 9}, {2049, 16, 24}};

}  // namespace moduleformer::test
