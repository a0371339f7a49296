// SPDX-License-Identifier: MIT
// Growing and pruning: dormant experts change no bit, active ones no ratio of old gates; frozen rows stay; an optimizer follows.

#include "training/support.hpp"

#include <moduleformer/modular/extract.hpp>
#include <moduleformer/modular/freeze.hpp>
#include <moduleformer/modular/insert.hpp>
#include <moduleformer/modular/merge.hpp>

#include <boost/mpl/list.hpp>
#include <boost/test/unit_test.hpp>

#include <cmath>
#include <string>
#include <vector>

namespace mf = moduleformer;
using namespace mf::test;
using mf::Index;

namespace {

template <class... Policies>
using Tiny = mf::CausalLM<tiny_shape, mf::Policies<Policies...>, mf::Cpu<double>>;
using Shared = mf::CausalLM<mf::Shape{.vocab_size = 256, .hidden_size = 12, .layers = 2, .router_hidden_size = 5,
                                      .attention = {.experts = 4, .top_k = 3, .heads = 2, .hidden_size = 8},
                                      .feed_forward = {.experts = 5, .top_k = 3, .hidden_size = 7}},
                            mf::Policies<mf::SharedExperts<1, 2>>, mf::Cpu<double>>;
using Models = boost::mpl::list<Tiny<>, Tiny<mf::LinearRouter>, Tiny<mf::GmmRouter, mf::BiasedTopK>, Shared,
                                mf::CausalLM<mf::dynamic_shape, mf::dynamic_policies, mf::Cpu<float>>>;

constexpr mf::Settings settings{.aux_loss_weight = 0.01, .initializer_range = 0.4};

template <class M>
M made() {
  if constexpr (M::static_shape == mf::dynamic_shape) return M::random(3, mf::Config::of(tiny_shape), settings);
  else return M::random(3, settings);
}

mf::Batch batch(Index step = 0) {
  mf::Batch result;
  tiny_batches(100).read(step, result);
  return result;
}

template <class M>
auto logits(M const& model, mf::Batch const& of) {
  mf::Session session{model, {.threads = 2}};
  return model.logits(session, of).values;
}

template <class M>
std::vector<mf::RouterSummary> use_of(M const& model) {
  mf::Session session{model, {.threads = 2}};
  mf::Observation<typename M::Accumulator> seen;
  (void)model.loss(session, batch(), {.observation = &seen});
  mf::RoutingSummary summary;
  summary.add(0, seen);
  return summary.routers();
}

/// Whether the rows that tensors of the new model have of the old one are the old ones' bits. A selection's state, which
/// follows the load, is left out.
template <class M, class N>
bool kept_rows_are_the_same(M const& old, N const& now, mf::RowMap const& rows) {
  for (std::size_t i = 0; i < now.table().count(); ++i) {
    if (now.table()[i].initial == mf::Initial::state) continue;
    auto const before = weights(old, rows.tensors[i].old), after = weights(now, i);
    auto const size = static_cast<std::size_t>(now.table()[i].row_size());
    for (Index row = 0; row < now.table()[i].rows(); ++row) {
      Index const from = rows.old_row(i, row);
      if (from == mf::fresh_row) continue;
      auto const part = [&](auto const& all, Index r) {
        auto const begin = all.begin() + r * static_cast<Index>(size);
        return std::vector(begin, begin + static_cast<Index>(size));
      };
      if (!same_bits(part(before, from), part(after, row))) return false;
    }
  }
  return true;
}

}  // namespace

BOOST_AUTO_TEST_CASE_TEMPLATE(dormant_experts_change_no_bit, M, Models) {
  M const model = made<M>();
  auto const before = logits(model, batch());
  auto const [grown, rows] = mf::insert_experts(model, {.attention = 2, .feed_forward = 3, .seed = 5});
  BOOST_TEST(grown.config().attention.experts[1] == model.config().attention.experts[1] + 2);
  BOOST_TEST(grown.config().feed_forward.dormant[0] == 3);
  BOOST_TEST(grown.parameter_count() > model.parameter_count());
  BOOST_TEST(grown.table().training_size() == model.table().training_size());
  BOOST_TEST(same_bits(before, logits(grown, batch())));
  BOOST_TEST(kept_rows_are_the_same(model, grown, rows));
  // Twice: dormant ones lie behind each other.
  auto const [more, more_rows] = mf::insert_experts(grown, {.feed_forward = 1, .layers = {1}});
  BOOST_TEST(more.config().feed_forward.dormant[1] == 4);
  BOOST_TEST(more.config().feed_forward.dormant[0] == 3);
  BOOST_TEST(same_bits(before, logits(more, batch())));
}

