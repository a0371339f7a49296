// SPDX-License-Identifier: MIT
#pragma once
// The CPU's part of checkpoint_beside_cpu.hpp; included by one .cpp file of a program.
#include <moduleformer/backend/cpu.hpp>

#include "io/checkpoint_beside_cpu.hpp"

namespace moduleformer::test {

Held save_from_cpu(std::filesystem::path const& folder) {
  auto model = TinyModel<Cpu<float>>::random(4, random_settings);
  auto trainer = make_trainer(model);
  run(trainer, 2);
  save(model, folder, {}, trainer);
  return held(model, trainer);
}

Held load_on_cpu(std::filesystem::path const& folder) {
  auto model = load<TinyModel<Cpu<float>>>(folder, {.map = false});
  auto trainer = make_trainer(model);
  load_state(folder, model, trainer);
  BOOST_TEST(trainer.steps() == 3);
  return held(model, trainer);
}

}  // namespace moduleformer::test
