// SPDX-License-Identifier: MIT
// AdamW against the formula written as a loop in double.

#include <moduleformer/backend/cpu.hpp>
#include <moduleformer/core/random.hpp>
#include <moduleformer/training/optimizer.hpp>

#include <boost/test/unit_test.hpp>

#include <cmath>
#include <limits>
#include <map>
#include <string>
#include <span>
#include <vector>

namespace mf = moduleformer;
using mf::Index;

namespace {

/// What update() needs of a model: a table with frozen and partly frozen segments, and values.
template <class S>
struct Parameters {
  Parameters() {
    table_.add({.name = "matrix", .shape = {5, 7}});
    table_.add({.name = "bias", .shape = {17}});
    table_.add({.name = "frozen", .shape = {3, 3}});
    table_.add({.name = "experts", .shape = {6, 4, 3}});
    table_.add({.name = "scalar", .shape = {1}});
    table_.set_trainable(2, 0, 0);
    table_.set_trainable(3, 2, 5);
    arena_.reserve(1000);  // neighbours in memory, as a model's are
    for (std::size_t i = 0; i < table_.count(); ++i) {
      std::size_t const begin = arena_.size();
      for (Index j = 0; j < table_[i].size(); ++j) arena_.push_back(static_cast<S>(number(i, j) + 0.1));
      values.push_back(std::span<S>(arena_).subspan(begin));
    }
  }
  static double number(std::size_t segment, Index i, std::uint32_t step = 0) {
    return 2 * static_cast<double>(mf::to_unit(mf::random_words({9, step, static_cast<std::uint32_t>(segment)},
                                                                static_cast<std::uint64_t>(i))[0])) - 1;
  }
  [[nodiscard]] mf::ParameterTable const& table() const { return table_; }
  mf::Vector<S> writable(std::size_t i) { return {values[i].data(), {table_[i].size()}}; }
  static mf::Vector<S> rounded(std::size_t) { return {}; }

  struct Gradient {
    std::vector<S> arena;
    [[nodiscard]] mf::Vector<S const> segment(mf::Segment const& s) const {
      return {arena.data() + s.gradient_offset, {s.trainable_size()}};
    }
    [[nodiscard]] mf::Vector<S const> values() const { return {arena.data(), {static_cast<Index>(arena.size())}}; }
  };

  mf::ParameterTable table_;
  std::vector<S> arena_;
  std::vector<std::span<S>> values;
};

template <class S>
void compare_with_formula(mf::AdamW const& optimizer, double gradient_scale, double tolerance) {
  Parameters<S> parameters;
  mf::Cpu<S> backend(2);
  mf::AdamWState<mf::Cpu<S>> state(backend, parameters.table());
  // Padding is 0, as a gradient's is.
  typename Parameters<S>::Gradient gradient{std::vector<S>(static_cast<std::size_t>(parameters.table().training_size()))};
  std::vector<std::vector<double>> w, m, v;
  for (auto const& segment : parameters.values) {
    w.emplace_back(segment.begin(), segment.end());
    m.emplace_back(segment.size(), 0.0);
    v.emplace_back(segment.size(), 0.0);
  }
  for (Index step = 1; step <= 5; ++step) {
    double const rate = optimizer.learning_rate / static_cast<double>(step);
    double squares = 0;
    auto g = [&](std::size_t i, Index j) {
      return static_cast<double>(static_cast<S>(gradient_scale * Parameters<S>::number(i, j, static_cast<std::uint32_t>(step))));
    };
    for (std::size_t i = 0; i < parameters.table().count(); ++i) {
      mf::Segment const& s = parameters.table()[i];
      for (Index j = s.trainable_begin * s.row_size(); j < s.trainable_end * s.row_size(); ++j) {
        gradient.arena[static_cast<std::size_t>(s.gradient_offset + j - s.trainable_begin * s.row_size())] =
            static_cast<S>(g(i, j));
        squares += g(i, j) * g(i, j);
      }
    }
    double sum = 0;
    mf::AdamWStep numbers = optimizer.step_numbers(rate, step);
    measure_gradient(backend, optimizer, gradient, {}, {&sum, {1}}, {&numbers, {1}});
    BOOST_CHECK_CLOSE_FRACTION(sum, squares, 2 * tolerance);
    update(backend, optimizer, {&numbers, {1}}, gradient, state, parameters);

    double const c = optimizer.clip_norm > 0 && std::sqrt(squares) > optimizer.clip_norm
                         ? optimizer.clip_norm / (std::sqrt(squares) + 1e-6) : 1.0;
    for (std::size_t i = 0; i < parameters.table().count(); ++i) {
      mf::Segment const& s = parameters.table()[i];
      double const decay = optimizer.decay == mf::Decay::everything || s.shape.size() > 1 ? optimizer.weight_decay : 0;
      for (Index j = 0; j < s.size(); ++j) {
        auto const at = static_cast<std::size_t>(j);
        if (j >= s.trainable_begin * s.row_size() && j < s.trainable_end * s.row_size()) {
          m[i][at] = optimizer.beta1 * m[i][at] + (1 - optimizer.beta1) * c * g(i, j);
          v[i][at] = optimizer.beta2 * v[i][at] + (1 - optimizer.beta2) * c * c * g(i, j) * g(i, j);
          double const mh = m[i][at] / (1 - std::pow(optimizer.beta1, step)), vh = v[i][at] / (1 - std::pow(optimizer.beta2, step));
          w[i][at] -= rate * (mh / (std::sqrt(vh) + optimizer.epsilon) + decay * w[i][at]);
        }
        BOOST_TEST(std::abs(static_cast<double>(parameters.values[i][at]) - w[i][at]) <= tolerance * 2);
      }
    }
  }
}

template <class S>
void compare_with_formula(double tolerance) {
  mf::AdamW optimizer{.learning_rate = 0.05, .weight_decay = 0.3};
  compare_with_formula<S>(optimizer, 3, tolerance);      // clipped
  compare_with_formula<S>(optimizer, 0.01, tolerance);   // not clipped: the norm is below 1
  optimizer.decay = mf::Decay::everything;
  compare_with_formula<S>(optimizer, 3, tolerance);
  optimizer.clip_norm = 0;
  compare_with_formula<S>(optimizer, 3, tolerance);
  optimizer.beta1 = 0;
  optimizer.beta2 = 0.999;
  optimizer.epsilon = 0.1;
  optimizer.weight_decay = 0;
  compare_with_formula<S>(optimizer, 3, tolerance);
}

}  // namespace

