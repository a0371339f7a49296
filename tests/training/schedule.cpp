// SPDX-License-Identifier: MIT
#include <moduleformer/training/schedule.hpp>

#include <boost/test/unit_test.hpp>

#include <cmath>
#include <string>
#include <vector>

namespace mf = moduleformer;

namespace {

constexpr double tight = 1e-12;  // percent

// Usable at compile time where no cosine is needed.
static_assert(mf::WarmupCosine{.warmup = 4, .total = 10}.factor(0) == 0.25);
static_assert(mf::WarmupLinear{.warmup = 0, .total = 4}.factor(1) == 0.75);
static_assert(mf::Schedule<mf::Constant> && mf::Schedule<mf::WarmupCosine> && mf::Schedule<mf::WarmupLinear> &&
              mf::Schedule<mf::WarmupStableDecay> && mf::Schedule<mf::AnySchedule>);

template <class Schedule>
std::string complaint(Schedule schedule) {
  try {
    schedule.check();
  } catch (mf::Error const& error) {
    return error.what();
  }
  return "none";
}

}  // namespace

BOOST_AUTO_TEST_CASE(constant_is_one) {
  for (mf::Index step : {0, 1, 1000000}) BOOST_TEST(mf::Constant{}.factor(step) == 1);
}

BOOST_AUTO_TEST_CASE(cosine_at_known_points) {
  mf::WarmupCosine const schedule{.warmup = 4, .total = 10, .floor = 0.2};
  BOOST_TEST(schedule.factor(0) == 0.25);
  BOOST_TEST(schedule.factor(2) == 0.75);
  BOOST_TEST(schedule.factor(3) == 1);
  BOOST_TEST(schedule.factor(4) == 1);
  BOOST_CHECK_CLOSE(schedule.factor(5), 0.2 + 0.4 * (1 + std::sqrt(3.0) / 2), tight);  // x = 1/6
  BOOST_CHECK_CLOSE(schedule.factor(6), 0.8, tight);                                   // x = 1/3
  BOOST_CHECK_CLOSE(schedule.factor(7), 0.6, tight);                                   // x = 1/2
  BOOST_CHECK_CLOSE(schedule.factor(8), 0.4, tight);                                   // x = 2/3
  for (mf::Index step : {10, 11, 1000}) BOOST_TEST(schedule.factor(step) == 0.2);
}

BOOST_AUTO_TEST_CASE(linear_at_known_points) {
  mf::WarmupLinear const schedule{.warmup = 2, .total = 6, .floor = 0.5};
  std::vector<double> const expected{0.5, 1, 1, 0.875, 0.75, 0.625, 0.5, 0.5};
  for (std::size_t step = 0; step < expected.size(); ++step)
    BOOST_CHECK_CLOSE(schedule.factor(static_cast<mf::Index>(step)), expected[step], tight);
}

BOOST_AUTO_TEST_CASE(stable_decay_at_known_points) {
  mf::WarmupStableDecay const schedule{.warmup = 2, .total = 10, .decay = 4, .floor = 0};
  std::vector<double> const expected{0.5, 1, 1, 1, 1, 1, 1, 0.75, 0.5, 0.25, 0, 0};
  for (std::size_t step = 0; step < expected.size(); ++step)
    BOOST_TEST(schedule.factor(static_cast<mf::Index>(step)) == expected[step]);
  // Without a decay the plateau lasts to the end, where the floor takes over.
  mf::WarmupStableDecay const flat{.warmup = 0, .total = 3};
  BOOST_TEST(flat.factor(2) == 1);
  BOOST_TEST(flat.factor(3) == 1);
}

BOOST_AUTO_TEST_CASE(smallest_schedules) {
  BOOST_TEST(mf::WarmupCosine{}.factor(0) == 1);
  BOOST_TEST((mf::WarmupCosine{.warmup = 1, .total = 1}.factor(0)) == 1);
  BOOST_TEST((mf::WarmupLinear{.warmup = 3, .total = 3}.factor(2)) == 1);
}

BOOST_AUTO_TEST_CASE(factors_stay_within_their_bounds) {
  for (mf::Index warmup : {0, 1, 7})
    for (mf::Index total : {7, 8, 31})
      for (double floor : {0.0, 0.1, 1.0})
        for (mf::Index step = 0; step < total + 3; ++step) {
          double const low = step < warmup ? 0 : floor;
          for (double f : {mf::WarmupCosine{warmup, total, floor}.factor(step), mf::WarmupLinear{warmup, total, floor}.factor(step),
                           mf::WarmupStableDecay{warmup, total, total - warmup, floor}.factor(step)}) {
            BOOST_TEST(f >= low);
            BOOST_TEST(f <= 1);
          }
        }
}

BOOST_AUTO_TEST_CASE(numbers_out_of_range_are_named) {
  BOOST_TEST(complaint(mf::WarmupCosine{.warmup = 11, .total = 10}) ==
             "cosine schedule: expected warmup from 0 to total 10, found 11");
  BOOST_TEST(complaint(mf::WarmupLinear{.warmup = 0, .total = 0}) ==
             "linear schedule: expected total of at least 1 step, found 0");
  BOOST_TEST(complaint(mf::WarmupLinear{.total = 5, .floor = 1.5}) == "linear schedule: expected floor from 0 to 1, found 1.5");
  BOOST_TEST(complaint(mf::WarmupStableDecay{.warmup = 3, .total = 5, .decay = 3}) ==
             "stable_decay schedule: expected decay from 0 to total - warmup = 2, found 3");
  BOOST_TEST(complaint(mf::WarmupStableDecay{.warmup = 3, .total = 5, .decay = 2}) == "none");
  BOOST_TEST(complaint(mf::AnySchedule{mf::WarmupCosine{.warmup = -1, .total = 5}}) ==
             "cosine schedule: expected warmup from 0 to total 5, found -1");
}

BOOST_AUTO_TEST_CASE(chosen_at_run_time) {
  mf::AnySchedule schedule;
  BOOST_TEST(mf::policy_choices(schedule) == "cosine, linear, stable_decay, constant");
  BOOST_TEST(mf::choose_policy(schedule, "stable_decay"));
  BOOST_TEST(!mf::choose_policy(schedule, "exponential"));
  std::string keys;
  mf::visit_policy_numbers(schedule, [&](std::string_view key, auto& number) {
    keys += std::string(key) + " ";
    if (key == "total") number = 4;
    if (key == "decay") number = 2;
  });
  BOOST_TEST(keys == "warmup total decay floor ");
  BOOST_TEST(mf::policy_name(schedule) == "stable_decay");
  BOOST_TEST(schedule.factor(3) == 0.5);
}