BOOST_AUTO_TEST_CASE(active_experts_change_no_ratio_of_old_gates) {
  auto const model = made<Tiny<>>();
  auto const grown = mf::insert_experts(model, {.attention = 2, .feed_forward = 2}).model;
  auto const active = mf::activate(grown).model;
  BOOST_TEST(active.config().attention.dormant.largest() == 0);
  BOOST_TEST(!same_bits(logits(model, batch()), logits(active, batch())));
  // The first router reads the same tokens in both.
  auto const probabilities = [](auto const& of) {
    mf::Session session{of, {.threads = 1}};
    mf::Observation<double> seen;
    (void)of.loss(session, batch(), {.observation = &seen});
    return seen.routers[0].probabilities;
  };
  auto const old = probabilities(model), now = probabilities(active);
  BOOST_TEST_REQUIRE(old.size() / 3 == now.size() / 5);
  for (std::size_t t = 0; t < old.size() / 3; ++t) {
    double const factor = now[5 * t] / old[3 * t];
    BOOST_TEST(factor < 1);
    for (std::size_t e = 1; e < 3; ++e) BOOST_CHECK_CLOSE_FRACTION(now[5 * t + e] / old[3 * t + e], factor, 1e-12);
  }
}

BOOST_AUTO_TEST_CASE_TEMPLATE(only_new_experts_train, M, Models) {
  M const model = made<M>();
  auto const [grown, rows] = mf::insert_experts(model, {.attention = 2, .feed_forward = 1});
  auto active = mf::activate(grown).model;
  mf::train_only_new(active, rows);
  auto const before = weights(active);
  mf::Trainer trainer{active, mf::AdamW{.learning_rate = 1e-2}};
  Index trainable = 0;
  for (std::size_t i = 0; i < active.table().count(); ++i) trainable += active.table()[i].trainable_size();
  BOOST_TEST(trainable < active.parameter_count() / 2);
  BOOST_TEST(trainer.moments().size() < trainable + 16 * static_cast<Index>(active.table().count()));
  for (Index step = 0; step < 100; ++step) trainer.step(batch(step));
  BOOST_TEST(kept_rows_are_the_same(model, active, rows));
  BOOST_TEST(!same_bits(before, weights(active)));
  for (std::size_t i = 0; i < active.table().count(); ++i) {
    auto const [begin, end] = rows.fresh(active.table()[i], i);
    if (begin == end || active.table()[i].initial == mf::Initial::state) continue;
    BOOST_TEST(active.table()[i].trainable_begin == begin);
    BOOST_TEST(!same_bits(weights(grown, i), weights(active, i)), active.table()[i].name);
  }
}

BOOST_AUTO_TEST_CASE(what_new_experts_start_as) {
  auto const model = made<Tiny<>>();
  std::vector<std::vector<double>> const load{{1, 5, 3}, {0, 1, 9, 2}, {4, 4, 4}, {1, 2, 3, 4}};
  auto const copied = mf::insert_experts(
      model, {.feed_forward = 2, .initial = mf::NewExperts::copies_of_most_used, .load = load}).model;
  auto const mean = mf::insert_experts(model, {.attention = 1, .initial = mf::NewExperts::mean}).model;
  auto const row = [](auto const& of, std::string const& name, Index r) {
    std::size_t const i = of.table().find(name);
    auto const all = weights(of, i);
    Index const size = of.table()[i].row_size();
    return std::vector(all.begin() + r * size, all.begin() + (r + 1) * size);
  };
  std::string const in = "transformer.h.0.mlpf.experts.weight", out = "transformer.h.1.mlpf.output_experts.weight";
  BOOST_TEST(same_bits(row(copied, in, 4), row(model, in, 2)));
  BOOST_TEST(same_bits(row(copied, in, 5), row(model, in, 3)));
  BOOST_TEST(same_bits(row(copied, out, 4), row(model, out, 3)));
  std::string const router = "transformer.h.0.mlpf.gate.w_gate.3.weight";
  BOOST_TEST(!same_bits(row(copied, router, 4), row(model, router, 2)));
  BOOST_TEST(!same_bits(row(copied, router, 4), row(copied, router, 5)));
  // Neither dormant experts nor shared ones enter a mean.
  auto const shared = Shared::random(3, settings);
  auto const twice = mf::insert_experts(mf::insert_experts(shared, {.feed_forward = 2, .seed = 9}).model,
                                        {.feed_forward = 1, .initial = mf::NewExperts::mean})
                         .model;
  auto const c2 = row(shared, in, 2), c3 = row(shared, in, 3), c4 = row(shared, in, 4), of_three = row(twice, in, 7);
  for (std::size_t i = 0; i < c2.size(); ++i) BOOST_TEST(std::abs(of_three[i] - (c2[i] + c3[i] + c4[i]) / 3) < 1e-15);
  std::string const attention = "transformer.h.1.attn.q_proj.output_experts.weight";
  auto const a = row(model, attention, 0), b = row(model, attention, 1), c = row(model, attention, 2),
             of_mean = row(mean, attention, 3);
  for (std::size_t i = 0; i < a.size(); ++i) BOOST_TEST(std::abs(of_mean[i] - (a[i] + b[i] + c[i]) / 3) < 1e-15);
}