BOOST_AUTO_TEST_CASE(formula_in_double) { compare_with_formula<double>(1e-13); }

BOOST_AUTO_TEST_CASE(formula_in_float) { compare_with_formula<float>(2e-6); }

BOOST_AUTO_TEST_CASE(clip_factor_is_that_of_pytorch) {
  auto const factor = [](double clip_norm, double norm, std::vector<double> losses = {}) {
    double const squared = norm * norm;
    mf::AdamWStep step;
    mf::detail::ClipFactor{clip_norm, {losses.data(), {static_cast<Index>(losses.size())}}, &squared, &step}();
    return step.clip;
  };
  BOOST_TEST(factor(2, 1.5) == 1);
  BOOST_TEST(factor(2, 8, {3, -4}) == 2 / (8 + 1e-6));
  BOOST_TEST(factor(2, 2) == 2 / (2 + 1e-6));
  BOOST_TEST(factor(0, 1e9) == 1);
  BOOST_TEST(std::isnan(factor(2, HUGE_VAL)));
  BOOST_TEST(std::isnan(factor(0, std::nan(""))));
  BOOST_TEST(std::isnan(factor(2, 1, {1, HUGE_VAL})));
}

BOOST_AUTO_TEST_CASE(updates_count_from_one) { BOOST_CHECK_THROW((void)mf::AdamW{}.step_numbers(1e-3, 0), mf::Error); }

BOOST_AUTO_TEST_CASE(moments_are_visited_by_name_with_the_rows_they_cover) {
  Parameters<double> parameters;
  mf::Cpu<double> backend(1);
  mf::AdamWState<mf::Cpu<double>> const state(backend, parameters.table());
  std::map<std::string, Index> seen;
  mf::AdamWState<mf::Cpu<double>>::visit(state, parameters.table(), [&](std::string_view name, auto& values) {
    seen[std::string(name)] = values.size();
    for (double const x : values) BOOST_TEST(x == 0);
  });
  std::map<std::string, Index> const expected{{"m.matrix", 35}, {"v.matrix", 35}, {"m.bias", 17}, {"v.bias", 17},
                                              {"m.experts[2:5]", 36}, {"v.experts[2:5]", 36}, {"m.scalar", 1}, {"v.scalar", 1}};
  BOOST_TEST((seen == expected));
}

BOOST_AUTO_TEST_CASE(numbers_out_of_range_are_named) {
  auto complaint = [](mf::AdamW optimizer) -> std::string {
    try {
      optimizer.check();
    } catch (mf::Error const& error) {
      return error.what();
    }
    return "none";
  };
  BOOST_TEST(complaint({}) == "none");
  BOOST_TEST(complaint({.learning_rate = -1}) == "AdamW: learning_rate: expected a finite number from 0, found -1");
  BOOST_TEST(complaint({.beta1 = 1}) == "AdamW: beta1: expected a number in [0, 1), found 1");
  BOOST_TEST(complaint({.beta2 = -0.5}) == "AdamW: beta2: expected a number in [0, 1), found -0.5");
  BOOST_TEST(complaint({.epsilon = 0}) == "AdamW: epsilon: expected a finite number above 0, found 0");
  BOOST_TEST(complaint({.weight_decay = std::nan("")}).find("weight_decay") != std::string::npos);
  BOOST_TEST(complaint({.clip_norm = -2}).find("clip_norm") != std::string::npos);
}
