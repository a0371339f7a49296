// SPDX-License-Identifier: MIT
// Training with losses whose statistics run over several micro-batches, on the CPU.

#include "training/statistics_span.hpp"

#include "support/gradient_check.hpp"
#include "training/divergence.hpp"

#include <moduleformer/model/observation.hpp>

#include <cmath>
#include <utility>

namespace mf = moduleformer;
using namespace mf::test;
using mf::Index;

namespace {

using Double = mf::Cpu<double>;
template <class... Chosen>
using Model = mf::CausalLM<tiny_shape, mf::Policies<Chosen...>, Double>;
using Whole = mf::WholeBatchStatistics;
using Streaming = mf::StreamingStatistics;

}  // namespace

BOOST_AUTO_TEST_CASE(the_same_run_in_every_way) {
  check_the_same_run<mf::Cpu<float>, Whole>();
  check_the_same_run<mf::Cpu<float>, Streaming>();
  check_the_same_run<mf::Cpu<float>, Streaming, mf::LoadLoss>();
}

BOOST_AUTO_TEST_CASE(resumed_runs_are_the_same) {
  check_resumed_with_micro_batches<Double, Whole>({0, 1, 3});
  check_resumed_with_micro_batches<Double, Streaming>({0, 1, 3});
}

BOOST_AUTO_TEST_CASE(one_micro_batch_is_the_whole_batch) { check_one_micro_batch<mf::Cpu<float>>(); }

BOOST_AUTO_TEST_CASE(the_whole_batch_is_the_big_batch) {
  check_whole_batch_is_the_big_batch<Double>(1e-12);
  check_whole_batch_is_the_big_batch<mf::Cpu<float>>(1e-5);
}

// Whatever runs beside the passes that count: blocks that are computed again, a forward before, an evaluation.
BOOST_AUTO_TEST_CASE(every_token_is_counted_once) {
  auto const check = []<class M>(std::type_identity<M>) {
    auto settings = spanned_settings();
    settings.sampled_slots = 0;
    auto model = M::random(4, settings);
    auto trainer = spanned_trainer(model);
    for (Index step = 0; step < 2; ++step) {
      auto const batches = micro_batches(step);
      auto const report = trainer.step(batches);
      (void)model.loss(trainer.session(), batches[0]);
      BOOST_REQUIRE_EQUAL(trainer.session().totals.size(), 4U);
      for (mf::RouterTotals const& totals : trainer.session().totals) {
        double chosen = 0, probability = 0;
        for (Index e = 0; e < totals.experts(); ++e) chosen += totals.count[e], probability += totals.probability_sum[e];
        BOOST_TEST(*totals.tokens == static_cast<double>(report.tokens));
        BOOST_TEST(*totals.passes == 2);
        BOOST_TEST(chosen == 2.0 * static_cast<double>(report.tokens));
        BOOST_TEST(std::abs(probability - static_cast<double>(report.tokens)) < 1e-9);
      }
    }
  };
  check(std::type_identity<Model<Streaming>>{});
  check(std::type_identity<Model<Streaming, mf::RecomputeBlocks>>{});
  check(std::type_identity<Model<Whole>>{});
  check(std::type_identity<Model<Whole, mf::RecomputeBlocks>>{});
  check(std::type_identity<Model<mf::BiasedTopK, mf::RecomputeBlocks>>{});
  auto model = Model<>::random(4);
  BOOST_TEST(mf::Trainer{model}.session().totals.empty());
}

