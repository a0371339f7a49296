// SPDX-License-Identifier: MIT
#pragma once
// Suite: expert choice against a plain sort, slots without expert in the counting sort, and pools of experts for documents.

#include "../expert_choice_cases.hpp"
#include "support.hpp"

#include <moduleformer/backend/cuda/document_pool.cuh>
#include <moduleformer/backend/cuda/expert_choice.cuh>
#include <moduleformer/backend/cuda/top_k.cuh>

#include <boost/test/unit_test.hpp>

#include <cstdint>
#include <limits>
#include <string>
#include <tuple>
#include <vector>

namespace moduleformer::test {

using ChoiceBackend = std::tuple_element_t<0, Backends>;

inline std::vector<ExpertId> chosen_on_device(ExpertChoiceCase c, std::vector<float> const& scores) {
  return in_all_orders<ChoiceBackend>([&](Device<ChoiceBackend>& device) {
    auto const ids = device.template allocate<ExpertId>(c.tokens, c.slots);
    expert_choice(device.backend(), device.upload(scores, c.tokens, c.experts), c.capacity, ids);
    return device.download(ids);
  });
}

BOOST_AUTO_TEST_CASE(experts_take_their_best_tokens) {
  for (auto const& c : expert_choice_cases) {
    auto const scores = tied_scores(c.tokens * c.experts, 7);
    BOOST_TEST(chosen_on_device(c, scores) == choose_by_sorting(c, scores), boost::test_tools::per_element());
  }
}

BOOST_AUTO_TEST_CASE(scores_that_are_no_numbers_come_last) {
  float const nan = std::numeric_limits<float>::quiet_NaN();
  std::vector<float> const scores{nan, 1, 2, nan, 3, 0};  // (6,1)
  BOOST_TEST((chosen_on_device({6, 1, 5, 1}, scores) == std::vector<ExpertId>{0, 0, 0, -1, 0, 0}));
}

BOOST_AUTO_TEST_CASE(empty_slots_stand_behind_all_experts) {
  // Powers of two of experts, one pass and two, one block and many.
  for (Index const experts : {1, 4, 5, 255, 256, 700})
    for (Index const slots : {7, 5000}) {
      std::vector<ExpertId> expert;
      std::vector<std::int32_t> expected;
      for (Index p = 0; p < slots; ++p)
        expert.push_back(p % 3 == 1 ? -1 : static_cast<ExpertId>(random_words({5}, static_cast<std::uint64_t>(p))[0] % static_cast<std::uint32_t>(experts)));
      std::vector<Index> begins;
      for (Index e = 0; e < experts; ++e) {
        begins.push_back(static_cast<Index>(expected.size()));
        for (Index p = 0; p < slots; ++p)
          if (expert[static_cast<std::size_t>(p)] == e) expected.push_back(static_cast<std::int32_t>(p));
      }
      begins.push_back(static_cast<Index>(expected.size()));
      auto found = in_all_orders<ChoiceBackend>([&](Device<ChoiceBackend>& device) {
        auto const order = device.template allocate<std::int32_t>(slots);
        auto const offsets = device.template allocate<Index>(experts + 1);
        sort_by_expert(device.backend(), device.upload(expert), experts, order, offsets, true);
        auto result = device.template download<Index>(order);
        for (Index const o : device.download(offsets)) result.push_back(o);
        return result;
      });
      std::vector<Index> const offsets(found.begin() + slots, found.end());
      BOOST_TEST(offsets == begins, boost::test_tools::per_element());
      for (std::size_t i = 0; i < expected.size(); ++i) BOOST_REQUIRE(found[i] == expected[i]);
    }
}

BOOST_AUTO_TEST_CASE(experts_outside_a_pool_are_excluded) {
  for (Index const experts : {1, 5, 32, 100, 256, 300}) {
    std::vector<Sequence> const documents{{0, 1, 0, 1}, {1, 0, 1, 0}, {1, 70, 1, 70}, {71, 9, 71, 9}};
    Index const tokens = 80, smallest = (experts + 2) / 3, largest = experts;
    auto probabilities = tied_scores(tokens * experts, 9), logits = tied_scores(tokens * experts, 10);
    RandomKey const base{11, 12, 0}, key = base.at(13);
    auto const found = in_all_orders<ChoiceBackend>([&](Device<ChoiceBackend>& device) {
      auto const x = device.upload(logits, tokens, experts);
      restrict_to_pools(device.backend(), device.upload(documents), smallest, largest,
                        {device.upload(std::vector<RandomKey>{base}).data(), 13}, device.upload(probabilities, tokens, experts), x);
      return device.download(x);
    });
    for (std::size_t d = 0; d < documents.size(); ++d) {
      std::vector<double> sums(static_cast<std::size_t>(experts));
      Index const begin = documents[d].query_begin, end = begin + documents[d].query_count;
      for (Index i = begin * experts; i < end * experts; ++i)
        sums[static_cast<std::size_t>(i % experts)] += static_cast<double>(probabilities[static_cast<std::size_t>(i)]);
      std::vector<Index> order(static_cast<std::size_t>(experts));
      std::iota(order.begin(), order.end(), 0);
      std::stable_sort(order.begin(), order.end(), [&](Index a, Index b) { return sums[static_cast<std::size_t>(a)] > sums[static_cast<std::size_t>(b)]; });
      auto const pool = smallest + static_cast<Index>((std::uint64_t{random_words(key, d)[0]} * static_cast<std::uint64_t>(largest - smallest + 1)) >> 32);
      for (Index rank = 0; rank < experts; ++rank)
        for (Index t = begin; t < end; ++t) {
          auto const i = static_cast<std::size_t>(t * experts + order[static_cast<std::size_t>(rank)]);
          BOOST_REQUIRE(found[i] == (rank < pool ? logits[i] : -std::numeric_limits<float>::infinity()));
        }
    }
  }
}

BOOST_AUTO_TEST_CASE(mistakes_in_expert_choice_are_named) {
  Device<ChoiceBackend> device;
  auto const scores = device.template allocate<float>(4, 3);
  auto const ids = device.template allocate<ExpertId>(4, 2);
  BOOST_CHECK_EXCEPTION(expert_choice(device.backend(), scores, 5, ids), Error, [](Error const& error) {
    return std::string(error.what()).find("expert_choice: expected a capacity of 0 to 4 tokens, found 5") != std::string::npos;
  });
}

}  // namespace moduleformer::test
