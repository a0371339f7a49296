// SPDX-License-Identifier: MIT
#pragma once
// Learning-rate schedules: factor(step) in [0, 1] multiplies the optimizer's rate at the step-th update,
// counted from 0. While step < warmup every schedule that warms up has factor (step + 1) / warmup. After it,
// with x = (step - warmup) / (total - warmup), at most 1:
//   cosine        floor + (1 - floor) (1 + cos(pi x)) / 2               (arXiv 1608.03983, one period)
//   linear        floor + (1 - floor) (1 - x)
//   stable-decay  1, and over the last `decay` steps linearly to floor  (arXiv 2404.06395)

#include <moduleformer/core/dynamic_policy.hpp>
#include <moduleformer/core/error.hpp>
#include <moduleformer/core/types.hpp>

#include <cmath>
#include <concepts>
#include <numbers>
#include <string_view>

namespace moduleformer {

namespace role {
struct Schedule {};  // of the learning rate
}  // namespace role

/// What a trainer asks of a schedule. Those of this file also have a name and a visitor over their numbers.
template <class T>
concept Schedule = requires(T const& schedule, Index step) {
  { schedule.factor(step) } -> std::convertible_to<double>;
};

namespace detail {

/// (step - begin) / length within [0, 1].
constexpr double progress(Index step, Index begin, Index length) {
  if (step <= begin) return 0;
  return step - begin >= length ? 1 : static_cast<double>(step - begin) / static_cast<double>(length);
}

constexpr double warmup_factor(Index step, Index warmup) {
  return static_cast<double>(step + 1) / static_cast<double>(warmup);
}

inline void check_schedule(std::string_view name, Index warmup, Index total, double floor) {
  expects(total > 0, name, " schedule: expected total of at least 1 step, found ", total);
  expects(warmup >= 0 && warmup <= total, name, " schedule: expected warmup from 0 to total ", total, ", found ", warmup);
  expects(floor >= 0 && floor <= 1, name, " schedule: expected floor from 0 to 1, found ", floor);
}

}  // namespace detail

/// The same rate at every step.
struct Constant {
  using Role = role::Schedule;
  static constexpr std::string_view name = "constant";

  [[nodiscard]] constexpr double factor(Index) const { return 1; }
  void check() const {}
};

/// Linear warm-up, then half a cosine down to `floor`, where it stays.
struct WarmupCosine {
  using Role = role::Schedule;
  static constexpr std::string_view name = "cosine";
  Index warmup = 0;  // steps
  Index total = 1;   // steps, warm-up included
  double floor = 0;  // the last factor

  [[nodiscard]] constexpr double factor(Index step) const {
    if (step < warmup) return detail::warmup_factor(step, warmup);
    double const x = detail::progress(step, warmup, total - warmup);
    if (x == 0 || x == 1) return x == 0 ? 1 : floor;
    return floor + (1 - floor) * (1 + std::cos(std::numbers::pi * x)) / 2;
  }
  /// Throws Error naming the number that is out of range.
  void check() const { detail::check_schedule(name, warmup, total, floor); }
  template <class Self, class Visitor>
  static constexpr void visit(Self& self, Visitor&& visit) {
    visit("warmup", self.warmup);
    visit("total", self.total);
    visit("floor", self.floor);
  }
};

/// Linear warm-up, then linearly down to `floor`, where it stays.
struct WarmupLinear {
  using Role = role::Schedule;
  static constexpr std::string_view name = "linear";
  Index warmup = 0;
  Index total = 1;
  double floor = 0;

  [[nodiscard]] constexpr double factor(Index step) const {
    if (step < warmup) return detail::warmup_factor(step, warmup);
    return floor + (1 - floor) * (1 - detail::progress(step, warmup, total - warmup));
  }
  void check() const { detail::check_schedule(name, warmup, total, floor); }
  template <class Self, class Visitor>
  static constexpr void visit(Self& self, Visitor&& visit) {
    visit("warmup", self.warmup);
    visit("total", self.total);
    visit("floor", self.floor);
  }
};

/// Linear warm-up, a long plateau, and a linear end of `decay` steps down to `floor`, where it stays.
struct WarmupStableDecay {
  using Role = role::Schedule;
  static constexpr std::string_view name = "stable_decay";
  Index warmup = 0;
  Index total = 1;
  Index decay = 0;  // steps, the last ones of total
  double floor = 0;

  [[nodiscard]] constexpr double factor(Index step) const {
    if (step < warmup) return detail::warmup_factor(step, warmup);
    return floor + (1 - floor) * (1 - detail::progress(step, total - decay, decay));
  }
  void check() const {
    detail::check_schedule(name, warmup, total, floor);
    expects(decay >= 0 && decay <= total - warmup, name, " schedule: expected decay from 0 to total - warmup = ",
            total - warmup, ", found ", decay);
  }
  template <class Self, class Visitor>
  static constexpr void visit(Self& self, Visitor&& visit) {
    visit("warmup", self.warmup);
    visit("total", self.total);
    visit("decay", self.decay);
    visit("floor", self.floor);
  }
};

/// A schedule chosen at run time: choose_policy(schedule, "cosine"), visit_policy_numbers(schedule, visitor).
struct AnySchedule : AnyOf<WarmupCosine, WarmupLinear, WarmupStableDecay, Constant> {
  using AnyOf::AnyOf;
  [[nodiscard]] double factor(Index step) const {
    return with_policy(*this, [step](auto const& schedule) { return schedule.factor(step); });
  }
  void check() const {
    with_policy(*this, [](auto const& schedule) { schedule.check(); });
  }
};

}  // namespace moduleformer
