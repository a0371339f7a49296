// SPDX-License-Identifier: MIT
#pragma once
// Suite: which experts are chosen: order, ties, special numbers, sampling; their gates; the sort of slots.

#include "routing_cases.hpp"
#include "support.hpp"

#include <moduleformer/backend/cuda/top_k.cuh>

#include <boost/test/unit_test.hpp>

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>
#include <set>
#include <string>
#include <tuple>
#include <vector>

namespace moduleformer::test {

using RoutingBackend = std::tuple_element_t<0, Backends>;
using Ids = std::vector<ExpertId>;

/// NaN counts as -infinity.
inline float score(float logit) { return std::isnan(logit) ? -std::numeric_limits<float>::infinity() : logit; }

/// The k experts of largest logit, lower ones first where they tie.
inline Ids largest(float const* logits, Index experts, Index k) {
  Ids ids(static_cast<std::size_t>(experts));
  std::iota(ids.begin(), ids.end(), 0);
  std::stable_sort(ids.begin(), ids.end(), [&](auto a, auto b) { return score(logits[a]) > score(logits[b]); });
  ids.resize(static_cast<std::size_t>(k));
  return ids;
}

inline Ids chosen_on_device(std::vector<float> const& logits, Index experts, Index k) {
  Index const tokens = static_cast<Index>(logits.size()) / experts;
  return in_all_orders<RoutingBackend>([&](Device<RoutingBackend>& device) {
    auto const ids = device.template allocate<ExpertId>(tokens, k);
    top_k(device.backend(), device.upload(logits, tokens, experts), ids);
    return device.download(ids);
  });
}

BOOST_AUTO_TEST_CASE(top_k_by_hand) {
  BOOST_TEST((chosen_on_device({1, 5, 3, 5, 2}, 5, 3) == Ids{1, 3, 2}));
  BOOST_TEST((chosen_on_device({7, 7, 8, 7}, 4, 4) == Ids{2, 0, 1, 3}));
  BOOST_TEST((chosen_on_device({-0.0f, 0.0f, -0.0f}, 3, 3) == Ids{0, 1, 2}));
  float const nan = std::numeric_limits<float>::quiet_NaN(), infinity = std::numeric_limits<float>::infinity();
  BOOST_TEST((chosen_on_device({nan, -infinity, -1, nan, infinity, -3e38f}, 6, 6) == Ids{4, 2, 5, 0, 1, 3}));
  BOOST_TEST((chosen_on_device({nan, -nan}, 2, 2) == Ids{0, 1}));
}

BOOST_AUTO_TEST_CASE(top_k_of_all_sizes) {
  for (Index const experts : expert_counts)
    for (Index const k : choices(experts))
      for (Index const tokens : {1, 2, 31, 33}) {
        if (experts * k > 40000 && tokens > 2) continue;  // emulated rounds take long
        auto const logits = special_logits(tokens, experts, 3);
        Ids expected;
        for (Index t = 0; t < tokens; ++t) {
          auto const row = largest(logits.data() + t * experts, experts, k);
          expected.insert(expected.end(), row.begin(), row.end());
        }
        BOOST_TEST((chosen_on_device(logits, experts, k) == expected), k << " of " << experts << ", " << tokens);
      }
}

BOOST_AUTO_TEST_CASE(top_k_of_many_tokens) {
  for (Index const tokens : {257, 1000}) {
    auto const logits = special_logits(tokens, 64, 4);
    Ids expected;
    for (Index t = 0; t < tokens; ++t)
      for (auto const e : largest(logits.data() + t * 64, 64, 4)) expected.push_back(e);
    BOOST_TEST((chosen_on_device(logits, 64, 4) == expected));
  }
}

/// Checks one row of a sampled choice: the fixed slots, and that each drawn one won the race of those left, up to
/// rounding of the logarithm.
inline bool is_race(float const* logits, float const* probs, Index experts, Index sampled, RandomKey key, Index token,
                    ExpertId const* ids, Index k) {
  Ids const fixed = largest(logits, experts, k - sampled);
  if (!std::equal(fixed.begin(), fixed.end(), ids)) return false;
  std::vector<double> race(static_cast<std::size_t>(experts));
  for (Index e = 0; e < experts; ++e) {
    float const u = to_unit(random_words(key, static_cast<std::uint64_t>(token * experts + e))[0]);
    race[static_cast<std::size_t>(e)] = (static_cast<double>(probs[e]) + 1e-6) / -std::log(static_cast<double>(u));
  }
  auto const out = [&](ExpertId e) { race[static_cast<std::size_t>(e)] = -1; };
  for (auto const e : fixed) out(e);
  for (Index s = k - sampled; s < k; ++s) {
    auto const won = ids[s] >= 0 && ids[s] < experts ? race[static_cast<std::size_t>(ids[s])] : -1;
    if (won < 0 || won < *std::max_element(race.begin(), race.end()) * (1 - 1e-5)) return false;
    out(ids[s]);
  }
  return true;
}

BOOST_AUTO_TEST_CASE(sampling_is_the_race_of_the_words) {
  RandomKey const base{11, 12, 0}, key = base.at(13);
  for (Index const experts : expert_counts)
    for (Index const k : choices(experts))
      for (Index const sampled : {Index{0}, Index{1}, k - 1, k}) {
        if (k > 8 && sampled > 1) continue;
        Index const tokens = k > 8 ? 2 : 9;
        auto const logits = special_logits(tokens, experts, 5);
        std::vector<float> probs(logits.size());
        for (std::size_t i = 0; i < probs.size(); ++i) probs[i] = to_unit(random_words({6}, i)[0]);
        auto const ids = in_all_orders<RoutingBackend>([&](Device<RoutingBackend>& device) {
          auto const found = device.template allocate<ExpertId>(tokens, k);
          sampled_top_k(device.backend(), device.upload(logits, tokens, experts), device.upload(probs, tokens, experts),
                        sampled, {device.upload(std::vector<RandomKey>{base}).data(), 13}, found);
          return device.download(found);
        });
        bool right = true;
        for (Index t = 0; t < tokens; ++t)
          right = right && is_race(logits.data() + t * experts, probs.data() + t * experts, experts, sampled, key, t,
                                   ids.data() + t * k, k);
        BOOST_TEST(right, sampled << " of " << k << " of " << experts);
      }
}

BOOST_AUTO_TEST_CASE(probabilities_that_are_no_numbers_are_drawn_last) {
  float const nan = std::numeric_limits<float>::quiet_NaN();
  std::vector<float> const logits{9, 1, 2, 3, 4}, probs{1, nan, 0.5f, nan, 0};
  Device<RoutingBackend> device;
  auto const ids = device.template allocate<ExpertId>(1, 5);
  sampled_top_k(device.backend(), device.upload(logits, 1, 5), device.upload(probs, 1, 5), 4,
                {device.upload(std::vector<RandomKey>{{1, 2}}).data(), 3}, ids);
  auto const found = device.download(ids);
  BOOST_TEST(found[0] == 0);
  BOOST_TEST((std::set<ExpertId>(found.begin() + 1, found.begin() + 3) == std::set<ExpertId>{2, 4}));
  BOOST_TEST((found[3] == 1 && found[4] == 3));
}

BOOST_AUTO_TEST_CASE(gathered_columns) {
  for (Index const tokens : {1, 33, 257})
    for (Index const k : {1, 3, 8}) {
      Index const width = 37;
      auto const x = numbers<float>(normal_numbers<float>(tokens * width, 8));
      Ids ids(static_cast<std::size_t>(tokens * k));
      std::vector<float> expected;
      for (std::size_t p = 0; p < ids.size(); ++p) {
        ids[p] = static_cast<ExpertId>(random_words({9}, p)[0] % 37);
        expected.push_back(x[p / static_cast<std::size_t>(k) * 37 + static_cast<std::size_t>(ids[p])]);
      }
      auto const found = in_all_orders<RoutingBackend>([&](Device<RoutingBackend>& device) {
        auto const out = device.template allocate<float>(tokens, k);
        gather_columns(device.backend(), device.upload(x, tokens, width), device.upload(ids, tokens, k), out);
        return device.download(out);
      });
      BOOST_TEST(same_bits(found, expected));
    }
}

BOOST_AUTO_TEST_CASE_TEMPLATE(slots_sorted_by_expert, B, Backends) {
  Ids const expert{3, 0, 3, 1, 0, 3};
  Device<B> device;
  auto const order = device.template allocate<std::int32_t>(6);
  auto const offsets = device.template allocate<Index>(6);
  sort_by_expert(device.backend(), device.upload(expert), 5, order, offsets);
  BOOST_TEST(device.download(order) == (std::vector<std::int32_t>{1, 4, 3, 0, 2, 5}), boost::test_tools::per_element());
  BOOST_TEST(device.download(offsets) == (std::vector<Index>{0, 2, 3, 3, 6, 6}), boost::test_tools::per_element());
}

BOOST_AUTO_TEST_CASE_TEMPLATE(mistakes_in_choices_are_named, B, Backends) {
  Device<B> device;
  auto const logits = device.template allocate<float>(2, 3);
  auto const ids = device.template allocate<ExpertId>(2, 4), two = device.template allocate<ExpertId>(2, 2);
  auto const says = [](char const* text) {
    return [text](Error const& error) { return std::string(error.what()).find(text) != std::string::npos; };
  };
  BOOST_CHECK_EXCEPTION(top_k(device.backend(), logits, ids), Error, says("top_k: cannot choose 4 of 3 experts"));
  BOOST_CHECK_EXCEPTION(sampled_top_k(device.backend(), logits, logits, 3, {}, two), Error,
                        says("sampled_top_k: cannot draw 3 of 2 slots"));
  BOOST_CHECK_EXCEPTION(gather_columns(device.backend(), logits, two, device.template allocate<float>(2, 3)), Error,
                        says("gather_columns: expected ids of 2 x 3, found 2 x 2"));
  BOOST_CHECK_EXCEPTION(sort_by_expert(device.backend(), device.template allocate<ExpertId>(4), 3,
                                       device.template allocate<std::int32_t>(4), device.template allocate<Index>(3)),
                        Error, says("sort_by_expert: expected offsets of 4, found 3"));
}

}  // namespace moduleformer::test
