// SPDX-License-Identifier: MIT
// The guard of routers that new experts joined: its value and gradient against differences, what it does in training.

#include "training/support.hpp"

#include <moduleformer/modular/freeze.hpp>
#include <moduleformer/modular/insert.hpp>

#include <boost/test/unit_test.hpp>

#include <cmath>
#include <span>
#include <vector>

namespace mf = moduleformer;
using namespace mf::test;
using mf::Index;

namespace {

using Model = mf::CausalLM<tiny_shape, mf::Policies<>, mf::Cpu<double>>;
using Grown = mf::Resizable<Model>;

mf::Batch batch(Index step) {
  mf::Batch result;
  tiny_batches(40).read(step, result);
  return result;
}

/// Two new experts of each kind, of which only those train.
Grown grown(double range = 0.4) {
  auto const model = Model::random(3, {.initializer_range = range});
  auto const inserted = mf::insert_experts(model, {.attention = 2, .feed_forward = 2, .seed = 9});
  auto active = mf::activate(inserted.model).model;
  mf::train_only_new(active, inserted.rows);
  return active;
}

/// Mass that new experts have, of each router, mean of -ln(1 - m) over tokens.
double divergence(Grown const& model, mf::Batch const& of) {
  mf::Session session{model, {.threads = 1}};
  mf::Observation<double> seen;
  (void)model.loss(session, of, {.observation = &seen});
  double sum = 0;
  for (std::size_t r = 0; r < seen.routers.size(); ++r) {
    auto const& p = seen.routers[r].probabilities;
    std::size_t const old = r % 2 == 0 ? 3 : 4, all = old + 2;
    for (std::size_t t = 0; t < p.size() / all; ++t) {
      double kept = 0;
      for (std::size_t e = 0; e < old; ++e) kept += p[t * all + e];
      sum -= std::log(kept) / static_cast<double>(p.size() / all);
    }
  }
  return sum;
}

}  // namespace

BOOST_AUTO_TEST_CASE(its_value_and_gradient) {
  Grown model = grown();
  mf::Batch const data = batch(0), old = batch(7);
  constexpr double kl = 3, l2 = 0.5;
  auto const gradient_of = [&](mf::RouterGuard guard) {
    auto copy = grown();
    mf::Trainer trainer{copy, mf::AdamW{.learning_rate = 0, .clip_norm = 0}, mf::Constant{}, {.guard = guard}};
    auto const report = trainer.step(std::span(&data, 1), {}, std::span(&old, guard.kl > 0 ? 1u : 0u));
    auto const values = trainer.gradient().values();
    return std::pair{report, std::vector(values.begin(), values.end())};
  };
  auto const [plain, without] = gradient_of({});
  auto const [guarded, with] = gradient_of({.l2 = l2, .kl = kl});
  BOOST_CHECK_CLOSE_FRACTION(guarded.guard, divergence(model, old), 1e-12);
  BOOST_TEST(guarded.guard > 0.1);
  BOOST_CHECK_CLOSE_FRACTION(guarded.total, plain.total + kl * guarded.guard, 1e-12);
  BOOST_TEST(plain.guard == 0);
  // Against differences of kl divergence + l2 / 2 |A'|^2, along every trainable number.
  double largest = 0;
  for (std::size_t i = 0; i < model.table().count(); ++i) {
    mf::Segment const& s = model.table()[i];
    bool const router = s.name.find(".gate.") != std::string::npos;
    auto const all = weights(model, i);
    for (Index x = 0; x < s.trainable_size(); x += router ? 1 : 7) {
      auto const at = static_cast<std::size_t>(s.trainable_begin * s.row_size() + x);
      auto const value = [&](double step) {
        auto moved = all;
        moved[at] += step;
        set_weights(model, i, moved.data());
        return kl * divergence(model, old) + (router ? l2 / 2 * moved[at] * moved[at] : 0);
      };
      double const expected = (value(1e-5) - value(-1e-5)) / 2e-5;
      set_weights(model, i, all.data());
      auto const place = static_cast<std::size_t>(s.gradient_offset + x);
      BOOST_TEST(std::abs(with[place] - without[place] - expected) < 1e-7 * (1 + std::abs(expected)), s.name << ' ' << x);
      largest = std::max(largest, std::abs(expected));
    }
  }
  BOOST_TEST(largest > 0.01);
}

BOOST_AUTO_TEST_CASE(new_experts_leave_old_tokens_alone) {
  mf::Batch const old = batch(30);
  auto const after = [&](mf::RouterGuard guard) {
    Grown model = grown();
    mf::Trainer trainer{model, mf::AdamW{.learning_rate = 1e-2}, mf::Constant{}, {.guard = guard}};
    for (Index step = 0; step < 30; ++step) {
      mf::Batch const data = batch(step);
      trainer.step(std::span(&data, 1), {}, std::span(&old, guard.kl > 0 ? 1u : 0u));
    }
    return divergence(model, old);
  };
  double const none = after({}), l2 = after({.l2 = 1}), kl = after({.kl = 100});
  BOOST_TEST(kl < none / 2);
  BOOST_TEST(l2 < none);
}

BOOST_AUTO_TEST_CASE(what_is_refused) {
  auto model = Model::random(1);
  auto const make = [](auto& of, mf::RouterGuard guard) {
    return complaint([&] { mf::Trainer trainer{of, {}, mf::Constant{}, {.guard = guard}}; });
  };
  BOOST_TEST(make(model, {.l2 = -1}) == "router guard: l2: expected a weight from 0 to below 1e12, found -1");
  BOOST_TEST(make(model, {.kl = NAN}) == "router guard: kl: expected a weight from 0 to below 1e12, found nan");
  BOOST_TEST(make(model, {.l2 = 1}).ends_with(": expected only its last rows, those of new experts, to train"));
  mf::freeze(model, "*.gate.*");
  BOOST_TEST(make(model, {.l2 = 1}) == "router guard: expected rows of new experts that train, found none");
  auto active = grown();
  mf::Trainer guarded{active, {}, mf::Constant{}, {.guard = {.kl = 1}}};
  BOOST_TEST(complaint([&] { guarded.step(batch(0)); }) ==
             "training step 1: expected batches of old data if the guard has a kl, and only then, found 0");
}