BOOST_AUTO_TEST_CASE(an_optimizer_follows) {
  auto model = Tiny<>::random(3, random_settings), same = Tiny<>::random(3, random_settings);
  mf::Trainer trainer{model, mf::AdamW{.learning_rate = 1e-2, .clip_norm = 0.1}}, uninterrupted{same, trainer.optimizer()};
  for (Index step = 0; step < 3; ++step) trainer.step(batch(step));
  auto [grown, rows] = mf::insert_experts(model, {.attention = 1, .feed_forward = 2});
  mf::Trainer follows{grown, trainer, rows};
  for (Index step = 3; step < 6; ++step) follows.step(batch(step));
  for (Index step = 0; step < 6; ++step) uninterrupted.step(batch(step));
  BOOST_TEST(follows.steps() == 6);
  BOOST_TEST(kept_rows_are_the_same(same, grown, rows));
  // Pruned: the moments of the experts that stay are theirs.
  auto [small, small_rows] = mf::prune(same, {{{0, 2}, {1, 2}}, {{1, 3}, {0, 1, 2}}});
  mf::Trainer pruned{small, uninterrupted, small_rows};
  std::size_t const i = small.table().find("transformer.h.0.mlpf.experts.weight");
  Index const size = small.table()[i].row_size();
  auto const moments = pruned.moments().first(small.table()[i]), old = uninterrupted.moments().first(same.table()[i]);
  for (Index x = 0; x < size; ++x) {
    BOOST_TEST(moments[x] == old[size + x]);
    BOOST_TEST(moments[size + x] == old[3 * size + x]);
  }
  auto const second = pruned.moments().second(small.table()[i]),
             old_second = uninterrupted.moments().second(same.table()[i]);
  for (Index x = 0; x < size; ++x) BOOST_TEST(second[x] == old_second[size + x]);
  pruned.step(batch(6));
  BOOST_TEST(pruned.steps() == 7);
}

BOOST_AUTO_TEST_CASE_TEMPLATE(a_pruned_model_is_what_is_left, M, Models) {
  M const model = made<M>();
  auto const use = use_of(model);
  // All stay: the same model. All but one of a layer: its rows.
  auto const whole = mf::prune(model, mf::keep_fraction(model, use, 1));
  BOOST_TEST(same_bits(logits(model, batch()), logits(whole.model, batch())));
  auto const [small, rows] = mf::prune(model, mf::keep_fraction(model, use, 0.5, mf::ExpertUse::probability));
  BOOST_TEST(small.parameter_count() < model.parameter_count());
  BOOST_TEST(kept_rows_are_the_same(model, small, rows));
  BOOST_TEST(std::isfinite(static_cast<double>(logits(small, batch())[0])));
  // A pruned model may be grown again.
  auto const again = mf::activate(mf::insert_experts(small, {.attention = 1}).model).model;
  BOOST_TEST(again.config().attention.experts[0] == small.config().attention.experts[0] + 1);
}

