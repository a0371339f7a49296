// SPDX-License-Identifier: MIT
// A loss or gradient that is not finite stops training before anything changes, and says where it arose.

#include "training/support.hpp"

#include <boost/test/unit_test.hpp>

#include <limits>

namespace mf = moduleformer;
using namespace mf::test;

namespace {

using Model = mf::CausalLM<tiny_shape>;
constexpr float infinity = std::numeric_limits<float>::infinity();

/// Spoils a model after two good steps, expects the third to stop, repairs it and goes on.
template <class Spoil>
std::string complaint_after(Spoil const& spoil) {
  auto model = Model::random(4, random_settings);
  mf::Trainer trainer{model, mf::AdamW{.learning_rate = 1e-3}, mf::Constant{}, {.threads = 2}};
  for (auto const& batch : tiny_batches(2)) trainer.step(batch);
  auto const good = weights(model);
  auto const state = StoredState::of(trainer);
  spoil(model);
  auto const spoiled = weights(model);
  mf::Batch batch;
  tiny_batches(3).read(2, batch);
  bool called = false;
  trainer.on_checkpoint(1, [&](mf::StepReport const&) { called = true; });
  std::string const message = complaint([&] { trainer.step(batch); });
  BOOST_TEST(same_bits(weights(model), spoiled));
  BOOST_TEST((StoredState::of(trainer).values == state.values));
  BOOST_TEST(!called);
  set_weights(model, good);
  BOOST_TEST(trainer.step(batch).step == 3);
  BOOST_TEST(called);
  return message;
}

void set_all(Model& model, std::string const& name, float value) {
  for (float& x : model.writable(model.table().find(name))) x = value;
}

}  // namespace

BOOST_AUTO_TEST_CASE(embedding) {
  BOOST_TEST(complaint_after([](Model& m) { set_all(m, "transformer.wte.weight", infinity); }).find(
                 "training step 3: the loss is ") == 0);
  BOOST_TEST(complaint_after([](Model& m) { set_all(m, "transformer.wte.weight", std::nanf("")); }) ==
             "training step 3: the loss is nan, first not finite: the embedding's output (transformer.wte.weight)");
}

BOOST_AUTO_TEST_CASE(routers) {
  BOOST_TEST(complaint_after([](Model& m) { set_all(m, "transformer.h.1.attn.q_proj.gate.w_gate.3.weight", std::nanf("")); }) ==
             "training step 3: the loss is nan, first not finite: the probabilities of router transformer.h.1.attn.q_proj.gate");
  BOOST_TEST(complaint_after([](Model& m) { set_all(m, "transformer.h.0.mlpf.gate.w_gate.0.weight", std::nanf("")); }) ==
             "training step 3: the loss is nan, first not finite: the probabilities of router transformer.h.0.mlpf.gate");
}

BOOST_AUTO_TEST_CASE(layers_and_head) {
  BOOST_TEST(complaint_after([](Model& m) { set_all(m, "transformer.h.0.mlpf.output_experts.weight", infinity); }).find(
                 "first not finite: the output of transformer.h.0") != std::string::npos);
  BOOST_TEST(complaint_after([](Model& m) { set_all(m, "transformer.h.1.mlpf.experts.weight", std::nanf("")); }).find(
                 "first not finite: the output of transformer.h.1 or of the final norm") != std::string::npos);
  BOOST_TEST(complaint_after([](Model& m) { set_all(m, "lm_head.weight", std::nanf("")); }) ==
             "training step 3: the loss is nan, first not finite: the head's loss");
}

BOOST_AUTO_TEST_CASE(gradient_beyond_the_range_of_floats) {
  // Logits are far from the limit, but their derivatives are differences of the head's rows, up to 6e38.
  auto const message = complaint_after([](Model& m) {
    set_all(m, "transformer.ln_f.weight", 1e-20f);
    set_all(m, "transformer.ln_f.bias", 0);
    auto head = m.writable(m.table().find("lm_head.weight"));
    for (mf::Index i = 0; i < head.size(); ++i) head[i] = i % 12 != 0 ? 0 : (i / 12) % 2 == 0 ? 3e38f : -3e38f;
  });
  BOOST_TEST(message.find("training step 3: the gradient's norm is ") == 0);
  BOOST_TEST(message.find("first not finite: the gradient of transformer.ln_f.") != std::string::npos);
}
