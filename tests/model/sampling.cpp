// SPDX-License-Identifier: MIT
// Penalty, temperature, top-k, top-p and the draw against cases computed by hand.
#include <moduleformer/model/sampling.hpp>

#include <boost/test/unit_test.hpp>

#include <array>
#include <cmath>
#include <limits>
#include <vector>

namespace mf = moduleformer;

namespace {

std::vector<mf::Candidate> kept(std::vector<double> const& logits, mf::SamplingOptions const& options) {
  std::vector<mf::Candidate> result;
  mf::candidates(logits, options, result);
  return result;
}

void check(std::vector<mf::Candidate> const& found, std::vector<mf::Candidate> const& expected) {
  BOOST_REQUIRE_EQUAL(found.size(), expected.size());
  for (std::size_t i = 0; i < found.size(); ++i) {
    BOOST_TEST(found[i].id == expected[i].id);
    BOOST_TEST(found[i].probability == expected[i].probability, boost::test_tools::tolerance(1e-14));
  }
}

/// Logits of given probabilities.
std::vector<double> logits_of(std::vector<double> p) {
  for (double& x : p) x = std::log(x);
  return p;
}

mf::TokenId pick(std::vector<double> const& logits, mf::SamplingOptions options, double u, std::vector<mf::TokenId> const& seen = {}) {
  return mf::Sampler(options)(std::span<double const>(logits), seen, u);
}

}  // namespace

BOOST_AUTO_TEST_CASE(penalty_divides_positive_and_multiplies_negative_logits_once) {
  std::vector<double> logits{3, -3, 0, 1.5};
  std::vector<mf::TokenId> scratch;
  std::vector<mf::TokenId> const seen{1, 0, 1, 1, 2};
  mf::penalise_repetition(logits, seen, 1.5, scratch);
  std::vector<double> const expected{2, -4.5, 0, 1.5};
  BOOST_TEST(logits == expected, boost::test_tools::per_element());
}

BOOST_AUTO_TEST_CASE(greedy_takes_the_largest_and_the_lowest_of_equal_ones) {
  BOOST_TEST(pick({1, 4, 2, 4}, {.temperature = 0}, 0.9) == 1);
  BOOST_TEST(pick({7}, {.temperature = 0}, 0.1) == 0);
  // The penalty comes before: 4 / 4 < 2.
  BOOST_TEST(pick({1, 4, 2, 0}, {.temperature = 0, .repetition_penalty = 4}, 0.5, {1}) == 2);
}

BOOST_AUTO_TEST_CASE(temperature_is_a_power_of_the_probabilities) {
  // p^2 of (1/2, 1/4, 1/4) is (1/4, 1/16, 1/16), normalised (4, 1, 1) / 6.
  check(kept(logits_of({0.25, 0.5, 0.25}), {.temperature = 0.5}), {{1, 4.0 / 6}, {0, 1.0 / 6}, {2, 1.0 / 6}});
  // Large logits do not overflow, tiny temperatures neither.
  check(kept({1000, 999}, {.temperature = 1e-300}), {{0, 1}, {1, 0}});
}

BOOST_AUTO_TEST_CASE(top_k_keeps_the_largest_and_the_lowest_of_equal_ones) {
  auto const logits = logits_of({0.1, 0.2, 0.4, 0.2, 0.1});
  check(kept(logits, {.top_k = 2}), {{2, 2.0 / 3}, {1, 1.0 / 3}});
  check(kept(logits, {.top_k = 1}), {{2, 1}});
  BOOST_TEST(kept(logits, {.top_k = 0}).size() == 5u);
  BOOST_TEST(kept(logits, {.top_k = 9}).size() == 5u);
}

BOOST_AUTO_TEST_CASE(top_p_keeps_the_fewest_that_reach_p) {
  auto const logits = logits_of({0.125, 0.5, 0.25, 0.125});
  check(kept(logits, {.top_p = 0.4}), {{1, 1}});
  check(kept(logits, {.top_p = 0.6}), {{1, 2.0 / 3}, {2, 1.0 / 3}});
  check(kept(logits, {.top_p = 0.8}), {{1, 4.0 / 7}, {2, 2.0 / 7}, {0, 1.0 / 7}});
  BOOST_TEST(kept(logits, {.top_p = 1}).size() == 4u);
  BOOST_TEST(kept(logits, {.top_p = 1e-9}).size() == 1u);
}