BOOST_AUTO_TEST_CASE_TEMPLATE(where_rows_stay_tokens_keep_their_bits, M, Models) {
  M const model = made<M>();
  if constexpr (std::same_as<typename M::PoliciesType::Selection, mf::BiasedTopK>) {
    BOOST_TEST(complaint([&] {
                 (void)mf::prune(model, mf::keep_fraction(model, use_of(model), 0.5), mf::RemovedExperts::keep_rows);
               }) == "selection: biased_top_k does not know rows of removed experts, which stay in this model's routers");
    return;
  }
  // One token: all experts that it did not choose may go.
  mf::Batch one{.rows = 1, .tokens = 1, .ids = {97}, .targets = {98}};
  mf::Session session{model, {.threads = 1}};
  mf::Observation<typename M::Accumulator> seen;
  (void)model.loss(session, one, {.observation = &seen});
  mf::RoutingSummary summary;
  summary.add(0, seen);
  auto const kept = mf::keep_used(model, summary.routers(), 1);
  auto const [small, rows] = mf::prune(model, kept, mf::RemovedExperts::keep_rows);
  BOOST_TEST(small.config().attention.experts[0] == small.config().attention.top_k);
  BOOST_TEST(small.config().attention.removed[0] ==
             model.config().attention.experts[0] - small.config().attention.experts[0]);
  BOOST_TEST(small.parameter_count() < model.parameter_count());
  BOOST_TEST(kept_rows_are_the_same(model, small, rows));
  BOOST_TEST(same_bits(logits(model, one), logits(small, one)));
  // What it observes is of the experts that are left, and can be replayed.
  mf::Session other{small, {.threads = 1}};
  mf::Observation<typename M::Accumulator> now;
  (void)small.loss(other, one, {.observation = &now});
  for (std::size_t r = 0; r < seen.routers.size(); ++r) {
    auto const& list = (r % 2 == 0 ? kept.attention : kept.feed_forward)[r / 2];
    auto const &before = seen.routers[r], &after = now.routers[r];
    BOOST_TEST(after.expert_count == static_cast<Index>(list.size()));
    BOOST_TEST(same_bits(before.gates, after.gates));
    for (std::size_t s = 0; s < after.experts.size(); ++s)
      BOOST_TEST(list[static_cast<std::size_t>(after.experts[s])] == before.experts[s]);
    for (std::size_t e = 0; e < list.size(); ++e) {
      BOOST_TEST(after.probabilities[e] == before.probabilities[static_cast<std::size_t>(list[e])]);
      BOOST_TEST(after.load[e] == before.load[static_cast<std::size_t>(list[e])]);
    }
  }
  auto const record = mf::record_routes(small, other, std::vector{one});
  BOOST_TEST(same_bits(small.logits(other, one).values, small.logits(other, one, {.replay = record.replay(0)}).values));
  // Grown again it keeps the rows; pruned to what is left it drops them.
  auto const grown = mf::insert_experts(small, {.attention = 1, .feed_forward = 1}).model;
  BOOST_TEST(same_bits(logits(model, one), logits(grown, one)));
  auto const active = mf::activate(grown).model;
  BOOST_TEST(active.config().feed_forward.removed[1] == small.config().feed_forward.removed[1]);
  BOOST_TEST(!same_bits(logits(model, one), logits(active, one)));
  auto const plain = mf::prune(small, mf::ExpertMap::of(small.config())).model;
  BOOST_TEST(plain.config().attention.removed.largest() == 0);
  BOOST_TEST(same_bits(logits(plain, one), logits(mf::prune(model, kept).model, one)));
  // It trains: gradients go through the whole softmax.
  auto trained = mf::prune(model, kept, mf::RemovedExperts::keep_rows).model;
  mf::Trainer trainer{trained, mf::AdamW{.learning_rate = 1e-2}};
  double const first = trainer.step(batch()).task;
  for (int i = 0; i < 10; ++i) trainer.step(batch());
  BOOST_TEST(trainer.step(batch()).task < first);
}

