// SPDX-License-Identifier: MIT
// Uses the library as a consumer of the package does.
#include "other.hpp"

#include <cmath>
#include <cstdio>

int main() {
  auto const chosen = choose();
  bool const right = chosen.expert == 2 && std::fabs(chosen.probability - 0.6652409557748219) < 1e-12;
  std::printf("expert %d with probability %.16f%s\n", chosen.expert, chosen.probability, right ? "" : " is wrong");
  return right ? 0 : 1;
}
