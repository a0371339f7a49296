// SPDX-License-Identifier: MIT
// ctest labels: uninstrumented
// The host never touches what is a device's: everything that a model does, on a platform whose memory nobody may read
// or write and which runs no kernel. A host that does dies here, as it would beside a GPU; the emulated device, whose
// memory is the host's, cannot see it.

#include "../benchmarks/cuda/counted.hpp"
#include "io/support.hpp"
#include "training/support.hpp"

#include <moduleformer/io/checkpoint.hpp>
#include <moduleformer/model/generation.hpp>
#include <moduleformer/model/sequence_classifier.hpp>
#include <moduleformer/training/evaluation.hpp>

#include <boost/test/unit_test.hpp>

#include <tuple>
#include <vector>

namespace mf = moduleformer;
using namespace mf::test;
using mf::Index;

namespace {

using Backends = std::tuple<bench::CudaCounted<float>, bench::CudaCounted<mf::bfloat16>>;
template <class B>
using Keeping = mf::CausalLM<tiny_shape, mf::Policies<>, B>;
template <class B>
using Recomputing = mf::CausalLM<tiny_shape, mf::Policies<mf::RecomputeBlocks, mf::GmmRouter>, B>;

mf::Batch some_batch() {
  mf::Batch batch{.rows = 2, .tokens = 3, .ids = {1, 2, 3, 4, 5, 6}, .mask = {1, 1, 1, 1, 1, 0}};
  batch.labels = batch.ids;
  return batch;
}

/// Launches that the call asks for.
template <class Session, class F>
Index launches(Session& session, F const& call) {
  Index const before = session.backend().stream().launches;
  call();
  return session.backend().stream().launches - before;
}

template <class Model>
void check_forwards() {
  auto const model = Model::random(1, random_settings);
  mf::Session session{model};
  mf::Observation<float> seen{.want_hidden_states = true, .want_attention = true};
  BOOST_TEST(launches(session, [&] { (void)model.logits(session, some_batch(), {.observation = &seen}); }) > 40);
  BOOST_TEST(seen.attentions.size() == 2);
  BOOST_TEST(launches(session, [&] { (void)model.loss(session, some_batch(), {.observation = &seen}); }) > 40);
  BOOST_TEST(launches(session, [&] { (void)mf::evaluate(model, session, tiny_batches(2)); }) > 80);

  mf::Buffer<mf::ExpertId, bench::Counted::Memory> const experts(10);
  mf::Matrix<mf::ExpertId const> const chosen{experts.data(), {5, 2}};
  std::vector<mf::BlockRoutes> const routes(2, {chosen, chosen});
  auto gradient = model.make_gradient();
  BOOST_TEST(launches(session, [&] {
               (void)model.gradients(session, some_batch(), gradient, {}, true, {&seen, routes});
             }) > 80);
}

template <class Model>
void check_training() {
  TemporaryFolder const folder;
  auto model = Model::random(1, random_settings);
  auto const options = mf::TrainerOptions{.seed = 3, .record_steps = true, .late_reports = true};
  mf::Trainer trainer{model, mf::AdamW{}, mf::Constant{}, options};
  std::vector<mf::Batch> const micro_batches(2, some_batch());
  BOOST_TEST(launches(trainer.session(), [&] {
               for (Index i = 0; i < 3; ++i) BOOST_TEST(trainer.step(micro_batches).step == i);
             }) > 400);
  BOOST_TEST(trainer.finish().step == 3);
  mf::save(model, folder / "m", {}, trainer);
  auto loaded = mf::load<Model>(folder / "m");
  mf::Trainer resumed{loaded, mf::AdamW{}, mf::Constant{}, options};
  mf::load_state(folder / "m", loaded, resumed);
  BOOST_TEST(resumed.steps() == 3);
  loaded.own_values();
}

}  // namespace

BOOST_AUTO_TEST_CASE_TEMPLATE(forwards, B, Backends) {
  check_forwards<Keeping<B>>();
  check_forwards<Recomputing<B>>();
}

BOOST_AUTO_TEST_CASE_TEMPLATE(training_and_files, B, Backends) {
  check_training<Keeping<B>>();
  check_training<Recomputing<B>>();
}

BOOST_AUTO_TEST_CASE_TEMPLATE(generation, B, Backends) {
  auto const model = Keeping<B>::random(1);
  mf::Session session{model};
  std::vector<mf::Generated> found;
  BOOST_TEST(launches(session, [&] {
               found = mf::generate(model, session, {{1, 2, 3}, {4}}, {.max_new_tokens = 4, .record_steps = true});
             }) > 100);
  BOOST_TEST(found[1].tokens.size() == 4);
}

BOOST_AUTO_TEST_CASE_TEMPLATE(classification, B, Backends) {
  using Model = mf::SequenceClassifier<tiny_shape, mf::Policies<>, B>;
  auto config = mf::Config::of(tiny_shape);
  config.labels = 3;
  auto const model = Model::random(1, config);
  mf::Session session{model};
  mf::Batch batch{.rows = 2, .tokens = 2, .ids = {1, 2, 3, 4}, .labels = {2, 0}};
  auto gradient = model.make_gradient();
  BOOST_TEST(model.logits(session, batch).values.size() == 6);
  BOOST_TEST(launches(session, [&] { (void)model.gradients(session, batch, gradient); }) > 80);
}
