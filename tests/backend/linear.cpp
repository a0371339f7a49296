// SPDX-License-Identifier: MIT
// Dense products and their gradients against double loops, on one and three threads.

#include "linear.hpp"
#include "primitives.hpp"

#include <moduleformer/backend/cpu/linear.hpp>

#include <boost/test/unit_test.hpp>

#include <tuple>

namespace mf = moduleformer;
using mf::Index;
using mf::test::random_array;
using mf::test::relative_error;
using mf::test::tolerance;

namespace {

using Scalars = std::tuple<float, double>;

}  // namespace

BOOST_AUTO_TEST_SUITE(backend_linear)

BOOST_AUTO_TEST_CASE_TEMPLATE(forward, S, Scalars) {
  for (auto const& size : mf::test::linear_sizes) {
    Index const m = size.m, n = size.n, k = size.k;
    auto const x = random_array<S>(1, m, k), weight = random_array<S>(2, n, k);
    auto const bias = random_array<S>(3, n);
    for (bool const with_bias : {false, true}) {
      auto const found = mf::test::run<S>([&](mf::Cpu<S>& backend) {
        auto y = random_array<S>(4, m, n);
        linear(backend, x.view(), weight.view(), with_bias ? bias.view() : mf::Vector<S const>{}, y.view());
        return y.values();
      });
      auto expected = mf::test::product(x, false, weight, true);
      if (with_bias)
        for (Index i = 0; i < m * n; ++i) expected[static_cast<std::size_t>(i)] += static_cast<double>(bias(i % n));
      BOOST_TEST(relative_error(found, expected) < tolerance<S>, "m " << m << " n " << n << " k " << k);
    }
  }
}

BOOST_AUTO_TEST_CASE_TEMPLATE(input_gradient, S, Scalars) {
  for (auto const& size : mf::test::linear_sizes)
    for (bool const accumulate : {false, true}) {
      Index const m = size.m, n = size.n, k = size.k;
      auto const dy = random_array<S>(1, m, n), weight = random_array<S>(2, n, k), before = random_array<S>(3, m, k);
      auto const found = mf::test::run<S>([&](mf::Cpu<S>& backend) {
        auto dx = before;
        linear_input_gradient(backend, dy.view(), weight.view(), dx.view(), accumulate);
        return dx.values();
      });
      auto expected = mf::test::product(dy, false, weight, false);
      if (accumulate)
        for (std::size_t i = 0; i < expected.size(); ++i) expected[i] += static_cast<double>(before.values()[i]);
      BOOST_TEST(relative_error(found, expected) < tolerance<S>, "m " << m << " n " << n << " k " << k);
    }
}

BOOST_AUTO_TEST_CASE_TEMPLATE(weight_and_bias_gradient_of_some_rows, S, Scalars) {
  for (auto const& size : mf::test::linear_sizes)
    for (bool const all_rows : {false, true}) {
      Index const m = size.m, n = size.n, k = size.k, first = all_rows ? 0 : n / 3;
      Index const count = n - first - (first > 0 ? 1 : 0);  // the last row is frozen too
      auto const dy = random_array<S>(1, m, n), x = random_array<S>(2, m, k);
      auto const before = random_array<S>(3, count, k);
      auto const bias_before = random_array<S>(4, count);
      auto const found = mf::test::run<S>([&](mf::Cpu<S>& backend) {
        auto dweight = before;
        linear_weight_gradient(backend, dy.view(), x.view(), first, dweight.view());
        return dweight.values();
      });
      auto const found_bias = mf::test::run<S>([&](mf::Cpu<S>& backend) {
        auto dbias = bias_before;
        bias_gradient(backend, dy.view(), first, dbias.view());
        return dbias.values();
      });
      auto const all = mf::test::product(dy, true, x, false);
      std::vector<double> expected(all.begin() + first * k, all.begin() + (first + count) * k), expected_bias;
      for (std::size_t i = 0; i < expected.size(); ++i) expected[i] += static_cast<double>(before.values()[i]);
      for (Index j = 0; j < count; ++j) {
        expected_bias.push_back(static_cast<double>(bias_before(j)));
        for (Index i = 0; i < m; ++i) expected_bias.back() += static_cast<double>(dy(i, first + j));
      }
      BOOST_TEST(relative_error(found, expected) < tolerance<S>, "m " << m << " n " << n << " k " << k);
      BOOST_TEST(relative_error(found_bias, expected_bias) < tolerance<S>);
    }
}

BOOST_AUTO_TEST_CASE(small_outputs_are_cut_along_the_sum) {
  BOOST_TEST(mf::detail::contraction_parts(64, 256, 2048) > 1);
  BOOST_TEST(mf::detail::contraction_parts(64, 256, 100) == 1);
  BOOST_TEST(mf::detail::contraction_parts(1024, 1024, 2048) == 1);
}

BOOST_AUTO_TEST_CASE(shapes_that_do_not_fit) {
  mf::Cpu<float> backend{1};
  auto x = random_array<float>(1, 3, 4), weight = random_array<float>(2, 5, 4), y = random_array<float>(3, 3, 6);
  auto const says = [](std::string const& text) {
    return [text](mf::Error const& error) { return std::string(error.what()) == text; };
  };
  BOOST_CHECK_EXCEPTION(linear(backend, x.view(), weight.view(), {}, y.view()), mf::Error,
                        says("linear: expected y of 3 x 5, found 3 x 6"));
  BOOST_CHECK_EXCEPTION(linear_weight_gradient(backend, y.view(), x.view(), 2, weight.view()), mf::Error,
                        says("linear_weight_gradient: expected columns 2 to 7 of dy, found 6"));
}

BOOST_AUTO_TEST_SUITE_END()
