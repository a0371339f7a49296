// SPDX-License-Identifier: MIT
// A run that is stopped anywhere and resumed from weights and visited state ends in the same bits.

#include "training/resume.hpp"

#include <boost/test/unit_test.hpp>

namespace mf = moduleformer;
using namespace mf::test;
using mf::Index;

BOOST_AUTO_TEST_CASE(float_run_resumes_bit_for_bit) { check_resumed_run<mf::CausalLM<tiny_shape>>(); }

BOOST_AUTO_TEST_CASE(double_run_resumes_bit_for_bit) {
  check_resumed_run<mf::CausalLM<tiny_shape, mf::Policies<>, mf::Cpu<double>>>();
}

BOOST_AUTO_TEST_CASE(runs_with_totals_resume_bit_for_bit) {
  check_resumed_run<mf::CausalLM<tiny_shape, mf::Policies<mf::StreamingStatistics>>>();
  check_resumed_run<mf::CausalLM<tiny_shape, mf::Policies<mf::WholeBatchStatistics, mf::RecomputeBlocks>>>();
  auto settings = random_settings;
  settings.sampled_slots = 0;
  check_resumed_run<mf::CausalLM<tiny_shape, mf::Policies<mf::BiasedTopK, mf::SigmoidGates>>>({0, 1, 4, 6}, settings);
}

BOOST_AUTO_TEST_CASE(state_holds_what_it_promises) {
  auto model = mf::CausalLM<tiny_shape>::random(4);
  auto trainer = make_trainer(model);
  run(trainer, 3);
  auto state = StoredState::of(trainer);
  BOOST_TEST(std::get<Index>(state.values.at("step")) == 3);
  BOOST_TEST(std::get<std::uint64_t>(state.values.at("seed")) == 8);
  BOOST_TEST(std::get<std::string>(state.values.at("optimizer")) ==
             "adamw learning_rate=0.02 beta1=0.9 beta2=0.95 epsilon=1e-08 weight_decay=0.1 clip_norm=1 decay=matrices");
  BOOST_TEST(std::get<std::string>(state.values.at("schedule")) == "stable_decay warmup=2 total=7 decay=3 floor=0");
  std::size_t tensors = 0;
  for (auto const& segment : model.table().segments())
    for (char const* kind : {"m.", "v."}) {
      auto const& values = std::get<std::vector<float>>(state.values.at(kind + segment.name));
      BOOST_TEST(static_cast<Index>(values.size()) == segment.size());
      ++tensors;
    }
  BOOST_TEST(state.values.size() == 4 + tensors);
}

BOOST_AUTO_TEST_CASE(other_numbers_are_refused_unless_accepted) {
  auto model = mf::CausalLM<tiny_shape>::random(4);
  auto trainer = make_trainer(model);
  run(trainer, 2);
  auto const state = StoredState::of(trainer);

  mf::Trainer longer{model, mf::AdamW{.learning_rate = 2e-2}, mf::WarmupStableDecay{.warmup = 2, .total = 9, .decay = 3}, {.seed = 8}};
  BOOST_TEST(complaint([&] { state.into(longer); }) ==
             "stored training state: schedule: expected stable_decay warmup=2 total=9 decay=3 floor=0 as in this run, found "
             "stable_decay warmup=2 total=7 decay=3 floor=0");
  mf::Trainer faster{model, mf::AdamW{.learning_rate = 3e-2}, mf::WarmupStableDecay{.warmup = 2, .total = 7, .decay = 3}, {.seed = 8}};
  BOOST_TEST(complaint([&] { state.into(faster); }).find("optimizer: expected adamw learning_rate=0.03 ") != std::string::npos);
  BOOST_TEST(faster.steps() == 0);
  auto other_seed = make_trainer(model, {.seed = 9});
  BOOST_TEST(complaint([&] { state.into(other_seed); }) == "stored training state: seed: expected 9 as in this run, found 8");

  // Another kind of schedule, too.
  mf::Trainer willing{model, mf::AdamW{.learning_rate = 3e-2}, mf::WarmupLinear{.warmup = 0, .total = 4},
                      {.seed = 8, .accept_other_numbers = true}};
  state.into(willing);
  BOOST_TEST(willing.steps() == 2);
  BOOST_TEST(willing.optimizer().learning_rate == 3e-2);
  mf::Batch batch;
  tiny_batches(1).read(0, batch);
  BOOST_TEST(willing.step(batch).learning_rate == 1.5e-2);
}
