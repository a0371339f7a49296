// SPDX-License-Identifier: MIT
#pragma once
// Spoils a model's weights in the middle of a run, on any backend, and returns how the next step complains.

#include "training/support.hpp"

#include <boost/test/unit_test.hpp>

#include <cstddef>
#include <limits>
#include <string>
#include <vector>

namespace moduleformer::test {

inline constexpr float infinity = std::numeric_limits<float>::infinity();

/// Spoils a model after two good steps, expects the third to stop, repairs it and goes on.
template <class Model, class Spoil>
std::string complaint_after(Spoil const& spoil) {
  auto model = Model::random(4, random_settings);
  Trainer trainer{model, AdamW{.learning_rate = 1e-3}, Constant{}, {.threads = 2}};
  for (auto const& batch : tiny_batches(2)) trainer.step(batch);
  auto const good = weights(model);
  auto const state = StoredState::of(trainer);
  spoil(model);
  auto const spoiled = weights(model);
  Batch batch;
  tiny_batches(3).read(2, batch);
  bool called = false;
  trainer.on_checkpoint(1, [&](StepReport const&) { called = true; });
  std::string const message = complaint([&] { trainer.step(batch); });
  BOOST_TEST(same_bits(weights(model), spoiled));
  BOOST_TEST((StoredState::of(trainer).values == state.values));
  BOOST_TEST(!called);
  set_weights(model, good);
  BOOST_TEST(trainer.step(batch).step == 3);
  BOOST_TEST(called);
  return message;
}

/// f(i) for each value i of a tensor.
template <class Model, class F>
void set_each(Model& model, std::string const& name, F const& f) {
  std::size_t const segment = model.table().find(name);
  std::vector<typename Model::Accumulator> values;
  for (Index i = 0; i < model.table()[segment].size(); ++i) values.push_back(f(i));
  set_weights(model, segment, values.data());
}
template <class Model>
void set_all(Model& model, std::string const& name, float value) {
  set_each(model, name, [&](Index) { return value; });
}

/// The loss itself is not finite.
template <class Model>
void check_losses() {
  auto const after = [](char const* name, float value) {
    return complaint_after<Model>([&](Model& model) { set_all(model, name, value); });
  };
  BOOST_TEST(after("transformer.wte.weight", infinity).find("training step 3: the loss is ") == 0);
  BOOST_TEST(after("transformer.wte.weight", std::nanf("")) ==
             "training step 3: the loss is nan, first not finite: the embedding's output (transformer.wte.weight)");
  BOOST_TEST(after("transformer.h.1.attn.q_proj.gate.w_gate.3.weight", std::nanf("")) ==
             "training step 3: the loss is nan, first not finite: the probabilities of router transformer.h.1.attn.q_proj.gate");
  BOOST_TEST(after("transformer.h.0.mlpf.gate.w_gate.0.weight", std::nanf("")) ==
             "training step 3: the loss is nan, first not finite: the probabilities of router transformer.h.0.mlpf.gate");
  BOOST_TEST(after("transformer.h.0.mlpf.output_experts.weight", infinity).find(
                 "first not finite: the output of transformer.h.0") != std::string::npos);
  BOOST_TEST(after("transformer.h.1.mlpf.experts.weight", std::nanf("")).find(
                 "first not finite: the output of transformer.h.1 or of the final norm") != std::string::npos);
  BOOST_TEST(after("lm_head.weight", std::nanf("")) ==
             "training step 3: the loss is nan, first not finite: the head's loss");
}

/// Logits are far from the limit, but their derivatives are differences of the head's rows, up to 6e38.
template <class Model>
void check_gradient() {
  auto const message = complaint_after<Model>([](Model& m) {
    set_all(m, "transformer.ln_f.weight", 1e-20f);
    set_all(m, "transformer.ln_f.bias", 0);
    set_each(m, "lm_head.weight", [](Index i) { return i % 12 != 0 ? 0.0f : (i / 12) % 2 == 0 ? 3e38f : -3e38f; });
  });
  BOOST_TEST(message.find("training step 3: the gradient's norm is ") == 0);
  BOOST_TEST(message.find("first not finite: the gradient of transformer.ln_f.") != std::string::npos);
}

/// With late reports the step after a failed one has begun when the host hears of it: it changes nothing either, and
/// training goes on from before both. One batch holds a token whose embedding is spoilt, the others do not.
template <class Model>
void check_late_reports(bool record) {
  auto const batch_of = [](TokenId id) {
    Batch batch{.rows = 2, .tokens = 9, .ids = std::vector<TokenId>(18, id)};
    batch.labels = batch.ids;
    return batch;
  };
  auto model = Model::random(4, random_settings);
  set_each(model, "transformer.wte.weight", [values = weights(model, model.table().find("transformer.wte.weight"))](Index i) {
    return i / 12 == 9 ? infinity : values[static_cast<std::size_t>(i)];
  });
  Trainer trainer{model, AdamW{.learning_rate = 1e-3}, Constant{}, {.threads = 2, .record_steps = record, .late_reports = true}};
  for (Index step = 0; step < 3; ++step) BOOST_TEST(trainer.step(batch_of(5)).step == step);
  BOOST_TEST(trainer.finish().step == 3);
  auto const good = weights(model);
  auto const state = StoredState::of(trainer);
  BOOST_TEST(trainer.step(batch_of(9)).step == 0);
  BOOST_TEST(complaint([&] { trainer.step(batch_of(5)); }).find("training step 4: the loss is ") == 0);
  BOOST_TEST(same_bits(weights(model), good));
  BOOST_TEST((StoredState::of(trainer).values == state.values));
  BOOST_TEST(trainer.step(batch_of(5)).step == 0);
  BOOST_TEST(trainer.finish().step == 4);
  BOOST_TEST(!same_bits(weights(model), good));

  // A checkpoint waits for its step, whose report comes in its turn all the same.
  std::vector<Index> checkpoints;
  trainer.on_checkpoint(2, [&](StepReport const& report) { checkpoints.push_back(report.step); });
  for (Index step = 5; step <= 9; ++step) BOOST_TEST(trainer.step(batch_of(5)).step == (step == 5 ? 0 : step - 1));
  BOOST_TEST(trainer.finish().step == 9);
  BOOST_TEST(trainer.finish().step == 0);
  BOOST_TEST((checkpoints == std::vector<Index>{6, 8}));
}

}  // namespace moduleformer::test
