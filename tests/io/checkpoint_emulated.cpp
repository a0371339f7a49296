// SPDX-License-Identifier: MIT
// Models on the CUDA backend, emulated, with their trainers: every bit comes back, a resumed run ends in the bits of an
// uninterrupted one, and the CPU goes on with what the device saved, and the other way round.
#include <moduleformer/backend/cuda_emulated.cuh>

#include "io/support.hpp"
#include "training/support.hpp"

#include <moduleformer/backend/cpu.hpp>
#include <moduleformer/io/checkpoint.hpp>

#include <boost/test/unit_test.hpp>

#include <string>
#include <tuple>

namespace mf = moduleformer;
using namespace mf::test;
using mf::Index;

namespace {

template <class B>
using Model = mf::CausalLM<tiny_shape, mf::Policies<>, B>;
using Backends = std::tuple<mf::CudaEmulated<float>, mf::CudaEmulated<mf::bfloat16>>;

template <class M>
auto make_trainer(M& model) {
  return mf::Trainer{model, mf::AdamW{.learning_rate = 2e-2}, mf::Constant{}, {.threads = 1, .seed = 8}};
}
template <class Trainer>
void run(Trainer& trainer, Index until) {
  for (auto const& batch : tiny_batches(until, trainer.steps())) trainer.step(batch);
}

}  // namespace

BOOST_AUTO_TEST_CASE_TEMPLATE(a_resumed_run, B, Backends) {
  TemporaryFolder const folder;
  auto model = Model<B>::random(4, random_settings);
  auto trainer = make_trainer(model);
  run(trainer, 2);
  mf::save(model, folder / "m", {}, trainer);
  auto const saved = weights(model);
  auto const state = StoredState::of(trainer);

  auto loaded = mf::load<Model<B>>(folder / "m");
  BOOST_TEST(same_bits(weights(loaded), saved));
  BOOST_TEST((loaded.settings() == model.settings()));
  auto resumed = make_trainer(loaded);
  mf::load_state(folder / "m", loaded, resumed);
  BOOST_TEST((StoredState::of(resumed).values == state.values));
  run(resumed, 3);
  run(trainer, 3);
  BOOST_TEST(same_bits(weights(loaded), weights(model)));
  BOOST_TEST(!same_bits(weights(loaded), saved));
}

BOOST_AUTO_TEST_CASE_TEMPLATE(between_the_cpu_and_the_device, B, Backends) {
  TemporaryFolder const folder;
  auto first = Model<mf::Cpu<float>>::random(4, random_settings);
  auto trainer = make_trainer(first);
  run(trainer, 2);
  mf::save(first, folder / "m", {}, trainer);

  auto second = mf::load<Model<B>>(folder / "m");
  BOOST_TEST(same_bits(weights(second), weights(first)));
  auto on_device = make_trainer(second);
  mf::load_state(folder / "m", second, on_device);
  BOOST_TEST((StoredState::of(on_device).values == StoredState::of(trainer).values));
  run(on_device, 3);
  mf::save(second, folder / "m", {}, on_device);

  auto third = mf::load<Model<mf::Cpu<float>>>(folder / "m", {.map = false});
  BOOST_TEST(same_bits(weights(third), weights(second)));
  auto on_cpu = make_trainer(third);
  mf::load_state(folder / "m", third, on_cpu);
  BOOST_TEST(on_cpu.steps() == 3);
  BOOST_TEST((StoredState::of(on_cpu).values == StoredState::of(on_device).values));
}

BOOST_AUTO_TEST_CASE(a_refused_state_changes_nothing) {
  using B = mf::CudaEmulated<float>;
  TemporaryFolder const folder;
  auto model = Model<B>::random(4, random_settings);
  auto trainer = make_trainer(model);
  run(trainer, 1);
  mf::save(model, folder / "m", {}, trainer);
  run(trainer, 2);
  auto const before = StoredState::of(trainer);
  // The last tensor that is looked for is missing.
  auto const path = folder / "m" / "trainer.safetensors";
  std::string bytes = read_text(path);
  auto const at = bytes.find("\"v.lm_head.weight\"");
  BOOST_REQUIRE(at != std::string::npos);
  bytes[at + 1] = 'w';
  write_text(path, bytes);
  BOOST_TEST(complaint([&] { mf::load_state(folder / "m", model, trainer); }).find("v.lm_head.weight") != std::string::npos);
  BOOST_TEST((StoredState::of(trainer).values == before.values));
}
