// SPDX-License-Identifier: MIT
#pragma once
// Suite: sums over tokens for routing losses and the gradient of a function of them, against plain loops in double.

#include "routing_cases.hpp"
#include "support.hpp"

#include <moduleformer/backend/cuda/routing.cuh>

#include <boost/test/unit_test.hpp>

#include <algorithm>
#include <cmath>
#include <limits>
#include <string>
#include <tuple>
#include <vector>

namespace moduleformer::test {

using RoutingBackend = std::tuple_element_t<0, Backends>;

enum class Choice { by_logits, all_on_one, none_of_some };

/// Tokens with logits and chosen experts, weights of a function of the sums, and what both give in double.
struct Routed {
  Index tokens, experts, k;
  std::vector<float> logits, dgates;
  std::vector<ExpertId> ids;
  std::vector<double> probability_weight, gate_weight;
  double entropy_weight = 0.7, lse_weight = 0.03;

  std::vector<double> sums;  // probability (E), count (E), gate (E), p log p, lse^2
  std::vector<double> dlogits;

  Routed(Index tokens_, Index experts_, Index k_, Choice choice) : tokens(tokens_), experts(experts_), k(k_) {
    logits = numbers<float>(normal_numbers<float>(tokens * experts, 41, 2));
    dgates = numbers<float>(normal_numbers<float>(tokens * k, 42));
    probability_weight = normal_numbers<float>(experts, 43);
    gate_weight = normal_numbers<float>(experts, 44);
    for (Index t = 0; t < tokens; ++t)
      for (Index s = 0; s < k; ++s) {
        Index const start = choice == Choice::all_on_one ? experts - 1 : (t * 5) % experts;
        Index const range = choice == Choice::none_of_some ? std::max<Index>(k, experts / 2) : experts;
        ids.push_back(static_cast<ExpertId>((start + s * (choice == Choice::all_on_one ? 1 : 3)) % range));
        // Choices of a token are distinct.
        while (std::find(ids.end() - 1 - s, ids.end() - 1, ids.back()) != ids.end() - 1)
          ids.back() = static_cast<ExpertId>((ids.back() + 1) % range);
      }
    compute(true, true, true);
  }

