// SPDX-License-Identifier: MIT
#pragma once
// Recorded routes replayed, on any backend: the same model gives the same bits, forward and in training; another model
// takes the recorded experts; what does not fit is refused before anything changes.

#include "training/support.hpp"

#include <moduleformer/model/route_record.hpp>
#include <moduleformer/training/evaluation.hpp>

#include <boost/test/unit_test.hpp>

#include <algorithm>
#include <cstddef>
#include <string>
#include <utility>
#include <vector>

namespace moduleformer::test {

template <class B>
class ReplayChecks {
 public:
  using A = typename B::Accumulator;
  using Keeping = CausalLM<tiny_shape, Policies<>, B>;
  using Balanced = CausalLM<tiny_shape, Policies<BiasedTopK, WholeBatchStatistics>, B>;
  using Pooled = CausalLM<tiny_shape, Policies<DocumentPool>, B>;
  using ByExperts = CausalLM<tiny_shape, Policies<ExpertChoice, RecomputeBlocks>, B>;
  using Recomputing = CausalLM<tiny_shape, Policies<RecomputeBlocks>, B>;

  /// Rows, a single token, padded rows, packed sequences.
  static std::vector<Batch> batches() {
    auto const ids = [](Index n, std::uint64_t seed) {
      std::vector<TokenId> result;
      for (Index i = 0; i < n; ++i)
        result.push_back(static_cast<TokenId>(random_words({seed, 1, 1}, static_cast<std::uint64_t>(i))[0] % 256));
      return result;
    };
    std::vector<Batch> all{{.rows = 2, .tokens = 9, .ids = ids(18, 1)},
                           {.rows = 1, .tokens = 1, .ids = ids(1, 2)},
                           {.rows = 2, .tokens = 5, .ids = ids(10, 3), .mask = {1, 1, 1, 0, 0, 0, 1, 1, 1, 1}},
                           Batch::packed({ids(1, 4), ids(17, 5), ids(3, 6)})};
    for (Batch& batch : all) batch.targets = batch.ids;
    return all;
  }

  void check_the_same_bits() const {
    auto const model = Keeping::random(7, settings());
    Session<B> session{SessionOptions{.threads = 2}};
    auto const data = batches();
    RouteRecord const record = record_routes(model, session, data);
    BOOST_TEST(record.size() == 4);
    BOOST_TEST(record.tokens() == 18 + 1 + 7 + 21);
    record.check();
    for (std::size_t i = 0; i < data.size(); ++i) {
      Replay const replay = record.replay(static_cast<Index>(i));
      BOOST_TEST(
          same_bits(model.logits(session, data[i]).values, model.logits(session, data[i], {.replay = replay}).values));
      LossReport const own = model.loss(session, data[i]), replayed = model.loss(session, data[i], {.replay = replay});
      BOOST_TEST(own.total == replayed.total);
      BOOST_TEST(own.auxiliary == replayed.auxiliary);
      BOOST_TEST(same_bits(gradients(model, data[i], {}), gradients(model, data[i], replay)));
      auto const again = Recomputing::random(7, settings());
      BOOST_TEST(same_bits(gradients(model, data[i], {}), gradients(again, data[i], replay)));
    }
    Evaluation const own = evaluate(model, session, data), replayed = evaluate(model, session, data, &record);
    BOOST_TEST(own.nats == replayed.nats);
    // The routes belong to the tokens, however they are padded.
    Batch unpadded{.rows = 1, .tokens = 7, .sequence_begins = {0, 3}};
    for (Index i = 0; i < 10; ++i)
      if (data[2].is_real(i)) unpadded.ids.push_back(data[2].id(i));
    (void)model.logits(session, unpadded, {.replay = record.replay(2)});
  }

  /// Another model runs on the recorded experts, with gates and losses of its own.
  void check_another_model() const {
    auto const one = Keeping::random(7, settings()), other = Keeping::random(8, settings());
    Session<B> session{SessionOptions{.threads = 2}};
    auto const data = batches();
    RouteRecord const record = record_routes(one, session, data);
    RouteRecord replayed;
    Observation<A> seen;
    for (std::size_t i = 0; i < data.size(); ++i) {
      auto const logits =
          other.logits(session, data[i], {.observation = &seen, .replay = record.replay(static_cast<Index>(i))});
      replayed.add(data[i], seen);
      if (i == 0) BOOST_TEST(!same_bits(logits.values, other.logits(session, data[i]).values));
    }
    for (std::size_t r = 0; r < record.routers.size(); ++r) {
      BOOST_TEST(record.routers[r].experts == replayed.routers[r].experts, boost::test_tools::per_element());
      BOOST_TEST(record.routers[r].gates != replayed.routers[r].gates);
    }
    BOOST_TEST(!same_bits(gradients(other, data[0], {}), gradients(other, data[0], record.replay(0))));
  }

