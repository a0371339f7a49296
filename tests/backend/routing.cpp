// SPDX-License-Identifier: MIT
// Softmax, sums over tokens and their gradient: golden values, numeric differences, thread counts.

#include "routing.hpp"

#include "../support/golden.hpp"

#include <boost/test/unit_test.hpp>

#include <numeric>
#include <tuple>

namespace mf = moduleformer;
using mf::test::Array;
using mf::test::relative_error;

namespace {

using Scalars = std::tuple<float, double>;

/// A function of everything that routing_backward differentiates, with fixed random weights.
struct Objective {
  Array<double, 2> gate_weight;
  Array<double, 1> probability_weight, gate_sum_weight;
  double entropy_weight = 0.7, lse_weight = 0.03;

  Objective(mf::Index tokens, mf::Index experts, mf::Index top)
      : gate_weight(tokens, top), probability_weight(experts), gate_sum_weight(experts) {
    mf::test::fill_normal(gate_weight.values(), 11);
    mf::test::fill_normal(probability_weight.values(), 12);
    mf::test::fill_normal(gate_sum_weight.values(), 13);
  }
  double value(mf::test::Routed<double> const& r) const {
    auto const dot = [](auto const& a, auto const& b) {
      return std::inner_product(a.values().begin(), a.values().end(), b.values().begin(), 0.0);
    };
    return dot(gate_weight, r.gates) + dot(probability_weight, r.probability) + dot(gate_sum_weight, r.gate) +
           entropy_weight * r.negative_entropy + lse_weight * r.squared_lse;
  }
  mf::RoutingGradient gradient() {
    return {probability_weight.view(), gate_sum_weight.view(), &entropy_weight, &lse_weight};
  }
};

struct Size {
  mf::Index tokens, experts, top;
};
constexpr Size sizes[] = {{1, 1, 1}, {1, 7, 3}, {63, 5, 5}, {64, 8, 2}, {65, 13, 4}, {3, 256, 256}, {131, 2, 1}};

}  // namespace

BOOST_AUTO_TEST_SUITE(backend_routing)

BOOST_AUTO_TEST_CASE_TEMPLATE(golden_choice_and_entropies, S, Scalars) {
  mf::test::GoldenFile const file{"ops/routing_losses.safetensors"};
  auto const stored = file.tensor<S>("logits");
  mf::Index const tokens = stored.shape[0], experts = stored.shape[1], top = std::stoi(file.metadata("top_k"));
  Array<S, 2> logits(tokens, experts);
  logits.values() = stored.values;
  mf::Cpu<S> backend{2};
  auto r = mf::test::route(backend, logits, top);
  double const tolerance = sizeof(S) == 4 ? 2e-5 : 1e-9;

  auto const ids = file.tensor<mf::ExpertId>("top_k_indices").values;
  BOOST_TEST(r.ids.values() == ids, boost::test_tools::per_element());
  BOOST_TEST(relative_error(r.gates.values(), file.tensor<double>("top_k_gates").values) < tolerance);
  double const n = static_cast<double>(tokens);
  auto const conditional = file.tensor<double>("conditional_entropy").values;
  BOOST_TEST(relative_error(std::vector{-r.negative_entropy / n}, conditional) < tolerance);
  double marginal = 0;
  for (double const sum : r.probability.values()) marginal -= sum / n * std::log(sum / n + 1e-8);
  BOOST_TEST(relative_error(std::vector{marginal}, file.tensor<double>("marginal_entropy").values) < tolerance);
  BOOST_TEST(relative_error(std::vector{r.squared_lse / n}, file.tensor<double>("router_z_loss").values) < tolerance);

  // The z-loss is a mean of squared_lse, the conditional entropy one of the negative entropy.
  Array<S, 2> gradient(tokens, experts);
  double weight = 1 / n;
  mf::routing_backward(backend, logits.view(), r.probs.view(), r.lse.view(), r.ids.view(), {},
                       {{}, {}, nullptr, &weight}, gradient.view());
  BOOST_TEST(relative_error(gradient.values(), file.tensor<double>("grad_router_z_loss").values) < 10 * tolerance);
  weight = -1 / n;
  mf::routing_backward(backend, logits.view(), r.probs.view(), r.lse.view(), r.ids.view(), {},
                       {{}, {}, &weight, nullptr}, gradient.view());
  auto const expected = file.tensor<double>("grad_conditional_entropy").values;
  BOOST_TEST(relative_error(gradient.values(), expected) < 10 * tolerance);
}