/// Sequences of one batch: those that chose no removed expert keep their bits, others do not.
BOOST_AUTO_TEST_CASE_TEMPLATE(where_rows_stay_sequences_of_a_batch_keep_their_bits, M, Models) {
  if constexpr (!std::same_as<typename M::PoliciesType::Selection, mf::BiasedTopK>) {
    M const model = made<M>();
    mf::Session session{model, {.threads = 2}};
    // The first and the last are alike, so what the first chose stays for both.
    mf::Batch three{.rows = 3, .tokens = 4, .ids = {97, 97, 97, 97, 98, 32, 200, 7, 97, 97, 97, 97}};
    mf::Observation<typename M::Accumulator> seen;
    auto const before = model.logits(session, three, {.observation = &seen}).values;
    mf::ExpertMap kept;
    for (std::size_t r = 0; r < seen.routers.size(); ++r) {
      auto const& router = seen.routers[r];
      std::vector<bool> chosen(static_cast<std::size_t>(router.expert_count));
      for (Index i = 0; i < 4 * router.top_k; ++i)
        chosen[static_cast<std::size_t>(router.experts[static_cast<std::size_t>(i)])] = true;
      auto& list = (r % 2 == 0 ? kept.attention : kept.feed_forward).emplace_back();
      for (Index e = 0; e < router.expert_count; ++e)
        if (chosen[static_cast<std::size_t>(e)]) list.push_back(e);
    }
    auto const small = mf::prune(model, kept, mf::RemovedExperts::keep_rows).model;
    BOOST_TEST_REQUIRE(small.parameter_count() < model.parameter_count());
    auto const after = logits(small, three);
    auto const row = [&](auto const& values, std::ptrdiff_t r) {
      auto const size = static_cast<std::ptrdiff_t>(values.size() / 3);
      return std::vector(values.begin() + r * size, values.begin() + (r + 1) * size);
    };
    BOOST_TEST(same_bits(row(before, 0), row(after, 0)));
    BOOST_TEST(same_bits(row(before, 2), row(after, 2)));
    BOOST_TEST(!same_bits(row(before, 1), row(after, 1)));
  }
}

BOOST_AUTO_TEST_CASE(tokens_that_chose_what_stays_have_the_old_experts) {
  // Without the experts that no token chose the choice is the old one, and so are ratios of gates.
  auto const model = made<Tiny<>>();
  mf::RouterSummary summary;
  auto use = use_of(model);
  auto const record = [](auto const& of) {
    mf::Session session{of, {.threads = 1}};
    mf::Observation<double> seen;
    (void)of.loss(session, batch(), {.observation = &seen});
    return seen.routers[0];
  };
  auto const old = record(model);
  for (double& load : use[0].load) load = 0;
  use[0].load[0] = use[0].load[2] = 1;
  auto const kept = mf::keep_used(model, use, 1e-9);
  BOOST_TEST((kept.attention[0] == std::vector<Index>{0, 2}));
  auto const now = record(mf::prune(model, kept).model);
  for (std::size_t t = 0; t < old.experts.size() / 2; ++t) {
    if (old.experts[2 * t] == 1 || old.experts[2 * t + 1] == 1) continue;
    for (std::size_t s = 0; s < 2; ++s) BOOST_TEST(now.experts[2 * t + s] == (old.experts[2 * t + s] == 0 ? 0 : 1));
    BOOST_CHECK_CLOSE_FRACTION(now.gates[2 * t] / now.gates[2 * t + 1], old.gates[2 * t] / old.gates[2 * t + 1], 1e-12);
  }
}