  /// With or without dgates, the weights of the vectors, and those of the numbers.
  void compute(bool with_dgates, bool with_vectors, bool with_numbers) {
    auto const at = [](auto const& values, Index i) {
      return static_cast<double>(values[static_cast<std::size_t>(i)]);
    };
    sums.assign(static_cast<std::size_t>(3 * experts + 2), 0.0);
    dlogits.assign(logits.size(), 0.0);
    std::vector<double> p(static_cast<std::size_t>(experts)), v = p;
    for (Index t = 0; t < tokens; ++t) {
      double sum = 0, dot = 0;
      for (Index e = 0; e < experts; ++e) sum += std::exp(at(logits, t * experts + e));
      double const lse = std::log(sum);
      for (Index e = 0; e < experts; ++e) {
        auto const i = static_cast<std::size_t>(e);
        double const log_p = at(logits, t * experts + e) - lse;
        p[i] = std::exp(log_p);
        sums[i] += p[i];
        sums[sums.size() - 2] += p[i] * log_p;
        v[i] = (with_vectors ? probability_weight[i] : 0) + (with_numbers ? entropy_weight * log_p : 0);
      }
      sums.back() += lse * lse;
      for (Index s = 0; s < k; ++s) {
        auto const i = static_cast<std::size_t>(ids[static_cast<std::size_t>(t * k + s)]),
                   n = static_cast<std::size_t>(experts);
        sums[n + i] += 1;
        sums[2 * n + i] += p[i];
        v[i] += (with_dgates ? at(dgates, t * k + s) : 0) + (with_vectors ? gate_weight[i] : 0);
      }
      for (std::size_t i = 0; i < p.size(); ++i) dot += p[i] * v[i];
      for (std::size_t i = 0; i < p.size(); ++i)
        dlogits[static_cast<std::size_t>(t * experts) + i] =
            p[i] * (v[i] - dot + (with_numbers ? 2 * lse_weight * lse : 0));
    }
  }
};

/// The sums in the order of Routed::sums, then dlogits.
inline std::vector<double> routed_on_device(Routed const& r, bool with_dgates = true, bool with_vectors = true,
                                            bool with_numbers = true) {
  return in_all_orders<RoutingBackend>([&](Device<RoutingBackend>& device) {
    auto& backend = device.backend();
    auto const logits = device.upload(r.logits, r.tokens, r.experts);
    auto const ids = device.upload(r.ids, r.tokens, r.k);
    auto const probs = device.template allocate<float>(r.tokens, r.experts);
    auto const gates = device.template allocate<float>(r.tokens, r.k);
    auto const lse = device.template allocate<float>(r.tokens);
    auto const sums = device.template allocate<double>(3 * r.experts + 2);
    softmax(backend, logits, probs, lse);
    gather_columns(backend, probs, ids, gates);
    auto const part = [&](Index which) { return sums.rows(which * r.experts, r.experts); };
    double* const both = sums.data() + 3 * r.experts;
    sum_routing(backend, logits, probs, lse, gates, ids, {r.tokens, r.k, part(0), part(1), part(2), both, both + 1});

    auto const dlogits = device.template allocate<float>(r.tokens, r.experts);
    RoutingGradient gradient{};
    auto const weights = device.upload(std::vector<double>{r.entropy_weight, r.lse_weight});
    if (with_vectors) gradient = {device.upload(r.probability_weight), device.upload(r.gate_weight), nullptr, nullptr};
    if (with_numbers) gradient.negative_entropy_sum = weights.data(), gradient.squared_lse_sum = weights.data() + 1;
    auto const dgates = with_dgates ? device.upload(r.dgates, r.tokens, r.k) : Matrix<float>{};
    routing_backward(backend, logits, probs, lse, ids, dgates, gradient, dlogits);
    auto result = device.download(sums);
    for (double const value : device.template download<double>(dlogits)) result.push_back(value);
    return result;
  });
}

inline void check(Routed const& r, std::vector<double> const& found) {
  auto const n = static_cast<std::ptrdiff_t>(r.experts);
  auto const error = [&](std::ptrdiff_t begin, std::ptrdiff_t end) {
    auto const all = r.sums.begin();
    return relative_error(std::vector<double>(found.begin() + begin, found.begin() + end),
                          std::vector<double>(all + begin, all + end));
  };
  BOOST_TEST_CONTEXT(r.tokens << " tokens, " << r.experts << " experts, " << r.k << " choices") {
    BOOST_TEST(error(0, n) < 1e-6);
    BOOST_TEST(error(n, 2 * n) == 0);
    BOOST_TEST(error(2 * n, 3 * n) < 1e-6);
    if (r.experts > 1) BOOST_TEST(error(3 * n, 3 * n + 1) < 1e-6);
    BOOST_TEST(error(3 * n + 1, 3 * n + 2) < 1e-6);
    BOOST_TEST(relative_error(std::vector<double>(found.begin() + 3 * n + 2, found.end()), r.dlogits) < 5e-6);
  }
}

BOOST_AUTO_TEST_CASE(sums_and_gradients_of_all_sizes) {
  for (Index const experts : expert_counts)
    for (Index const k : choices(experts))
      for (Index const tokens : {1, 65}) {
        if (k > 8 && tokens > 1 && k != 100) continue;
        Routed const r(tokens, experts, k, Choice::by_logits);
        check(r, routed_on_device(r));
      }
}

BOOST_AUTO_TEST_CASE(sums_of_many_tokens) {
  // Tiles of 64 tokens: more than the 32 that a block adds up at once.
  for (Index const tokens : {2, 33, 64, 257, 1000, 2500}) {
    Routed const r(tokens, 40, 2, Choice::by_logits);
    check(r, routed_on_device(r));
  }
}

BOOST_AUTO_TEST_CASE(uneven_choices) {
  for (Choice const choice : {Choice::all_on_one, Choice::none_of_some})
    for (Index const experts : {2, 64, 300}) {
      Routed const r(129, experts, 1, choice);
      check(r, routed_on_device(r));
    }
}

BOOST_AUTO_TEST_CASE(parts_of_the_gradient_may_be_absent) {
  for (int which = 0; which < 8; ++which) {
    Routed r(37, 33, 3, Choice::by_logits);
    r.compute((which & 1) != 0, (which & 2) != 0, (which & 4) != 0);
    check(r, routed_on_device(r, (which & 1) != 0, (which & 2) != 0, (which & 4) != 0));
  }
}

BOOST_AUTO_TEST_CASE(parts_of_the_statistics_may_be_absent) {
  Device<RoutingBackend> device;
  Routed const r(5, 3, 2, Choice::by_logits);
  auto const matrix = device.upload(r.logits, 5, 3);
  auto const lse = device.upload(std::vector<float>(5, 2.0f)), gates = device.upload(std::vector<float>(10, 0.5f));
  auto const ids = device.upload(r.ids, 5, 2);
  auto const sums = device.upload(std::vector<double>(4, -1.0));
  RoutingStatistics stats{5, 2, {}, sums.rows(0, 3), {}, nullptr, sums.data() + 3};
  sum_routing(device.backend(), matrix, matrix, lse, gates.reshape(5, 2), ids, stats);
  std::vector<double> expected(r.sums.begin() + 3, r.sums.begin() + 6);
  expected.push_back(20);
  BOOST_TEST(device.download(sums) == expected, boost::test_tools::per_element());
}

BOOST_AUTO_TEST_CASE(excluded_experts_have_finite_sums) {
  Device<RoutingBackend> device;
  std::vector<float> const logits{0, -500, 500, 1, -std::numeric_limits<float>::infinity(), 2};
  auto const x = device.upload(logits, 2, 3), probs = device.template allocate<float>(2, 3);
  auto const dlogits = device.template allocate<float>(2, 3);
  auto const lse = device.template allocate<float>(2);
  auto const ids = device.upload(std::vector<ExpertId>{2, 2}, 2, 1);
  auto const numbers = device.template allocate<double>(2), ones = device.upload(std::vector<double>{1, 1, 1});
  softmax(device.backend(), x, probs, lse);
  sum_routing(device.backend(), x, probs, lse, device.upload(std::vector<float>{1, 0}, 2, 1), ids,
              {2, 1, {}, {}, {}, numbers.data(), numbers.data() + 1});
  double const p = 1 / (1 + std::exp(1.0));
  auto const found = device.download(numbers);
  BOOST_TEST(std::abs(found[0] - (p * std::log(p) + (1 - p) * std::log(1 - p))) < 1e-6);
  BOOST_TEST(std::abs(found[1] / (250000 + std::pow(2 + std::log1p(std::exp(-1.0)), 2)) - 1) < 1e-6);
  routing_backward(device.backend(), x, probs, lse, ids, {}, {ones, ones, ones.data(), ones.data()}, dlogits);
  auto const gradient = device.download(dlogits);
  for (float const value : gradient) BOOST_TEST(std::isfinite(value));
  BOOST_TEST(gradient[4] == 0.0f);
}

BOOST_AUTO_TEST_CASE(mistakes_in_sums_are_named) {
  Device<RoutingBackend> device;
  auto const says = [](char const* text) {
    return [text](Error const& error) { return std::string(error.what()).find(text) != std::string::npos; };
  };
  auto const x = device.template allocate<float>(2, 3), gates = device.template allocate<float>(2, 1);
  auto const lse = device.template allocate<float>(2);
  auto const ids = device.template allocate<ExpertId>(2, 1);
  auto const sums = device.template allocate<double>(4);
  BOOST_CHECK_EXCEPTION(sum_routing(device.backend(), x, x, lse, gates, ids, {2, 1, sums, {}, {}, nullptr, nullptr}),
                        Error, says("sum_routing: expected sums of 3 experts, found 4"));
  BOOST_CHECK_EXCEPTION(routing_backward(device.backend(), x, x, lse, ids, x, {}, x), Error,
                        says("routing_backward: expected dgates of 2 x 1, found 2 x 3"));
}

}  // namespace moduleformer::test