// With dropout and sampled slots: the loss is that of what the micro-batches did when they were differentiated.
BOOST_AUTO_TEST_CASE(the_first_forward_draws_what_the_second_does) {
  using M = Model<mf::ExactSwitchLoss, Whole>;
  auto model = M::random(4, spanned_settings());
  model.policies().routing_loss.z_weight = 0;
  auto const batches = micro_batches(0);
  std::vector<std::vector<double>> count(4), probability(4);
  double tokens = 0;
  for (std::size_t i = 0; i < batches.size(); ++i) {
    mf::Session session{model, {.threads = 1}};
    session.random = mf::detail::step_key(8, 0, static_cast<Index>(i));
    auto gradient = model.make_gradient();
    mf::Observation<double> seen;
    (void)model.gradients(session, batches[i], gradient, {}, true, {.observation = &seen});
    double const n = static_cast<double>(session.packed.tokens());
    tokens += n;
    for (std::size_t r = 0; r < 4; ++r) {
      count[r].resize(seen.routers[r].load.size());
      probability[r].resize(count[r].size());
      for (std::size_t e = 0; e < count[r].size(); ++e) {
        count[r][e] += seen.routers[r].load[e];
        probability[r][e] += seen.routers[r].mean_probability[e] * n;
      }
    }
  }
  double expected = 0;
  for (std::size_t r = 0; r < 4; ++r)
    for (std::size_t e = 0; e < count[r].size(); ++e)
      expected += static_cast<double>(count[r].size()) * probability[r][e] / tokens * count[r][e] / (2 * tokens);
  auto trainer = spanned_trainer(model);
  BOOST_CHECK_CLOSE_FRACTION(trainer.step(batches).auxiliary, expected, 1e-12);
}

// What a step reports is what it differentiates.
BOOST_AUTO_TEST_CASE(gradients_of_a_step_over_the_whole_batch) {
  using Sum = mf::WeightedSum<mf::MutualInformationLoss, mf::ImportanceLoss, mf::RouterZLoss>;
  using M = Model<Sum, Whole>;
  mf::Settings settings{.aux_loss_weight = 0.5, .residual_dropout = 0.1, .initializer_range = 0.4};
  typename M::PoliciesType policies;
  policies.routing_loss.weights = {1, 0.5, 0.1};
  auto model = M::random(5, settings, policies);
  mf::Trainer trainer{model, mf::AdamW{.learning_rate = 0, .weight_decay = 0}, mf::Constant{}, {.threads = 1, .seed = 8}};
  auto const batches = micro_batches(0);
  auto const report = trainer.step(batches);
  BOOST_CHECK_CLOSE_FRACTION(report.total, report.task + 0.5 * report.auxiliary, 1e-13);
  std::vector<double> const gradient(trainer.gradient().values().begin(), trainer.gradient().values().end());
  for (char const* name : {"transformer.h.0.attn.q_proj.gate.w_gate.0.weight", "transformer.h.0.mlpf.gate.w_gate.3.weight",
                           "transformer.h.1.mlpf.gate.w_gate.3.weight", "transformer.h.0.mlpf.experts.weight"}) {
    std::size_t const i = model.table().find(name);
    auto const& segment = model.table()[i];
    auto const values = model.writable(i);
    std::span<double const> const analytic{gradient.data() + segment.gradient_offset, static_cast<std::size_t>(segment.size())};
    check_gradient(name, {values.data(), analytic.size()}, analytic, [&] {
      // The same random numbers: of the first step.
      mf::Trainer again{model, mf::AdamW{.learning_rate = 0, .weight_decay = 0}, mf::Constant{}, {.threads = 1, .seed = 8}};
      return again.step(batches).total;
    }, 2e-7, 10);
  }
}

BOOST_AUTO_TEST_CASE(steps_that_fail) {
  check_losses<mf::CausalLM<tiny_shape, mf::Policies<Streaming>>>();
  check_losses<mf::CausalLM<tiny_shape, mf::Policies<Whole>>>();
  check_gradient<mf::CausalLM<tiny_shape, mf::Policies<Streaming>>>();
  check_late_reports<mf::CausalLM<tiny_shape, mf::Policies<Streaming>>>(false);
  check_late_reports<mf::CausalLM<tiny_shape, mf::Policies<Whole>>>(false);
}

