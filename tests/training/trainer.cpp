// SPDX-License-Identifier: MIT
// Training as a whole: it learns, and its bits depend on neither threads nor recomputation.

#include "training/support.hpp"

#include <moduleformer/training/evaluation.hpp>

#include <boost/test/unit_test.hpp>

#include <array>
#include <set>

namespace mf = moduleformer;
using namespace mf::test;
using mf::Index;

namespace {

using Keeping = mf::CausalLM<tiny_shape>;
using Recomputing = mf::CausalLM<tiny_shape, mf::Policies<mf::RecomputeBlocks>>;

/// Weights and last report after some steps with dropout, sampled slots and two micro-batches.
template <class Model>
std::pair<std::vector<float>, mf::StepReport> train(int threads, std::uint64_t seed = 6) {
  auto model = Model::random(4, random_settings);
  mf::Trainer trainer{model, mf::AdamW{.learning_rate = 1e-2}, mf::WarmupCosine{.warmup = 2, .total = 8},
                      {.threads = threads, .seed = seed}};
  auto const data = tiny_batches(12);
  std::vector<mf::Batch> pair(2);
  mf::StepReport report;
  for (Index step = 0; step < 6; ++step) {
    data.read(2 * step, pair[0]);
    data.read(2 * step + 1, pair[1]);
    report = trainer.step(pair);
  }
  return {weights(model), report};
}

}  // namespace

BOOST_AUTO_TEST_CASE(same_bits_for_any_number_of_threads) {
  auto const [one, report] = train<Keeping>(1);
  for (int threads : {2, 3}) {
    auto const [others, other_report] = train<Keeping>(threads);
    BOOST_TEST(same_bits(one, others));
    BOOST_TEST(other_report.total == report.total);
    BOOST_TEST(other_report.gradient_norm == report.gradient_norm);
  }
  BOOST_TEST(!same_bits(one, train<Keeping>(1, 7).first));  // another seed drops other elements
}

BOOST_AUTO_TEST_CASE(same_bits_recomputed_or_not) {
  BOOST_TEST(same_bits(train<Keeping>(2).first, train<Recomputing>(2).first));
}

BOOST_AUTO_TEST_CASE(repetitive_text_is_learned) {
  auto model = Keeping::random(1, {.aux_loss_weight = 1e-3});
  mf::Trainer trainer{model, mf::AdamW{.learning_rate = 1e-2}, mf::WarmupCosine{.warmup = 10, .total = 200}, {.threads = 2}};
  auto const data = tiny_batches(200);
  mf::StepReport first, last;
  for (auto const& batch : data) {
    last = trainer.step(batch);
    if (last.step == 1) first = last;
  }
  BOOST_TEST(last.step == 200);
  BOOST_TEST(trainer.steps() == 200);
  BOOST_TEST(first.task > 5.3);
  BOOST_TEST(first.task < 5.8);  // ln 256 = 5.55
  BOOST_TEST(last.task < 1.5);
  auto const evaluation = mf::evaluate(model, trainer.session(), data.held_out());
  BOOST_TEST(evaluation.bits_per_byte() < 3);
}

BOOST_AUTO_TEST_CASE(reports_rates_and_checkpoints) {
  auto model = Keeping::random(1);
  mf::Trainer trainer{model, mf::AdamW{.learning_rate = 0.5}, mf::WarmupLinear{.warmup = 2, .total = 6}, {.threads = 1}};
  std::vector<Index> saved;
  trainer.on_checkpoint(2, [&](mf::StepReport const& report) {
    BOOST_TEST(report.step == trainer.steps());
    saved.push_back(report.step);
  });
  std::vector<double> rates;
  for (auto const& batch : tiny_batches(5)) {
    auto const report = trainer.step(batch);
    rates.push_back(report.learning_rate);
    BOOST_TEST(report.step == static_cast<Index>(rates.size()));
    BOOST_TEST(report.tokens == 51);
    BOOST_TEST(report.counted == 51);
    BOOST_TEST(report.gradient_norm > 0);
  }
  BOOST_TEST((rates == std::vector<double>{0.25, 0.5, 0.5, 0.375, 0.25}));
  BOOST_TEST((saved == std::vector<Index>{2, 4}));
  BOOST_CHECK_THROW(trainer.on_checkpoint(0, nullptr), mf::Error);
}