BOOST_AUTO_TEST_CASE(which_experts_stay) {
  auto const model = Shared::random(1, settings);
  auto const router = [](std::vector<double> load, std::vector<double> probability) {
    mf::RouterSummary r;
    r.tokens = 10;
    r.load = std::move(load);
    r.probability = std::move(probability);
    return r;
  };
  // One of four, two of five are shared; two, one more are needed.
  std::vector<mf::RouterSummary> const use{router({10, 9, 1, 10}, {0, 1, 8, 1}), router({10, 10, 2, 3, 5}, {0, 0, 5, 3, 2}),
                                           router({10, 0, 10, 10}, {0, 1, 5, 4}), router({10, 10, 0, 0, 10}, {0, 0, 1, 4, 5})};
  using Lists = std::vector<std::vector<Index>>;
  auto const same = [](mf::ExpertMap const& map, Lists const& attention, Lists const& feed_forward) {
    return map.attention == attention && map.feed_forward == feed_forward;
  };
  BOOST_TEST(same(mf::keep_used(model, use, 0.3), {{0, 1, 3}, {0, 2, 3}}, {{0, 1, 3, 4}, {0, 1, 4}}));
  BOOST_TEST(same(mf::keep_used(model, use, 0), {{0, 1, 2, 3}, {0, 1, 2, 3}}, {{0, 1, 2, 3, 4}, {0, 1, 2, 3, 4}}));
  BOOST_TEST(same(mf::keep_used(model, use, 2), {{0, 1, 3}, {0, 2, 3}}, {{0, 1, 4}, {0, 1, 4}}));
  BOOST_TEST(same(mf::keep_fraction(model, use, 0.6), {{0, 1, 3}, {0, 2, 3}}, {{0, 1, 3, 4}, {0, 1, 2, 4}}));
  BOOST_TEST(same(mf::keep_fraction(model, use, 0.6, mf::ExpertUse::probability), {{0, 1, 2}, {0, 2, 3}},
                  {{0, 1, 2, 3}, {0, 1, 3, 4}}));
  // Relative to each router's mean: 1.35 0.15 1.5; 0.6 0.9 1.5; 0 1.5 1.5; 0 0 3. The first seven of twelve reach 0.9.
  BOOST_TEST(same(mf::keep_fraction_of_all(model, use, 7 / 12.0), {{0, 1, 3}, {0, 2, 3}}, {{0, 1, 3, 4}, {0, 1, 4}}));
  // Of the five that no token chose only as many stay as it takes: those of the first layers.
  BOOST_TEST(same(mf::keep_fraction_of_all(model, use, 10 / 12.0), {{0, 1, 2, 3}, {0, 1, 2, 3}}, {{0, 1, 2, 3, 4}, {0, 1, 4}}));
  BOOST_TEST(same(mf::keep_fraction_of_all(model, use, 0), {{0, 1, 3}, {0, 2, 3}}, {{0, 1, 4}, {0, 1, 4}}));
}

BOOST_AUTO_TEST_CASE(patterns) {
  auto model = made<Tiny<>>();
  Index const all = model.table().training_size();
  mf::freeze(model, "*.gate.*");
  BOOST_TEST(model.table().training_size() < all);
  mf::freeze_all(model);
  BOOST_TEST(model.table().training_size() == 0);
  BOOST_TEST(complaint([&] { mf::Trainer trainer{model}; }) == "Trainer: every parameter of the model is frozen");
  mf::train(model, "transformer.h.?.mlpf.experts.weight");
  BOOST_TEST(model.table().training_size() == 2 * (4 * 12 * 7 / 16 * 16));
  mf::freeze_all(model);
  mf::train_experts(model, {.layer = 1, .attention = true}, 1, 3);
  for (mf::Segment const& s : model.table().segments()) {
    bool const of_experts = s.name.starts_with("transformer.h.1.attn.q_proj.") && s.name.find("w_gate.0") == std::string::npos;
    BOOST_TEST(s.trainable_begin == (of_experts ? 1 : 0));
    BOOST_TEST(s.trainable_end == (of_experts ? 3 : 0));
  }
  BOOST_TEST(complaint([&] { mf::freeze(model, "*.mlp.*"); }) ==
             "freeze: no tensor is called *.mlp.*; the first is transformer.wte.weight");
  BOOST_TEST(complaint([&] { mf::train(model, "wte"); }).starts_with("freeze: no tensor is called wte"));
  // Refused before anything changes.
  auto const trainable = [&] {
    std::vector<std::pair<Index, Index>> all;
    for (mf::Segment const& s : model.table().segments()) all.emplace_back(s.trainable_begin, s.trainable_end);
    return all;
  };
  auto const chosen = trainable();
  using Experts = std::pair<Index, Index>;
  for (Experts const& range : {Experts{-5, 2}, {2, 1}, {0, 5}})
    BOOST_TEST(complaint([&] {
                 mf::train_experts(model, {.layer = 0}, range.first, range.second);
               }).starts_with("train experts: layer 0, feed-forward: expected active experts within 0 to 4, found "));
  BOOST_TEST(complaint([&] { mf::train_experts(model, {.layer = 2}, 0, 1); }) ==
             "train experts: expected a layer below 2, found 2");
  BOOST_TEST((trainable() == chosen));
  auto with_rows =
      mf::prune(model, {{{0, 2}, {0, 1, 2}}, {{0, 1, 2, 3}, {0, 1, 2, 3}}}, mf::RemovedExperts::keep_rows).model;
  BOOST_TEST(
      complaint([&] { mf::train_experts(with_rows, {.layer = 0, .attention = true}, 0, 1); }) ==
      "train experts: layer 0: expected a router without rows of removed experts, found 1; prune them away first");
  mf::train_experts(with_rows, {.layer = 0}, 0, 1);
}