BOOST_AUTO_TEST_CASE(the_micro_batch_that_fails_is_named) {
  // The second holds a token whose embedding is spoilt; the loss over both fails in the first one, too.
  auto const batch_of = [](mf::TokenId id) {
    mf::Batch batch{.rows = 2, .tokens = 9, .ids = std::vector<mf::TokenId>(18, id)};
    batch.labels = batch.ids;
    return batch;
  };
  for (bool const late : {false, true}) {
    auto model = Model<Whole>::random(4, spanned_settings());
    set_each(model, "transformer.wte.weight", [values = weights(model, model.table().find("transformer.wte.weight"))](Index i) {
      return i / 12 == 9 ? std::nan("") : values[static_cast<std::size_t>(i)];
    });
    auto trainer = spanned_trainer(model, {.late_reports = late});
    mf::Batch const batches[] = {batch_of(5), batch_of(9)};
    BOOST_TEST(complaint([&] {
                 trainer.step(batches);
                 trainer.finish();
               }) == "training step 1: the loss is nan, first not finite: the embedding's output (transformer.wte.weight)");
  }
}

BOOST_AUTO_TEST_CASE(what_does_not_go_together_is_refused) {
  using Dynamic = mf::CausalLM<tiny_shape, mf::dynamic_policies>;
  mf::dynamic_policies policies;
  policies.routing_loss = mf::NoRoutingLoss{};
  policies.statistics = Whole{};
  BOOST_TEST(complaint([&] { Dynamic::random(1, {}, policies); }) ==
             "statistics: whole_batch needs a routing loss that reads them, found aux_loss_type none");

  // Changed under a trainer.
  auto model = Dynamic::random(1);
  mf::Trainer trainer{model};
  auto const batches = micro_batches(0);
  model.policies().statistics = Streaming{};
  BOOST_TEST(complaint([&] { trainer.step(batches); }) == "training step 1: the model's policies changed, make a new Trainer");
  model.policies().routing_loss = mf::RouterZLoss{};
  BOOST_TEST(complaint([&] { trainer.step(batches); }).find("statistics: streaming changes nothing") == 0);
  model.policies().statistics = mf::MicroBatchStatistics{};
  BOOST_TEST(trainer.step(batches).step == 1);

  // One gate that is always 1.
  mf::Config config = mf::Config::of(tiny_shape);
  config.feed_forward.top_k = 1;
  mf::dynamic_policies normalised;
  normalised.gating = mf::TopKSoftmaxGates{};
  using Any = mf::CausalLM<mf::dynamic_shape, mf::dynamic_policies>;
  BOOST_TEST(complaint([&] { Any::random(1, config, {}, normalised); }) ==
             "gating: top_k_softmax gives gates that sum to 1, and k_mlp leaves one expert to choose: the router would learn nothing");
  normalised.selection = mf::ExpertChoice{};  // of several experts, or none
  BOOST_TEST(complaint([&] { Any::random(1, config, {}, normalised); }) == "none");
  normalised.selection = mf::TopK{};
  config.feed_forward.experts = 1;
  BOOST_TEST(complaint([&] { Any::random(1, config, {}, normalised); }) == "none");
}

BOOST_AUTO_TEST_CASE(sampled_slots_of_a_selection_that_samples_none) {
  auto const complains = []<class M>(std::type_identity<M>) {
    auto model = M::random(1);
    auto const refused = complaint([] { (void)M::random(1, {.sampled_slots = 1}); });
    BOOST_TEST(complaint([&] { model.set_settings({.sampled_slots = 1}); }) == refused);
    return refused;
  };
  BOOST_TEST(complains(std::type_identity<Model<mf::GumbelTopK>>{}) ==
             "sample_topk: selection gumbel_top_k samples no slots, expected 0, found 1");
  BOOST_TEST(complains(std::type_identity<Model<mf::BiasedTopK>>{}) ==
             "sample_topk: selection biased_top_k samples no slots, expected 0, found 1");
  BOOST_TEST(complains(std::type_identity<Model<mf::ExpertChoice>>{}) ==
             "sample_topk: selection expert_choice samples no slots, expected 0, found 1");
  BOOST_TEST(complains(std::type_identity<Model<mf::TopK>>{}) == "none");
}
