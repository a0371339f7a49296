// SPDX-License-Identifier: MIT
#pragma once
// What beside_cpu.hpp compares with; included by one .cpp file of a program.
#include <moduleformer/backend/cpu.hpp>

#include "training/beside_cpu.hpp"

namespace moduleformer::test {

std::vector<double> cpu_losses(Index steps, HowToTrain how) { return losses<Cpu<float>>(steps, how); }

std::vector<RoutedLoss> cpu_routed_losses(Index steps) {
  RoutedRun<Cpu<float>> run;
  std::vector<RoutedLoss> all(static_cast<std::size_t>(steps));
  for (Index i = 0; i < steps; ++i) {
    RoutedLoss& one = all[static_cast<std::size_t>(i)];
    one.loss = run.step(i, &one.seen, nullptr);
  }
  return all;
}

}  // namespace moduleformer::test
