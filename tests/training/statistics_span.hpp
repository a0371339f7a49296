// SPDX-License-Identifier: MIT
#pragma once
// Training with losses whose statistics run over several micro-batches, on any backend: recorded, reported late, with
// recomputed blocks and resumed it is the same run bit for bit; one micro-batch on its own is the whole batch.

#include "training/support.hpp"

#include <boost/test/unit_test.hpp>

#include <algorithm>
#include <cmath>
#include <initializer_list>
#include <type_traits>
#include <vector>

namespace moduleformer::test {

/// Rows [begin, end) of a batch with targets.
inline Batch rows_of(Batch const& all, Index begin, Index end) {
  auto const cut = [&](auto const& from) {
    return std::vector(from.begin() + begin * all.tokens, from.begin() + end * all.tokens);
  };
  return {.rows = end - begin, .tokens = all.tokens, .ids = cut(all.ids), .targets = cut(all.targets)};
}

/// Step `step`'s batch in micro-batches of one and of two rows, or as it is.
inline std::vector<Batch> micro_batches(Index step, bool in_two = true) {
  Batch batch;
  tiny_batches(step + 1).read(step, batch);
  if (!in_two) return {batch};
  return {rows_of(batch, 0, 1), rows_of(batch, 1, 3)};
}

/// Everything random is on, and the routing loss weighs much.
inline Settings spanned_settings() {
  Settings settings = random_settings;
  settings.aux_loss_weight = 0.5;
  return settings;
}

template <class Model>
auto spanned_trainer(Model& model, TrainerOptions options = {}) {
  options.threads = 1;
  options.seed = 8;
  return Trainer{model, AdamW{.learning_rate = 2e-2}, Constant{}, options};
}

/// What a run leaves: weights, state, reports.
template <class Model>
struct SpannedRun {
  std::vector<typename Model::Accumulator> values;
  StoredState state;
  std::vector<double> totals, auxiliary;

  explicit SpannedRun(Index steps, TrainerOptions options = {}, bool in_two = true) {
    auto model = Model::random(4, spanned_settings());
    auto trainer = spanned_trainer(model, options);
    auto const note = [&](StepReport const& report) {
      if (report.step == 0) return;
      totals.push_back(report.total);
      auxiliary.push_back(report.auxiliary);
    };
    for (Index i = 0; i < steps; ++i) note(trainer.step(micro_batches(i, in_two)));
    note(trainer.finish());
    values = weights(model);
    state = StoredState::of(trainer);
  }
  void check_same(SpannedRun const& other) const {
    BOOST_TEST(same_bits(values, other.values));
    BOOST_TEST((state.values == other.state.values));
    BOOST_TEST(totals == other.totals);
    BOOST_TEST(auxiliary == other.auxiliary);
  }
};

/// Again, with recorded steps, with late reports too, and with blocks that are computed again.
template <class B, class... Chosen>
void check_the_same_run() {
  SpannedRun<CausalLM<tiny_shape, Policies<Chosen...>, B>> const run(4);
  BOOST_TEST(run.totals.size() == 4U);
  run.check_same(decltype(run)(4));
  run.check_same(decltype(run)(4, {.record_steps = true}));
  run.check_same(decltype(run)(4, {.record_steps = true, .late_reports = true}));
  SpannedRun<CausalLM<tiny_shape, Policies<Chosen..., RecomputeBlocks>, B>> const recomputed(4);
  BOOST_TEST(same_bits(run.values, recomputed.values));
  BOOST_TEST((run.state.values == recomputed.state.values));
  BOOST_TEST(run.totals == recomputed.totals);
}

/// Stops after each of these numbers of steps, out of four.
template <class B, class... Chosen>
void check_resumed_with_micro_batches(std::initializer_list<Index> stops) {
  using Model = CausalLM<tiny_shape, Policies<Chosen...>, B>;
  SpannedRun<Model> const whole(4);
  for (Index const stop : stops) {
    SpannedRun<Model> const begun(stop);
    auto model = Model::random(99, spanned_settings());
    set_weights(model, begun.values);
    auto trainer = spanned_trainer(model);
    begun.state.into(trainer);
    for (Index i = stop; i < 4; ++i) trainer.step(micro_batches(i));
    BOOST_TEST(same_bits(weights(model), whole.values));
    BOOST_TEST((StoredState::of(trainer).values == whole.state.values));
  }
}

/// The whole batch is one micro-batch: the run without further statistics, bit for bit. So is a streamed loss of counts.
template <class B>
void check_one_micro_batch() {
  auto const run = []<class... Chosen>(std::type_identity<Policies<Chosen...>>) {
    return SpannedRun<CausalLM<tiny_shape, Policies<Chosen...>, B>>(3, {}, false);
  };
  auto const same = [](auto const& a, auto const& b) {
    BOOST_TEST(same_bits(a.values, b.values));
    BOOST_TEST(a.totals == b.totals);
    BOOST_TEST(a.auxiliary == b.auxiliary);
  };
  same(run(std::type_identity<Policies<>>{}), run(std::type_identity<Policies<WholeBatchStatistics>>{}));
  auto const load = run(std::type_identity<Policies<LoadLoss>>{});
  same(load, run(std::type_identity<Policies<LoadLoss, StreamingStatistics>>{}));
  same(load, run(std::type_identity<Policies<LoadLoss, WholeBatchStatistics>>{}));
}

/// Without anything random, the first step on two micro-batches has the gradient of the step on all of them.
template <class B>
void check_whole_batch_is_the_big_batch(double tolerance) {
  auto const gradient = []<class Model>(std::type_identity<Model>, bool in_two) {
    auto model = Model::random(4, {.aux_loss_weight = 0.5, .initializer_range = 0.3});
    auto trainer = spanned_trainer(model);
    trainer.step(micro_batches(0, in_two));
    std::vector<typename Model::Accumulator> host(static_cast<std::size_t>(trainer.gradient().values().size()));
    to_host(trainer.session().backend(), trainer.gradient().values(), host.data());
    return host;
  };
  auto const big = gradient(std::type_identity<CausalLM<tiny_shape, Policies<>, B>>{}, false);
  auto const whole = gradient(std::type_identity<CausalLM<tiny_shape, Policies<WholeBatchStatistics>, B>>{}, true);
  auto const parts = gradient(std::type_identity<CausalLM<tiny_shape, Policies<>, B>>{}, true);
  double largest = 0, difference = 0, without = 0;
  for (std::size_t i = 0; i < big.size(); ++i) {
    largest = std::max(largest, std::abs(static_cast<double>(big[i])));
    difference = std::max(difference, std::abs(static_cast<double>(big[i]) - static_cast<double>(whole[i])));
    without = std::max(without, std::abs(static_cast<double>(big[i]) - static_cast<double>(parts[i])));
  }
  BOOST_TEST(difference <= tolerance * largest);
  BOOST_TEST(without > 3 * tolerance * largest);
}

}  // namespace moduleformer::test