BOOST_AUTO_TEST_CASE(sums_are_those_of_a_plain_loop) {
  for (auto const& [tokens, experts, top] : sizes) {
    Array<double, 2> logits(tokens, experts);
    mf::test::fill_normal(logits.values(), 3, 3);
    mf::Cpu<double> backend{2};
    auto r = mf::test::route(backend, logits, top);
    std::vector<double> probability(static_cast<std::size_t>(experts)), count = probability, gate = probability;
    double entropy = 0, squares = 0;
    for (mf::Index t = 0; t < tokens; ++t) {
      double sum = 0;
      for (mf::Index e = 0; e < experts; ++e) sum += std::exp(logits(t, e));
      squares += std::log(sum) * std::log(sum);
      for (mf::Index e = 0; e < experts; ++e) {
        double const p = std::exp(logits(t, e)) / sum;
        BOOST_TEST(std::abs(r.probs(t, e) - p) < 1e-14);
        probability[static_cast<std::size_t>(e)] += p;
        entropy += p * std::log(p);
      }
      for (mf::Index s = 0; s < top; ++s) {
        count[static_cast<std::size_t>(r.ids(t, s))] += 1;
        gate[static_cast<std::size_t>(r.ids(t, s))] += std::exp(logits(t, r.ids(t, s))) / sum;
      }
    }
    BOOST_TEST(relative_error(r.probability.values(), probability) < 1e-13);
    BOOST_TEST(r.count.values() == count, boost::test_tools::per_element());
    BOOST_TEST(relative_error(r.gate.values(), gate) < 1e-13);
    BOOST_TEST(std::abs(r.negative_entropy - entropy) < 1e-12 * static_cast<double>(tokens));
    BOOST_TEST(std::abs(r.squared_lse - squares) <= 1e-12 * (1 + squares));
  }
}

BOOST_AUTO_TEST_CASE(gradient_matches_differences) {
  for (auto const& [tokens, experts, top] : sizes) {
    Array<double, 2> logits(tokens, experts), gradient(tokens, experts);
    mf::test::fill_normal(logits.values(), 4, 2);
    mf::Cpu<double> backend{2};
    Objective objective(tokens, experts, top);
    auto r = mf::test::route(backend, logits, top);
    mf::routing_backward(backend, logits.view(), r.probs.view(), r.lse.view(), r.ids.view(),
                         objective.gate_weight.view(), objective.gradient(), gradient.view());
    mf::Index const step = std::max<mf::Index>(1, tokens * experts / 40);
    for (mf::Index i = 0; i < tokens * experts; i += step) {
      auto moved = logits;
      double const h = 1e-5;
      moved.view()[i] = logits.view()[i] + h;
      double const above = objective.value(mf::test::route(backend, moved, top));
      moved.view()[i] = logits.view()[i] - h;
      double const below = objective.value(mf::test::route(backend, moved, top));
      BOOST_TEST(std::abs((above - below) / (2 * h) - gradient.view()[i]) < 1e-6);
    }
  }
}

BOOST_AUTO_TEST_CASE(gradient_in_float_matches_double) {
  Array<float, 2> logits(130, 17), gradient(130, 17), dgates(130, 3);
  mf::test::fill_normal(logits.values(), 5, 3);
  mf::test::fill_normal(dgates.values(), 6);
  Array<double, 2> wide_logits(130, 17), wide_gradient(130, 17), wide_dgates(130, 3);
  std::copy(logits.values().begin(), logits.values().end(), wide_logits.values().begin());
  std::copy(dgates.values().begin(), dgates.values().end(), wide_dgates.values().begin());
  Objective objective(130, 17, 3);
  mf::Cpu<float> single{2};
  mf::Cpu<double> wide{2};
  auto r = mf::test::route(single, logits, 3);
  auto w = mf::test::route(wide, wide_logits, 3);
  mf::routing_backward(single, logits.view(), r.probs.view(), r.lse.view(), r.ids.view(),
                       dgates.view(), objective.gradient(), gradient.view());
  mf::routing_backward(wide, wide_logits.view(), w.probs.view(), w.lse.view(), w.ids.view(),
                       wide_dgates.view(), objective.gradient(), wide_gradient.view());
  BOOST_TEST(relative_error(gradient.values(), wide_gradient.values()) < 2e-6);
}