BOOST_AUTO_TEST_CASE(merged_experts_are_means) {
  auto model = made<Tiny<>>();
  std::size_t const in = model.table().find("transformer.h.0.mlpf.experts.weight"),
                    out = model.table().find("transformer.h.0.mlpf.output_experts.weight"),
                    router = model.table().find("transformer.h.0.mlpf.gate.w_gate.3.weight");
  // Expert 3 is nearly expert 1, times 2.
  for (std::size_t const i : {in, out}) {
    auto values = weights(model, i);
    Index const size = model.table()[i].row_size();
    for (Index x = 0; x < size; ++x) values[static_cast<std::size_t>(3 * size + x)] = 2 * values[static_cast<std::size_t>(size + x)] + 1e-3;
    set_weights(model, i, values.data());
  }
  auto use = use_of(model);
  use[1].load = {10, 6, 0, 2};
  use[1].tokens = 10;
  auto const kept = mf::ExpertMap{{{0, 1, 2}, {0, 1, 2}}, {{0, 1, 2}, {0, 1, 2, 3}}};
  auto const merged = mf::merge(model, kept, use).model, pruned = mf::prune(model, kept).model;
  for (std::size_t const i : {in, out, router}) {
    auto const old = weights(model, i), now = weights(merged, i), plain = weights(pruned, i);
    Index const size = model.table()[i].row_size();
    for (Index x = 0; x < 3 * size; ++x) {
      auto const at = static_cast<std::size_t>(x);
      if (x / size != 1) BOOST_TEST(now[at] == plain[at]);
      else BOOST_TEST(std::abs(now[at] - (0.75 * old[at] + 0.25 * old[static_cast<std::size_t>(3 * size + x % size)])) < 1e-15);
    }
  }
  for (std::size_t i = 0; i < merged.table().count(); ++i)
    if (!merged.table()[i].name.starts_with("transformer.h.0.mlpf.")) BOOST_TEST(same_bits(weights(merged, i), weights(pruned, i)));
  BOOST_TEST(same_bits(weights(mf::merge(model, mf::ExpertMap::of(model.config()), use).model), weights(model)));
}

BOOST_AUTO_TEST_CASE_TEMPLATE(an_expert_taken_out_comes_back, M, Models) {
  M const model = made<M>();
  mf::SharedCounts const shared = model.transformer().shared_experts();
  for (bool const attention : {true, false}) {
    mf::ExpertLayer const where{.layer = 1, .attention = attention};
    Index const index = (attention ? shared.attention : shared.feed_forward) + 1;
    auto const expert = mf::extract_expert(model, where, index);
    auto map = mf::ExpertMap::of(model.config());
    auto& list = (attention ? map.attention : map.feed_forward)[1];
    list.erase(list.begin() + index);
    if (static_cast<Index>(list.size()) < (attention ? model.config().attention.top_k : model.config().feed_forward.top_k)) continue;
    auto const without = mf::prune(model, map).model;
    auto const [back, rows] = mf::insert_expert(without, where, index, expert);
    for (std::size_t i = 0; i < back.table().count(); ++i)
      if (back.table()[i].initial != mf::Initial::state) BOOST_TEST(same_bits(weights(back, i), weights(model, i)));
    BOOST_TEST(same_bits(logits(back, batch()), logits(model, batch())));
    BOOST_TEST(!same_bits(logits(without, batch()), logits(model, batch())));
    BOOST_TEST(complaint([&] { (void)mf::insert_expert(without, {.layer = 1, .attention = !attention}, index, expert); })
                   .starts_with("insert expert: expected one of "));
    auto other = expert;
    other.sizes += " 1";
    BOOST_TEST(complaint([&] { (void)mf::insert_expert(without, where, index, other); }).starts_with("insert expert: expected "));
    BOOST_TEST(complaint([&] { (void)mf::extract_expert(model, where, 9); }).starts_with("expert: layer 1, "));
    BOOST_TEST(complaint([&] { (void)mf::extract_expert(model, {.layer = 2, .attention = attention}, 0); }) ==
               "expert: expected a layer below 2, found 2");
  }
}