BOOST_AUTO_TEST_CASE(the_order_is_temperature_then_top_k_then_top_p) {
  // Temperature 1/2 makes (16, 4, 1, 1) / 22 of (8, 4, 2, 2) / 16 squared: 4/8, 2/8, 1/8, 1/8.
  auto const logits = logits_of({0.5, 0.25, 0.125, 0.125});
  // After top-k = 2 the rest is (16, 4) / 20: 0.8 reaches 0.75. Without top-k first it would not (16/22).
  check(kept(logits, {.temperature = 0.5, .top_k = 2, .top_p = 0.75}), {{0, 1}});
  BOOST_TEST(kept(logits, {.temperature = 0.5, .top_p = 0.75}).size() == 2u);
  // At temperature 1 the first alone (1/2) does not reach it, the first of two (2/3) neither.
  BOOST_TEST(kept(logits, {.top_k = 2, .top_p = 0.75}).size() == 2u);
}

BOOST_AUTO_TEST_CASE(the_draw_follows_the_running_sum) {
  std::vector<mf::Candidate> const three{{7, 0.5}, {3, 0.25}, {5, 0.25}};
  BOOST_TEST(mf::draw(three, 0.0001) == 7);
  BOOST_TEST(mf::draw(three, 0.4999) == 7);
  BOOST_TEST(mf::draw(three, 0.5) == 3);
  BOOST_TEST(mf::draw(three, 0.7499) == 3);
  BOOST_TEST(mf::draw(three, 0.75) == 5);
  BOOST_TEST(mf::draw(three, 0.9999) == 5);
  std::vector<mf::Candidate> const rounded{{1, 0.5}, {2, 0.4999}};
  BOOST_TEST(mf::draw(rounded, 0.99999) == 2);
}

BOOST_AUTO_TEST_CASE(numbers_depend_on_seed_sequence_and_position_and_are_uniform) {
  BOOST_TEST(mf::sampling_number(1, 2, 3) == mf::sampling_number(1, 2, 3));
  BOOST_TEST(mf::sampling_number(1, 2, 3) != mf::sampling_number(2, 2, 3));
  BOOST_TEST(mf::sampling_number(1, 2, 3) != mf::sampling_number(1, 3, 3));
  BOOST_TEST(mf::sampling_number(1, 2, 3) != mf::sampling_number(1, 2, 4));
  std::array<int, 10> tenths{};
  constexpr int n = 20000;
  for (int i = 0; i < n; ++i) ++tenths[static_cast<std::size_t>(10 * mf::sampling_number(5, i % 7, i))];
  // Standard deviation of each count: sqrt(n 0.1 0.9) = 42.
  for (int const count : tenths) BOOST_TEST(std::abs(count - n / 10) < 5 * 42);
}

BOOST_AUTO_TEST_CASE(frequencies_of_drawn_tokens_are_the_probabilities) {
  auto const logits = logits_of({0.1, 0.6, 0.3});
  std::array<int, 3> counts{};
  constexpr int n = 10000;
  mf::Sampler sampler({});
  for (int i = 0; i < n; ++i)
    ++counts[static_cast<std::size_t>(sampler(std::span<double const>(logits), {}, mf::sampling_number(1, 0, i)))];
  BOOST_TEST(std::abs(counts[0] - 1000) < 5 * 30);
  BOOST_TEST(std::abs(counts[1] - 6000) < 5 * 49);
  BOOST_TEST(std::abs(counts[2] - 3000) < 5 * 46);
}

BOOST_AUTO_TEST_CASE(options_out_of_range_are_named) {
  auto const complains = [](mf::SamplingOptions options, std::string const& about) {
    BOOST_CHECK_EXCEPTION(mf::Sampler{options}, mf::Error,
                          [&](mf::Error const& e) { return std::string(e.what()).starts_with(about + ": expected"); });
  };
  constexpr double nan = std::numeric_limits<double>::quiet_NaN();
  complains({.temperature = -1}, "temperature");
  complains({.temperature = nan}, "temperature");
  complains({.top_k = -1}, "top_k");
  complains({.top_p = 0}, "top_p");
  complains({.top_p = 1.01}, "top_p");
  complains({.top_p = nan}, "top_p");
  complains({.repetition_penalty = 0}, "repetition_penalty");
  complains({.repetition_penalty = nan}, "repetition_penalty");
}

BOOST_AUTO_TEST_CASE(logits_that_are_no_numbers_are_refused) {
  BOOST_CHECK_THROW(pick({1, std::numeric_limits<double>::quiet_NaN()}, {}, 0.5), mf::Error);
  BOOST_CHECK_THROW(pick({1, std::numeric_limits<double>::infinity()}, {.temperature = 0}, 0.5), mf::Error);
}
