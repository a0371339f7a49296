// SPDX-License-Identifier: MIT
#pragma once
// Models on a backend of CUDA with their trainers: every bit comes back, a resumed run ends in the bits of an uninterrupted
// one, and the CPU goes on with what the device saved, and the other way round. The CPU's part is in another file, which
// includes checkpoint_cpu.hpp: Eigen and nvcc do not go together.

#include "io/support.hpp"
#include "training/support.hpp"

#include <moduleformer/io/checkpoint.hpp>

#include <boost/test/unit_test.hpp>

#include <filesystem>
#include <string>
#include <vector>

namespace moduleformer::test {

template <class B>
using TinyModel = CausalLM<tiny_shape, Policies<>, B>;

template <class M>
auto make_trainer(M& model) {
  return Trainer{model, AdamW{.learning_rate = 2e-2}, Constant{}, {.threads = 1, .seed = 8}};
}
template <class Trainer>
void run(Trainer& trainer, Index until) {
  for (auto const& batch : tiny_batches(until, trainer.steps())) trainer.step(batch);
}

/// What a model and its trainer hold.
struct Held {
  std::vector<float> weights;
  StoredState state;
};
template <class Model, class Trainer>
Held held(Model const& model, Trainer const& trainer) {
  return {weights(model), StoredState::of(trainer)};
}

/// On the CPU: two steps, saved; and what it loads.
Held save_from_cpu(std::filesystem::path const& folder);
Held load_on_cpu(std::filesystem::path const& folder);

template <class B>
void check_resumed_folder() {
  TemporaryFolder const folder;
  auto model = TinyModel<B>::random(4, random_settings);
  auto trainer = make_trainer(model);
  run(trainer, 2);
  save(model, folder / "m", {}, trainer);
  auto const saved = held(model, trainer);

  auto loaded = load<TinyModel<B>>(folder / "m");
  BOOST_TEST((loaded.settings() == model.settings()));
  auto resumed = make_trainer(loaded);
  load_state(folder / "m", loaded, resumed);
  BOOST_TEST(same_bits(weights(loaded), saved.weights));
  BOOST_TEST((StoredState::of(resumed).values == saved.state.values));
  run(resumed, 3);
  run(trainer, 3);
  BOOST_TEST(same_bits(weights(loaded), weights(model)));
  BOOST_TEST(!same_bits(weights(loaded), saved.weights));
}

template <class B>
void check_between_cpu_and_device() {
  TemporaryFolder const folder;
  auto const first = save_from_cpu(folder / "m");
  auto model = load<TinyModel<B>>(folder / "m");
  BOOST_TEST(same_bits(weights(model), first.weights));
  auto trainer = make_trainer(model);
  load_state(folder / "m", model, trainer);
  BOOST_TEST((StoredState::of(trainer).values == first.state.values));
  run(trainer, 3);
  save(model, folder / "m", {}, trainer);

  auto const last = load_on_cpu(folder / "m");
  BOOST_TEST(same_bits(last.weights, weights(model)));
  BOOST_TEST(!same_bits(last.weights, first.weights));
  BOOST_TEST((last.state.values == StoredState::of(trainer).values));
}

template <class B>
void check_refused_state() {
  TemporaryFolder const folder;
  auto model = TinyModel<B>::random(4, random_settings);
  auto trainer = make_trainer(model);
  run(trainer, 1);
  save(model, folder / "m", {}, trainer);
  run(trainer, 2);
  auto const before = StoredState::of(trainer);
  // The last tensor that is looked for is missing.
  auto const path = folder / "m" / "trainer.safetensors";
  std::string bytes = read_text(path);
  auto const at = bytes.find("\"v.lm_head.weight\"");
  BOOST_REQUIRE(at != std::string::npos);
  bytes[at + 1] = 'w';
  write_text(path, bytes);
  BOOST_TEST(complaint([&] { load_state(folder / "m", model, trainer); }).find("v.lm_head.weight") != std::string::npos);
  BOOST_TEST((StoredState::of(trainer).values == before.values));
}

}  // namespace moduleformer::test
