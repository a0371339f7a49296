// SPDX-License-Identifier: MIT
#pragma once
// Suite: gates that depend on the chosen experts' logits alone, and scores that experts are chosen by, against plain loops
// in double.

#include "routing_cases.hpp"
#include "support.hpp"

#include <moduleformer/backend/cuda/gates.cuh>

#include <boost/test/unit_test.hpp>

#include <cmath>
#include <limits>
#include <string>
#include <tuple>
#include <vector>

namespace moduleformer::test {

using GatesBackend = std::tuple_element_t<0, Backends>;
constexpr GateFunction gate_functions[] = {GateFunction::chosen_softmax, GateFunction::sigmoid, GateFunction::chosen_sigmoid};

/// Logits, distinct chosen experts (every fifth slot is empty), and the gates as written in backend/gate_rows.hpp.
struct Gated {
  Index tokens, experts, k;
  GateFunction function;
  std::vector<double> logits, dgates, gate_sum;
  std::vector<ExpertId> ids;

  Gated(Index tokens_, Index experts_, Index k_, GateFunction f, bool empty_slots) : tokens(tokens_), experts(experts_), k(k_), function(f) {
    logits = normal_numbers<float>(tokens * experts, 61, 2);
    dgates = normal_numbers<float>(tokens * k, 62);
    gate_sum = normal_numbers<float>(experts, 63);
    for (Index t = 0; t < tokens; ++t)
      for (Index s = 0; s < k; ++s)
        ids.push_back(empty_slots && (t * k + s) % 5 == 2 ? -1 : static_cast<ExpertId>((t * 7 + s) % experts));
  }
  [[nodiscard]] std::vector<double> gates(std::vector<double> const& of) const {
    std::vector<double> result(ids.size());
    for (Index t = 0; t < tokens; ++t) {
      double sum = 0;
      for (Index s = 0; s < k; ++s) {
        auto const p = static_cast<std::size_t>(t * k + s);
        if (ids[p] < 0) continue;
        double const l = of[static_cast<std::size_t>(t * experts + ids[p])];
        result[p] = function == GateFunction::chosen_softmax ? std::exp(l) : 1 / (1 + std::exp(-l));
        sum += result[p];
      }
      if (function != GateFunction::sigmoid && sum > 0)
        for (Index s = 0; s < k; ++s) result[static_cast<std::size_t>(t * k + s)] /= sum;
    }
    return result;
  }
  /// <dgates, gates> + <gate_sum, sums of the gates>
  [[nodiscard]] double objective(std::vector<double> const& of) const {
    auto const g = gates(of);
    double sum = 0;
    for (std::size_t p = 0; p < g.size(); ++p)
      if (ids[p] >= 0) sum += g[p] * (dgates[p] + gate_sum[static_cast<std::size_t>(ids[p])]);
    return sum;
  }
};

inline std::vector<double> gated_on_device(Gated const& g, bool with_dgates, bool with_sums) {
  return in_all_orders<GatesBackend>([&](Device<GatesBackend>& device) {
    auto const logits = device.template upload<float>(g.logits, g.tokens, g.experts);
    auto const ids = device.upload(g.ids, g.tokens, g.k);
    auto const gates = device.template allocate<float>(g.tokens, g.k);
    chosen_gates(device.backend(), g.function, logits, ids, gates);
    auto const dlogits = device.template upload<float>(std::vector<double>(g.logits.size(), 0.5), g.tokens, g.experts);
    auto const dgates = with_dgates ? device.template upload<float>(g.dgates, g.tokens, g.k) : Matrix<float>{};
    auto const sums = with_sums ? device.upload(g.gate_sum) : Vector<double>{};
    chosen_gates_backward(device.backend(), g.function, logits, ids, gates, dgates, sums, dlogits);
    auto result = device.template download<double>(gates);
    for (double const x : device.template download<double>(dlogits)) result.push_back(x - 0.5);
    return result;
  });
}

BOOST_AUTO_TEST_CASE(gates_and_their_gradients) {
  for (GateFunction const f : gate_functions)
    for (bool const empty_slots : {false, true})
      for (auto const& [tokens, experts, k] : {std::tuple{1, 1, 1}, {5, 4, 4}, {129, 7, 2}, {300, 40, 8}}) {
        Gated const g(tokens, experts, k, f, empty_slots);
        auto const found = gated_on_device(g, true, true);
        std::vector<double> const gates(found.begin(), found.begin() + static_cast<std::ptrdiff_t>(g.ids.size()));
        BOOST_TEST(relative_error(gates, g.gates(g.logits)) < 1e-6);
        std::vector<double> slopes, expected;
        auto moved = g.logits;
        for (std::size_t i = 0; i < g.logits.size(); i += 1 + g.logits.size() / 60) {
          moved[i] = g.logits[i] + 1e-5;
          double const above = g.objective(moved);
          moved[i] = g.logits[i] - 1e-5;
          expected.push_back((above - g.objective(moved)) / 2e-5);
          moved[i] = g.logits[i];
          slopes.push_back(found[g.ids.size() + i]);
        }
        for (std::size_t i = 0; i < slopes.size(); ++i) BOOST_TEST(std::abs(slopes[i] - expected[i]) < 3e-6);
      }
}

BOOST_AUTO_TEST_CASE(either_gradient_may_be_absent) {
  for (GateFunction const f : gate_functions) {
    Gated g(17, 5, 3, f, false);
    auto const kept = g;
    auto const both = gated_on_device(g, true, true), dgates = gated_on_device(g, true, false), sums = gated_on_device(g, false, true);
    for (std::size_t i = g.ids.size(); i < both.size(); ++i) BOOST_TEST(std::abs(both[i] - dgates[i] - sums[i]) < 1e-6);
  }
}

BOOST_AUTO_TEST_CASE(scores) {
  for (Index const experts : {1, 5, 300}) {
    Index const tokens = 37;
    auto const logits = normal_numbers<float>(tokens * experts, 64, 3), bias = normal_numbers<float>(experts, 65);
    RandomKey const base{11, 12, 0}, key = base.at(13);
    auto const found = in_all_orders<GatesBackend>([&](Device<GatesBackend>& device) {
      auto const x = device.template upload<float>(logits, tokens, experts), noisy = device.template allocate<float>(tokens, experts);
      auto const biased = device.template allocate<float>(tokens, experts);
      gumbel_scores(device.backend(), 0.7, {device.upload(std::vector<RandomKey>{base}).data(), 13}, x, noisy);
      biased_scores(device.backend(), x, device.template upload<float>(bias), biased);
      auto result = device.template download<double>(noisy);
      for (double const b : device.template download<double>(biased)) result.push_back(b);
      return result;
    });
    for (std::size_t i = 0; i < logits.size(); ++i) {
      double const u = static_cast<double>(to_unit(random_words(key, i)[0]));
      BOOST_TEST(std::abs(found[i] - (logits[i] - 0.7 * std::log(-std::log(u)))) < 1e-5);
      BOOST_TEST(std::abs(found[logits.size() + i] - (1 / (1 + std::exp(-logits[i])) + bias[i % static_cast<std::size_t>(experts)])) < 1e-6);
    }
  }
}

BOOST_AUTO_TEST_CASE(excluded_experts_have_no_gate) {
  float const infinity = std::numeric_limits<float>::infinity();
  std::vector<float> const logits{-infinity, -infinity, 1, -infinity, 2, 1};  // (2,3)
  std::vector<ExpertId> const ids{0, 1, 0, 1};                                // both excluded; one of them
  for (GateFunction const f : gate_functions) {
    Device<GatesBackend> device;
    auto const x = device.upload(logits, 2, 3);
    auto const chosen = device.upload(ids, 2, 2);
    auto const gates = device.template allocate<float>(2, 2);
    chosen_gates(device.backend(), f, x, chosen, gates);
    auto const found = device.download(gates);
    BOOST_TEST((found[0] == 0 && found[1] == 0 && found[2] == 0 && found[3] > 0.5f));
    auto const dlogits = device.upload(std::vector<float>(6, 0.0f), 2, 3);
    auto const dgates = device.upload(std::vector<float>(4, 1.0f), 2, 2);
    chosen_gates_backward(device.backend(), f, x, chosen, gates, dgates, Vector<double>{}, dlogits);
    for (float const slope : device.download(dlogits)) BOOST_TEST(std::isfinite(slope));
  }
}

BOOST_AUTO_TEST_CASE(mistakes_in_gates_are_named) {
  Device<GatesBackend> device;
  auto const says = [](char const* text) {
    return [text](Error const& error) { return std::string(error.what()).find(text) != std::string::npos; };
  };
  auto const x = device.template allocate<float>(2, 3), gates = device.template allocate<float>(2, 1);
  auto const ids = device.template allocate<ExpertId>(2, 2);
  BOOST_CHECK_EXCEPTION(chosen_gates(device.backend(), GateFunction::sigmoid, x, ids, gates), Error,
                        says("chosen_gates: expected gates of 2 x 2, found 2 x 1"));
  BOOST_CHECK_EXCEPTION(biased_scores(device.backend(), x, device.template allocate<float>(2), x), Error,
                        says("biased_scores: expected bias of 3, found 2"));
}

}  // namespace moduleformer::test