BOOST_AUTO_TEST_CASE(what_is_refused) {
  auto model = made<Tiny<>>();
  auto const use = use_of(model);
  BOOST_TEST(complaint([&] { (void)mf::insert_experts(model, {}); }) ==
             "insert experts: expected a number of new experts, found 0 for attention and 0 for feed-forward");
  BOOST_TEST(complaint([&] { (void)mf::insert_experts(model, {.attention = 1, .layers = {2}}); }) ==
             "insert experts: expected layers below 2, found 2");
  BOOST_TEST(complaint([&] {
               (void)mf::insert_experts(model, {.attention = 1, .initial = mf::NewExperts::copies_of_most_used});
             }) == "insert experts: expected the load of 4 routers to choose the most used by, found 0");
  BOOST_TEST(complaint([&] { (void)mf::activate(model); }) ==
             "activate: the model has no dormant experts, which insert_experts makes");
  auto inserted = mf::insert_experts(model, {.feed_forward = 2});
  auto& grown = inserted.model;
  auto const& rows = inserted.rows;
  BOOST_TEST(complaint([&] { mf::train_only_new(grown, rows); }) ==
             "transformer.h.0.mlpf.experts.weight: rows from 4 on are dormant, activate them before training them");
  BOOST_TEST(complaint([&] { mf::train_only_new(grown, mf::activate(grown).rows); }) ==
             "train only new: the model has no new experts");
  BOOST_TEST(complaint([&] { (void)mf::prune(model, {{{0}, {0, 1}}, {{0, 1}, {0, 1}}}); }) ==
             "prune: layer 0, attention: expected at least 2 experts to stay, as many as a token needs, found 1");
  BOOST_TEST(complaint([&] { (void)mf::prune(model, {{{0, 3}, {0, 1}}, {{0, 1}, {0, 1}}}); }) ==
             "prune: layer 0, attention: expected active experts, found 3");
  BOOST_TEST(complaint([&] { (void)mf::prune(model, {{{0, 0}, {0, 1}}, {{0, 1}, {0, 1}}}); }) ==
             "surgery: layer 0, attention: expert 0 is chosen twice");
  BOOST_TEST(complaint([&] { (void)mf::prune(model, {{{0, 1}}, {{0, 1}, {0, 1}}}); }) ==
             "surgery: attention: expected experts of 2 layers, found 1");
  BOOST_TEST(complaint([&] { (void)mf::keep_fraction(model, use, 1.5); }) ==
             "prune: expected a fraction to keep from 0 to 1, found 1.5");
  BOOST_TEST(complaint([&] { (void)mf::keep_fraction(grown, {use[0]}, 0.5); }) ==
             "prune: expected a summary of 4 routers, found 1");
  auto const shared = Shared::random(1, settings);
  BOOST_TEST(complaint([&] { (void)mf::prune(shared, {{{1, 2, 3}, {0, 1, 2}}, {{0, 1, 2}, {0, 1, 2}}}); }) ==
             "surgery: layer 0, attention: expected the shared expert 0 to stay");
  auto empty = use;
  empty[2].tokens = 0;
  BOOST_TEST(complaint([&] { (void)mf::keep_fraction(model, empty, 0.5); }).ends_with(": the summary is of no tokens"));
  auto const rows_stay =
      mf::prune(model, {{{0, 2}, {0, 1, 2}}, {{0, 1, 2, 3}, {0, 1, 2, 3}}}, mf::RemovedExperts::keep_rows).model;
  auto const expert = mf::extract_expert(model, {.layer = 1}, 2);
  std::string const rows_message = "without rows of removed experts, prune them away first";
  for (auto const& message :
       {complaint([&] { (void)mf::extract_expert(rows_stay, {.layer = 1}, 2); }),
        complaint([&] { (void)mf::insert_expert(rows_stay, {.layer = 1}, 2, expert); }),
        complaint([&] { (void)mf::merge(rows_stay, mf::ExpertMap::of(rows_stay.config()), use_of(rows_stay)); })})
    BOOST_TEST(message.ends_with(rows_message), message);
  BOOST_TEST(complaint([&] { (void)mf::insert_expert(grown, {.layer = 1}, 2, expert); }) ==
             "insert expert: expected no dormant experts in layer 1, found 2");
  BOOST_TEST(
      complaint([&] {
        (void)mf::prune(model, {{{2, 0}, {0, 1, 2}}, {{0, 1, 2, 3}, {0, 1, 2, 3}}}, mf::RemovedExperts::keep_rows);
      }) ==
      "surgery: layer 0, attention: expected experts in their order, new ones last, where rows of removed ones stay");
}
