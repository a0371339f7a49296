// SPDX-License-Identifier: MIT
// AdamW against its formula over several steps, and the squared norm.

#include "primitives.hpp"

#include <moduleformer/backend/cpu/update.hpp>

#include <boost/test/unit_test.hpp>

#include <tuple>

namespace mf = moduleformer;
using mf::Index;
using mf::test::random_array;
using mf::test::relative_error;
using mf::test::tolerance;

namespace {
using Scalars = std::tuple<float, double>;
}

BOOST_AUTO_TEST_SUITE(backend_update)

BOOST_AUTO_TEST_CASE_TEMPLATE(adamw_steps, S, Scalars) {
  for (Index const size : {1, 17, 16384, 16385}) {
    mf::AdamWConstants const constants{.beta1 = 0.9, .beta2 = 0.95, .epsilon = 1e-8, .weight_decay = 0.1};
    double const rate = 3e-3, clip = 0.7;
    auto const start = random_array<S>(1, size);
    auto const found = mf::test::run<S>([&](mf::Cpu<S>& backend) {
      auto w = start;
      mf::test::Array<S, 1> m(size), v(size);
      for (Index t = 1; t <= 3; ++t) {
        mf::AdamWStep const step{rate, 1 - std::pow(0.9, t), 1 - std::pow(0.95, t), clip};
        auto const g = random_array<S>(static_cast<std::uint64_t>(10 + t), size);
        adamw(backend, constants, {&step, {1}}, g.view(), w.view(), {}, m.view(), v.view());
      }
      auto all = w.values();
      all.insert(all.end(), m.values().begin(), m.values().end());
      all.insert(all.end(), v.values().begin(), v.values().end());
      return all;
    });
    auto const n = static_cast<std::size_t>(size);
    std::vector<double> w(start.values().begin(), start.values().end()), m(n), v(n);
    for (int t = 1; t <= 3; ++t) {
      auto const g = random_array<S>(static_cast<std::uint64_t>(10 + t), size);
      for (std::size_t i = 0; i < n; ++i) {
        double const slope = clip * static_cast<double>(g.values()[i]);
        m[i] = constants.beta1 * m[i] + (1 - constants.beta1) * slope;
        v[i] = constants.beta2 * v[i] + (1 - constants.beta2) * slope * slope;
        double const unbiased = m[i] / (1 - std::pow(constants.beta1, t)), square = v[i] / (1 - std::pow(constants.beta2, t));
        w[i] -= rate * (unbiased / (std::sqrt(square) + constants.epsilon) + constants.weight_decay * w[i]);
      }
    }
    auto const part = [&](std::size_t k) {
      auto const from = found.begin() + static_cast<std::ptrdiff_t>(k * n);
      return std::vector<S>(from, from + size);
    };
    BOOST_TEST(relative_error(part(0), w) < tolerance<S>);
    BOOST_TEST(relative_error(part(1), m) < tolerance<S>);
    BOOST_TEST(relative_error(part(2), v) < tolerance<S>);
  }
}

BOOST_AUTO_TEST_CASE_TEMPLATE(square_roots, S, Scalars) {
  BOOST_TEST(mf::detail::fast_sqrt(S(0)) == S(0));
  for (int exponent = -60; exponent <= 60; ++exponent)
    for (int i = 0; i < 64; ++i) {
      S const x = std::ldexp(S(1) + S(i) / S(64), exponent), root = std::sqrt(x);
      BOOST_TEST(std::abs(mf::detail::fast_sqrt(x) - root) <= 4 * std::numeric_limits<S>::epsilon() * root);
    }
}

BOOST_AUTO_TEST_CASE(nothing_changes_by_a_factor_that_is_not_finite) {
  mf::Cpu<float> backend{2};
  auto const start = random_array<float>(1, 40000), g = random_array<float>(2, 40000);
  for (double const factor : {std::nan(""), HUGE_VAL}) {
    auto w = start, m = start, v = start;
    mf::AdamWStep const step{.learning_rate = 1, .clip = factor};
    adamw(backend, {}, {&step, {1}}, g.view(), w.view(), {}, m.view(), v.view());
    BOOST_TEST((w.values() == start.values() && m.values() == start.values() && v.values() == start.values()));
  }
}

BOOST_AUTO_TEST_CASE_TEMPLATE(norm_squared, S, Scalars) {
  for (Index const size : {0, 1, 4095, 4096, 4097, 20000}) {
    auto const x = random_array<S>(1, size);
    double expected = 0;
    for (S const value : x.values()) expected += static_cast<double>(value) * static_cast<double>(value);
    mf::Cpu<S> one{1}, three{3};
    mf::test::Array<double, 1> found(1), again(1);
    squared_norm(one, x.view(), found.view());
    squared_norm(three, x.view(), again.view());
    BOOST_TEST(std::abs(found(0) - expected) <= 1e-13 * expected);
    BOOST_TEST(again(0) == found(0));
    squared_norm(one, x.view(), found.view());
    BOOST_TEST(found(0) == 2 * again(0));  // added
  }
}

BOOST_AUTO_TEST_SUITE_END()