BOOST_AUTO_TEST_CASE(underflowing_and_excluded_experts_have_finite_sums) {
  Array<float, 2> logits(2, 3);
  logits.values() = {0, -500, 500, 1, -std::numeric_limits<float>::infinity(), 2};
  mf::Cpu<float> backend{1};
  auto r = mf::test::route(backend, logits, 2);
  double const p = 1 / (1 + std::exp(1.0)), second = p * std::log(p) + (1 - p) * std::log(1 - p);
  BOOST_TEST(r.lse(0) == 500.0f);
  BOOST_TEST(std::abs(r.negative_entropy - second) < 1e-6);
  Objective objective(2, 3, 2);
  Array<float, 2> gradient(2, 3);
  mf::routing_backward(backend, logits.view(), r.probs.view(), r.lse.view(), r.ids.view(), {},
                       objective.gradient(), gradient.view());
  for (float const value : gradient.values()) BOOST_TEST(std::isfinite(value));
  BOOST_TEST(gradient(1, 1) == 0.0f);
}

BOOST_AUTO_TEST_CASE_TEMPLATE(bits_do_not_depend_on_threads, S, Scalars) {
  Array<S, 2> logits(1000, 19), one(1000, 19), three(1000, 19), dgates(1000, 4);
  mf::test::fill_normal(logits.values(), 8, 2);
  mf::test::fill_normal(dgates.values(), 9);
  Objective objective(1000, 19, 4);
  auto const run = [&](int threads, Array<S, 2>& gradient) {
    mf::Cpu<S> backend{threads};
    auto r = mf::test::route(backend, logits, 4);
    mf::routing_backward(backend, logits.view(), r.probs.view(), r.lse.view(), r.ids.view(),
                         dgates.view(), objective.gradient(), gradient.view());
    return r;
  };
  auto const a = run(1, one), b = run(3, three);
  BOOST_TEST((a.probs.values() == b.probs.values() && a.lse.values() == b.lse.values()));
  BOOST_TEST((a.probability.values() == b.probability.values() && a.gate.values() == b.gate.values()));
  BOOST_TEST((a.negative_entropy == b.negative_entropy && a.squared_lse == b.squared_lse));
  BOOST_TEST((a.ids.values() == b.ids.values() && one.values() == three.values()));
}

BOOST_AUTO_TEST_CASE_TEMPLATE(normalised_rows, S, Scalars) {
  for (auto const& [rows, width, unused] : sizes) {
    Array<double, 2> x(rows, width), dy(rows, width);
    mf::test::fill_normal(x.values(), 21);
    mf::test::fill_normal(dy.values(), 22);
    Array<S, 2> in(rows, width), y(rows, width), slope(rows, width), dx(rows, width);
    Array<S, 1> norms(rows);
    std::copy(x.values().begin(), x.values().end(), in.values().begin());
    std::copy(dy.values().begin(), dy.values().end(), slope.values().begin());
    mf::Cpu<S> backend{2};
    mf::normalise_rows(backend, in.view(), y.view(), norms.view());
    mf::normalise_rows_backward(backend, slope.view(), y.view(), norms.view(), dx.view());
    for (mf::Index r = 0; r < rows; ++r) {
      double norm = 0, along = 0;
      for (mf::Index i = 0; i < width; ++i) norm += x(r, i) * x(r, i), along += x(r, i) * dy(r, i);
      norm = std::sqrt(norm);
      double const tolerance = (sizeof(S) == 4 ? 2e-6 : 1e-14) * (1 + 1 / norm);
      BOOST_TEST(std::abs(static_cast<double>(norms(r)) / norm - 1) < tolerance);
      for (mf::Index i = 0; i < width; ++i) {
        BOOST_TEST(std::abs(static_cast<double>(y(r, i)) - x(r, i) / norm) < tolerance);
        double const expected = dy(r, i) / norm - x(r, i) * along / (norm * norm * norm);
        BOOST_TEST(std::abs(static_cast<double>(dx(r, i)) - expected) < tolerance * (1 + std::abs(dy(r, i) / norm)));
      }
    }
  }
}

BOOST_AUTO_TEST_CASE(tiny_rows_are_divided_by_the_bound) {
  Array<double, 2> x(2, 2), y(2, 2), dx(2, 2), dy(2, 2);
  x.values() = {0, 0, 3e-13, 4e-13};
  dy.values() = {1, 2, 3, 4};
  Array<double, 1> norms(2);
  mf::Cpu<double> backend{1};
  mf::normalise_rows(backend, x.view(), y.view(), norms.view());
  mf::normalise_rows_backward(backend, dy.view(), y.view(), norms.view(), dx.view());
  BOOST_TEST(y(0, 0) == 0.0);
  BOOST_TEST(std::abs(y(1, 1) - 0.4) < 1e-15);
  BOOST_TEST(relative_error(dx.values(), std::vector<double>{1e12, 2e12, 3e12, 4e12}) < 1e-15);
}

BOOST_AUTO_TEST_SUITE_END()