  /// Steps on one's own routes, sampled and behind dropout, and on the same ones replayed; kept or recomputed, with the
  /// work recorded and reports one step late.
  void check_training() const {
    auto const [weights_own, record] = train_and_record<Keeping>();
    BOOST_TEST(record.size() == 2 * steps);
    for (TrainerOptions const how :
         {TrainerOptions{}, {.record_steps = true}, {.record_steps = true, .late_reports = true}}) {
      BOOST_TEST(same_bits(weights_own, train<Keeping>(how, &record)));
      BOOST_TEST(same_bits(weights_own, train<Recomputing>(how, &record)));
    }
    BOOST_TEST(same_bits(weights_own, train<Keeping>({}, nullptr)));
    BOOST_TEST(same_bits(weights_own, train<Keeping>({.record_steps = true}, &record, 2)));
    check_training_of<Balanced>();  // whose routes change a bias
    check_training_of<ByExperts>();
    check_training_of<Pooled>();
    RouteRecord other = record;
    for (RecordedRouter& router : other.routers)
      for (ExpertId& id : router.experts) id = static_cast<ExpertId>((id + 1) % router.size.experts);
    BOOST_TEST(!same_bits(weights_own, train<Keeping>({}, &other)));
  }

  /// With empty slots, which other selections do not take; and another number of them than in evaluation.
  void check_empty_slots() const {
    auto const trained = train_and_record<ByExperts>();
    auto const& record = trained.second;
    auto const& experts = record.routers[1].experts;
    BOOST_TEST(record.routers[1].size.slots == 4);
    BOOST_TEST(std::count(experts.begin(), experts.end(), empty_slot) > 0);
    auto const model = ByExperts::random(7, settings());
    Session<B> session{SessionOptions{.threads = 2}};
    auto const found =
        complaint([&] { (void)model.logits(session, micro_batches(0)[0], {.replay = record.replay(0)}); });
    expect(found,
           "with 3 experts, 3 slots, expected router 'transformer.h.0.attn.q_proj.gate' with 3 experts, 2 slots");
  }

  void check_refusals() const {
    auto model = Keeping::random(7, settings());
    Session<B> session{SessionOptions{.threads = 2}};
    auto const data = batches();
    RouteRecord const record = record_routes(model, session, data);
    auto const run = [&](RouteRecord const& from, Index i, Batch const& batch) {
      return complaint([&] { (void)model.logits(session, batch, {.replay = from.replay(i)}); });
    };
    BOOST_TEST(run(record, 0, data[0]) == "none");
    expect(run(record, 4, data[0]), "expected a batch below 4, as many as it holds, found 4");
    expect(run(record, -1, data[0]), "found -1");
    expect(run(record, 1, data[0]), "batch 1 was recorded of another text");
    Batch text = data[2];
    text.ids[1] ^= 1;
    expect(run(record, 2, text), "batch 2 was recorded of another text");
    text = data[2];
    text.ids[3] ^= 1;  // padding
    BOOST_TEST(run(record, 2, text) == "none");
    text = data[3];
    text.sequence_begins = {0, 2, 18};
    expect(run(record, 3, text), "batch 3 was recorded of another text");

    RouteRecord bad = record;
    bad.routers[1].experts[2 * 3] = 4;
    expect(run(bad, 0, data[0]), "'transformer.h.0.mlpf.gate' with 4 experts, 2 slots, batch 0, token 3");
    BOOST_TEST(run(bad, 2, data[2]) == "none");  // the others are as they were
    bad.routers[1].experts[2 * 3] = empty_slot;
    expect(run(bad, 0, data[0]), "has an empty slot");
    bad.routers[1].experts[2 * 3] = bad.routers[1].experts[2 * 3 + 1];
    expect(run(bad, 0, data[0]), "twice");
    bad = record;
    --bad.batches[0].tokens;
    expect(run(bad, 0, data[0]), "batch 0: expected 18 tokens, found 17");
    bad = record;
    bad.routers[2].experts.resize(10);
    expect(run(bad, 0, data[0]), "'transformer.h.1.attn.q_proj.gate' with 3 experts, 2 slots does not hold batch 0");
    bad = record;
    bad.routers[2].size.experts = 5;
    expect(run(bad, 0, data[0]),
           "another model: it has router 'transformer.h.1.attn.q_proj.gate' with 5 experts, 2 slots, expected router "
           "'transformer.h.1.attn.q_proj.gate' with 3 experts, 2 slots");
    bad = record;
    bad.routers.pop_back();
    expect(run(bad, 0, data[0]), "it has no further router, expected router 'transformer.h.1.mlpf.gate'");

    Buffer<ExpertId, typename B::Memory> const some(36);
    std::vector<BlockRoutes> const routes(2, {{some.data(), {18, 2}}, {some.data(), {18, 2}}});
    expect(complaint([&] { (void)model.logits(session, data[0], {.routes = routes, .replay = record.replay(0)}); }),
           "routes and replay are both given");

    Observation<A> seen{.want_routing = false};
    model.forward(session, data[0], {.observation = &seen});
    RouteRecord onto = record;
    expect(complaint([&] { onto.add(data[0], seen); }), "found one of 0 routers");
    seen.want_routing = true;
    model.forward(session, data[0], {.observation = &seen});
    expect(complaint([&] { onto.add(data[1], seen); }), "expected an observation of routing of 1 x 1 tokens");
    seen.routers[3].top_k = 1;
    expect(complaint([&] { onto.add(data[0], seen); }),
           "expected router 'transformer.h.1.mlpf.gate' with 4 experts, 1 slots");
    BOOST_TEST(onto.size() == 4);

    Trainer trainer{model, AdamW{}, Constant{}, {.threads = 2}};
    auto const before = weights(model);
    expect(complaint([&] { trainer.step(data[0], record.replay(2)); }), "batch 2");
    std::vector<Replay> const replays{record.replay(0)};
    expect(complaint([&] { trainer.step(data, replays); }),
           "expected a replay for each of 4 micro-batches or none, found 1");
    BOOST_TEST(same_bits(before, weights(model)));
    BOOST_TEST(trainer.step(data[0], record.replay(0)).step == 1);
  }

