// SPDX-License-Identifier: MIT
#pragma once
// Surgery on any backend: what a model of its own memory and precision must keep.

#include "training/support.hpp"

#include <moduleformer/model/causal_lm.hpp>
#include <moduleformer/modular/extract.hpp>
#include <moduleformer/modular/freeze.hpp>
#include <moduleformer/modular/insert.hpp>
#include <moduleformer/modular/merge.hpp>

#include <boost/test/unit_test.hpp>

#include <cmath>
#include <span>
#include <vector>

namespace moduleformer::test {

template <class B>
class SurgeryChecks {
 public:
  using M = CausalLM<tiny_shape, Policies<>, B>;
  using Grown = Resizable<M>;

  /// Dormant experts change no bit; active ones take part.
  void check_growing() {
    auto const [grown, rows] = insert_experts(model_, {.attention = 2, .feed_forward = 1, .seed = 5});
    BOOST_TEST(same_bits(logits(model_), logits(grown)));
    BOOST_TEST(kept_rows(grown, rows));
    BOOST_TEST(!same_bits(logits(model_), logits(activate(grown).model)));
    auto const mean = insert_experts(model_, {.feed_forward = 1, .initial = NewExperts::mean}).model;
    BOOST_TEST(same_bits(logits(model_), logits(mean)));
  }

  /// Only new rows move, and they do; the guard's divergence falls.
  void check_guarded_training() {
    auto const [grown, rows] = insert_experts(model_, {.attention = 2, .feed_forward = 2, .seed = 5});
    Grown active = activate(grown).model;
    train_only_new(active, rows);
    auto const before = weights(active);
    Trainer trainer{active, AdamW{.learning_rate = 1e-2}, Constant{}, {.guard = {.l2 = 1e-2, .kl = 3}}};
    std::vector<double> divergence;
    for (Index step = 0; step < 6; ++step) {
      Batch const now = batch(step), old = batch(step + 10);
      divergence.push_back(trainer.step(std::span<Batch const>(&now, 1), {}, std::span<Batch const>(&old, 1)).guard);
    }
    BOOST_TEST(kept_rows(active, rows));
    BOOST_TEST(!same_bits(before, weights(active)));
    BOOST_TEST(divergence.front() > 0);
    BOOST_TEST(divergence.back() < divergence.front());
  }

  /// The rows that stay are the old ones; with rows of routers kept, so are the bits of those that chose no removed expert.
  void check_pruning() {
    ExpertMap const kept{{{0, 2}, {1, 2}}, {{0, 1, 3}, {0, 2, 3}}};
    auto const [small, rows] = prune(model_, kept);
    BOOST_TEST(small.parameter_count() < model_.parameter_count());
    BOOST_TEST(kept_rows(small, rows));
    BOOST_TEST(std::isfinite(static_cast<double>(logits(small)[0])));
    ExpertMap const all = ExpertMap::of(model_.config());
    BOOST_TEST(same_bits(logits(model_), logits(prune(model_, all).model)));
    BOOST_TEST(same_bits(logits(model_), logits(prune(model_, all, RemovedExperts::keep_rows).model)));
    auto const with_rows = prune(model_, kept, RemovedExperts::keep_rows).model;
    BOOST_TEST(with_rows.config().feed_forward.removed[0] == 1);
    typename M::SessionType session{SessionOptions{.threads = 1}};
    Observation<typename M::Accumulator> seen;
    (void)with_rows.loss(session, batch(0), {.observation = &seen});
    for (ExpertId const e : seen.routers[1].experts) BOOST_TEST(e < 3);
  }

  void check_taking_out() {
    auto const expert = extract_expert(model_, {.layer = 1}, 2);
    ExpertMap without = ExpertMap::of(model_.config());
    without.feed_forward[1] = {0, 1, 3};
    auto const small = prune(model_, without).model;
    auto const back = insert_expert(small, {.layer = 1}, 2, expert).model;
    BOOST_TEST(same_bits(weights(model_), weights(back)));
    BOOST_TEST(same_bits(logits(model_), logits(back)));
  }

 private:
  static Batch batch(Index step) {
    Batch result;
    tiny_batches(20).read(step, result);
    return result;
  }
  template <class Any>
  static auto logits(Any const& model) {
    typename Any::SessionType session{SessionOptions{.threads = 1}};
    return model.logits(session, batch(0)).values;
  }
  /// Whether the rows that come from the old model have its bits.
  bool kept_rows(Grown const& now, RowMap const& rows) const {
    for (std::size_t i = 0; i < now.table().count(); ++i) {
      auto const before = weights(model_, rows.tensors[i].old), after = weights(now, i);
      Index const size = now.table()[i].row_size();
      for (Index row = 0; row < now.table()[i].rows(); ++row)
        if (Index const from = rows.old_row(i, row); from != fresh_row)
          for (Index x = 0; x < size; ++x)
            if (!(before[static_cast<std::size_t>(from * size + x)] == after[static_cast<std::size_t>(row * size + x)])) return false;
    }
    return true;
  }

  M model_ = M::random(3, {.aux_loss_weight = 0.01, .initializer_range = 0.4});
};

}  // namespace moduleformer::test