BOOST_AUTO_TEST_CASE(schedules_of_the_user_and_of_run_time) {
  struct Halving {
    double factor(Index step) const { return step == 0 ? 1 : 0.5; }
  };
  auto model = Keeping::random(1);
  mf::Batch batch;
  tiny_batches(1).read(0, batch);
  mf::Trainer own{model, mf::AdamW{.learning_rate = 1e-3}, Halving{}};
  BOOST_TEST(own.step(batch).learning_rate == 1e-3);
  BOOST_TEST(own.step(batch).learning_rate == 5e-4);
  mf::Trainer any{model, mf::AdamW{.learning_rate = 1e-3}, mf::AnySchedule{mf::WarmupLinear{.warmup = 4, .total = 5}}};
  BOOST_TEST(any.step(batch).learning_rate == 2.5e-4);
}

BOOST_AUTO_TEST_CASE(every_micro_batch_of_every_step_draws_its_own_numbers) {
  std::set<std::array<std::uint32_t, 4>> first_words;
  for (std::uint64_t seed : {0u, 1u})
    for (Index step : {Index{0}, Index{1}, Index{7}, Index{1} << 32})
      for (Index micro_batch : {0, 1, 2}) first_words.insert(mf::random_words(mf::detail::step_key(seed, step, micro_batch), 0));
  BOOST_TEST(first_words.size() == 2 * 4 * 3);
}

BOOST_AUTO_TEST_CASE(weights_in_mapped_files_are_refused_at_once) {
  auto const config = mf::Config::of(tiny_shape);
  auto const table = Keeping::declare(config, {}, {});
  std::vector<float> const file(static_cast<std::size_t>(table[0].size()));
  std::vector<float const*> places(table.count(), nullptr);
  places[0] = file.data();
  Keeping mapped(config, {}, {}, mf::ParameterStorage<mf::Cpu<float>>(table, places, nullptr));
  BOOST_TEST(complaint([&] { mf::Trainer trainer{mapped}; }).find("transformer.wte.weight: its values lie in a read-only file") == 0);
}

BOOST_AUTO_TEST_CASE(wrong_numbers_are_refused_at_once) {
  auto model = Keeping::random(1);
  BOOST_TEST(complaint([&] { mf::Trainer trainer{model, mf::AdamW{.beta1 = 2}}; }).find("beta1") != std::string::npos);
  BOOST_TEST(complaint([&] { mf::Trainer trainer{model, {}, mf::WarmupCosine{.total = 0}}; }).find("cosine") != std::string::npos);
}

BOOST_AUTO_TEST_CASE(the_load_of_a_step_can_be_seen_and_changes_nothing) {
  using Plain = mf::CausalLM<tiny_shape>;
  auto watched = Plain::random(3, random_settings), other = Plain::random(3, random_settings);
  mf::Trainer watching{watched, {}, mf::Constant{}, {.threads = 2, .observe_load = true}}, trainer{other, {}, mf::Constant{}, {.threads = 2}};
  mf::Batch first, second;
  tiny_batches(2).read(0, first);
  tiny_batches(2).read(1, second);
  mf::Batch const both[] = {first, second};
  for (int step = 0; step < 2; ++step) {
    auto const report = watching.step(both);
    trainer.step(both);
    auto const load = watching.routing_load();
    BOOST_REQUIRE(load.size() == 4u);
    for (auto const& router : load) {
      double sum = 0;
      for (double const tokens : router) sum += tokens;
      BOOST_TEST(sum == 2 * static_cast<double>(report.tokens));
    }
  }
  BOOST_TEST(same_bits(weights(watched), weights(other)));
  BOOST_TEST(complaint([&] { (void)trainer.routing_load(); }) == "routing_load: expected a trainer with observe_load");
}