 private:
  static constexpr Index steps = 4;

  /// With all that is random, as far as the selection knows it.
  template <class Model>
  static Settings training_settings() {
    Settings settings = random_settings;
    if constexpr (!requires { Model::PoliciesType::Selection::samples_slots; }) settings.sampled_slots = 0;
    return settings;
  }
  static void expect(std::string const& found, std::string const& message) {
    BOOST_TEST(found.find(message) != std::string::npos, found << " does not say: " << message);
  }
  static Settings settings() { return {.aux_loss_weight = 0.02, .initializer_range = 0.4}; }

  template <class Model>
  static void check_training_of() {
    auto const [weights, record] = train_and_record<Model>();
    BOOST_TEST(same_bits(weights, train<Model>({.record_steps = true}, &record)));
  }

  template <class Model>
  static std::vector<A> gradients(Model const& model, Batch const& batch, Replay replay) {
    Session<B> session{SessionOptions{.threads = 2}};
    auto gradient = model.make_gradient();
    fill(session.backend(), gradient.values(), A(0));
    (void)model.gradients(session, batch, gradient, {}, false, {.replay = replay});
    std::vector<A> host(static_cast<std::size_t>(gradient.values().size()));
    to_host(session.backend(), gradient.values(), host.data());
    return host;
  }

  static std::vector<Batch> micro_batches(Index step) {
    auto const data = tiny_batches(2 * steps);
    std::vector<Batch> pair(2);
    data.read(2 * step, pair[0]);
    data.read(2 * step + 1, pair[1]);
    return pair;
  }

  /// Weights after steps on the trainer's own routes, and these.
  template <class Model>
  static std::pair<std::vector<A>, RouteRecord> train_and_record() {
    auto model = Model::random(4, training_settings<Model>());
    Trainer trainer{model, AdamW{.learning_rate = 1e-2}, Constant{}, {.threads = 2, .seed = 6}};
    auto gradient = model.make_gradient();
    RouteRecord record;
    Observation<A> seen;
    for (Index step = 0; step < steps; ++step) {
      auto const pair = micro_batches(step);
      for (std::size_t i = 0; i < pair.size(); ++i) {
        trainer.session().random = detail::step_key(6, step, static_cast<Index>(i));
        (void)model.gradients(trainer.session(), pair[i], gradient, {}, true, {.observation = &seen});
        record.add(pair[i], seen);
      }
      trainer.step(pair);
    }
    return {weights(model), record};
  }

  /// The first steps on recorded routes, the others on the trainer's own.
  template <class Model>
  static std::vector<A> train(TrainerOptions how, RouteRecord const* record, Index replayed = steps) {
    how.threads = 1;
    how.seed = 6;
    auto model = Model::random(4, training_settings<Model>());
    Trainer trainer{model, AdamW{.learning_rate = 1e-2}, Constant{}, how};
    for (Index step = 0; step < steps; ++step) {
      std::vector<Replay> replays;
      for (Index i = 0; record != nullptr && step < replayed && i < 2; ++i)
        replays.push_back(record->replay(2 * step + i));
      trainer.step(micro_batches(step), replays);
    }
    (void)trainer.finish();
    return weights(model);
  }
};

}  // namespace moduleformer::test
