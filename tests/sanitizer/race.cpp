// SPDX-License-Identifier: MIT
// Is the thread sanitizer awake? Two loops that only OpenMP's barrier keeps apart must pass; with an
// argument, a sum that all threads write must be reported.
#include <cstdio>
#include <vector>

int main(int arguments, char**) {
  std::vector<double> values(1000);
  for (int round = 0; round < 50; ++round) {
#pragma omp parallel for num_threads(2)
    for (std::size_t i = 0; i < 1000; ++i) values[i] += 1;
#pragma omp parallel for num_threads(2)
    for (std::size_t i = 0; i < 1000; ++i) values[999 - i] *= 0.5;
  }
  double sum = 0;
  if (arguments > 1) {
#pragma omp parallel for num_threads(2)
    for (std::size_t i = 0; i < 1000; ++i) sum += values[i];
  }
  std::printf("%g\n", sum + values[0]);
}
