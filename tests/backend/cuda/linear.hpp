// SPDX-License-Identifier: MIT
#pragma once
// Suite: dense layers and their gradients on backends of CUDA against double loops: results as the scalar and as
// float, every tile size, rows that are not aligned, integers exactly.

#include "../linear.hpp"
#include "support.hpp"

#include <moduleformer/backend/cuda/linear.cuh>
#include <moduleformer/core/error.hpp>

#include <boost/test/unit_test.hpp>

#include <cmath>
#include <string>
#include <utility>
#include <vector>

namespace moduleformer::test {

/// Few rows; one more or less than whole small and medium tiles; both forms of loading.
constexpr LinearSize tile_sizes[] = {{7, 33, 1200}, {8, 17, 520}, {9, 31, 40}, {15, 63, 65}, {17, 65, 64}, {63, 129, 72}, {65, 64, 127}};
/// Needs large tiles.
constexpr LinearSize large_size{129, 8385, 16};

/// op(a) op(b) in double; a is stored (m,k) or (k,m), b (k,n) or (n,k).
inline std::vector<double> plain_product(std::vector<double> const& a, bool transpose_a, std::vector<double> const& b,
                                         bool transpose_b, Index m, Index n, Index k) {
  std::vector<double> result(static_cast<std::size_t>(m * n));
  for (Index i = 0; i < m; ++i)
    for (Index l = 0; l < k; ++l) {
      double const left = a[static_cast<std::size_t>(transpose_a ? l * m + i : i * k + l)];
      for (Index j = 0; j < n; ++j)
        result[static_cast<std::size_t>(i * n + j)] += left * b[static_cast<std::size_t>(transpose_b ? j * k + l : l * n + j)];
    }
  return result;
}

inline std::vector<LinearSize> all_linear_sizes() {
  std::vector<LinearSize> sizes{std::begin(linear_sizes), std::end(linear_sizes)};
  sizes.insert(sizes.end(), std::begin(tile_sizes), std::end(tile_sizes));
  return sizes;
}

BOOST_AUTO_TEST_CASE(every_tile_size_is_tested) {
  using detail::TileSize;
  BOOST_TEST(detail::has_few_rows(8, 1, 17, 520));
  BOOST_TEST(!detail::has_few_rows(9, 1, 31, 40));
  BOOST_CHECK(detail::product_tile_size(15, 1, 63) == TileSize::small);
  BOOST_CHECK(detail::product_tile_size(17, 1, 65) == TileSize::medium);
  BOOST_CHECK(detail::product_tile_size(129, 1, 8385) == TileSize::large);
  BOOST_TEST(detail::dense_gradient_tiles(16, 24, 2049).parts == 4);
  BOOST_TEST(detail::dense_gradient_tiles(70, 72, 1100).parts == 2);
  BOOST_CHECK(detail::dense_gradient_tiles(70, 72, 1100).size == TileSize::medium);
  BOOST_CHECK(detail::dense_gradient_tiles(1410, 1500, 30).size == TileSize::large);
  BOOST_TEST(detail::dense_gradient_tiles(1030, 1030, 1100).parts == 2);
  BOOST_CHECK(detail::dense_gradient_tiles(1030, 1030, 1100).size == TileSize::large);
}

template <class B>
void check_linear(LinearSize const& size, bool with_bias) {
  using S = typename B::Scalar;
  Index const m = size.m, n = size.n, k = size.k;
  auto const x = normal_numbers<S>(m * k, 1), weight = normal_numbers<S>(n * k, 2), bias = normal_numbers<S>(n, 3);
  auto expected = plain_product(x, false, weight, true, m, n, k);
  if (with_bias)
    for (Index i = 0; i < m * n; ++i) expected[static_cast<std::size_t>(i)] += bias[static_cast<std::size_t>(i % n)];
  auto const run = [&]<class Out>(Out) {
    return in_all_orders<B>([&](Device<B>& device) {
      auto const y = device.template allocate<Out>(m, n);
      linear(device.backend(), device.template upload<S>(x, m, k), device.template upload<S>(weight, n, k),
             with_bias ? device.template upload<S>(bias) : Vector<S const>{}, y);
      return device.download(y);
    });
  };
  BOOST_TEST(relative_error(numbers<double>(run(S{})), expected) < bound<S>, "m " << m << " n " << n << " k " << k);
  if (!with_bias) BOOST_TEST(relative_error(run(0.0f), expected) < bound<float>, "m " << m << " n " << n << " k " << k);
}

template <class B>
void check_input_gradient(LinearSize const& size, bool accumulate) {
  using S = typename B::Scalar;
  Index const m = size.m, k = size.n, n = size.k;
  auto const dy = normal_numbers<S>(m * n, 1), weight = normal_numbers<S>(n * k, 2), before = normal_numbers<S>(m * k, 3);
  auto const found = in_all_orders<B>([&](Device<B>& device) {
    auto const dx = device.template upload<S>(before, m, k);
    linear_input_gradient(device.backend(), device.template upload<S>(dy, m, n), device.template upload<S>(weight, n, k), dx,
                          accumulate);
    return device.download(dx);
  });
  auto expected = plain_product(dy, false, weight, false, m, k, n);
  if (accumulate)
    for (std::size_t i = 0; i < expected.size(); ++i) expected[i] += before[i];
  BOOST_TEST(relative_error(numbers<double>(found), expected) < bound<S>, "m " << m << " n " << n << " k " << k);
}

BOOST_AUTO_TEST_CASE_TEMPLATE(linear_forward, B, Backends) {
  for (auto const& size : all_linear_sizes())
    for (bool const with_bias : {false, true}) check_linear<B>(size, with_bias);
}

BOOST_AUTO_TEST_CASE_TEMPLATE(linear_input_gradients, B, Backends) {
  for (auto const& size : all_linear_sizes())
    for (bool const accumulate : {false, true}) check_input_gradient<B>(size, accumulate);
}

BOOST_AUTO_TEST_CASE_TEMPLATE(linear_in_large_tiles, B, Backends) {
  with_every_product_engine<B>([] {
    check_linear<B>(large_size, true);
    check_input_gradient<B>(large_size, true);
  });
}

// A few rows so long that not every device has the shared memory to hold them.
BOOST_AUTO_TEST_CASE_TEMPLATE(linear_of_few_long_rows, B, Backends) {
  BOOST_TEST(detail::has_few_rows(5, 1, 17, 4096));
  with_every_product_engine<B>([] {
    for (Index const depth : {2900, 4096}) {
      check_linear<B>({5, 17, depth}, true);
      check_input_gradient<B>({5, 17, depth}, true);
    }
  });
}

BOOST_AUTO_TEST_CASE_TEMPLATE(linear_weight_and_bias_gradients_of_some_rows, B, Backends) {
  using S = typename B::Scalar;
  auto sizes = all_linear_sizes();
  sizes.push_back({9, 1410, 1500});  // large tiles
  sizes.push_back({1100, 70, 72});   // two parts
  for (auto const& size : sizes)
    for (bool const all_rows : {false, true}) {
      Index const m = size.m, n = size.n, k = size.k;
      Index const first = all_rows ? 0 : n / 3, count = n - first - (first > 0 ? 1 : 0);  // the last row is frozen too
      auto const dy = normal_numbers<S>(m * n, 1), x = normal_numbers<S>(m * k, 2);
      auto const before = normal_numbers<float>(count * k, 3), bias_before = normal_numbers<float>(count, 4);
      auto const found = in_all_orders<B>([&](Device<B>& device) {
        auto const dweight = device.template upload<float>(before, count, k);
        linear_weight_gradient(device.backend(), device.template upload<S>(dy, m, n), device.template upload<S>(x, m, k), first,
                               dweight);
        return device.download(dweight);
      });
      auto const found_bias = in_all_orders<B>([&](Device<B>& device) {
        auto const dbias = device.template upload<float>(bias_before);
        bias_gradient(device.backend(), device.template upload<S>(dy, m, n), first, dbias);
        return device.download(dbias);
      });
      auto const all = plain_product(dy, true, x, false, n, k, m);
      std::vector<double> expected(all.begin() + first * k, all.begin() + (first + count) * k), expected_bias = bias_before;
      for (std::size_t i = 0; i < expected.size(); ++i) expected[i] += before[i];
      for (Index i = 0; i < m; ++i)
        for (Index j = 0; j < count; ++j)
          expected_bias[static_cast<std::size_t>(j)] += dy[static_cast<std::size_t>(i * n + first + j)];
      BOOST_TEST(relative_error(found, expected) < bound<float>, "m " << m << " n " << n << " k " << k);
      BOOST_TEST(relative_error(found_bias, expected_bias) < bound<float>, "m " << m << " n " << n);
    }
}

// Packs and none, one part and more than are under way together, blocks of columns that are full and not.
BOOST_AUTO_TEST_CASE_TEMPLATE(bias_gradient_of_many_rows, B, Backends) {
  using S = typename B::Scalar;
  for (auto const& size : std::vector<std::pair<Index, Index>>{{1, 8}, {127, 16}, {129, 520}, {300, 257}, {20000, 16}})
    for (Index const first : {0, 1, 8}) {
      Index const m = size.first, n = size.second, count = n - first;
      if (count == 0) continue;
      auto const dy = normal_numbers<S>(m * n, 1);
      auto const before = normal_numbers<float>(count, 4);
      auto const found = in_all_orders<B>([&](Device<B>& device) {
        auto const dbias = device.template upload<float>(before);
        bias_gradient(device.backend(), device.template upload<S>(dy, m, n), first, dbias);
        return device.download(dbias);
      });
      auto expected = before;
      for (Index i = 0; i < m; ++i)
        for (Index j = 0; j < count; ++j)
          expected[static_cast<std::size_t>(j)] += dy[static_cast<std::size_t>(i * n + first + j)];
      BOOST_TEST(relative_error(found, expected) < bound<float>, "m " << m << " n " << n << " first " << first);
    }
}

BOOST_AUTO_TEST_CASE_TEMPLATE(linear_of_rows_that_are_not_aligned, B, Backends) {
  using S = typename B::Scalar;
  Index const n = 72, k = 40;
  auto const once = [&](Index m, Index shift) {
    auto const shifted = [&](Device<B>& device, std::uint64_t seed, Index rows, Index columns) {
      auto values = normal_numbers<S>(rows * columns, seed);
      values.insert(values.begin(), static_cast<std::size_t>(shift), 0.0);
      return Matrix<S>{device.template upload<S>(values).data() + shift, {rows, columns}};
    };
    Device<B> device;
    auto& backend = device.backend();
    auto const x = shifted(device, 1, m, k), weight = shifted(device, 2, n, k), dy = shifted(device, 3, m, n);
    auto const y = shifted(device, 4, m, n), dx = shifted(device, 5, m, k);
    auto const dweight = device.upload(std::vector<float>(static_cast<std::size_t>(n * k)), n, k);
    linear(backend, x, weight, {}, y);
    linear_input_gradient(backend, dy, weight, dx, true);
    linear_weight_gradient(backend, dy, x, 0, dweight);
    auto all = device.template download<float>(y);
    for (float const value : device.template download<float>(dx)) all.push_back(value);
    for (float const value : device.download(dweight)) all.push_back(value);
    return all;
  };
  for (Index const m : {5, 70}) BOOST_TEST(same_bits(once(m, 0), once(m, 1)));
}

BOOST_AUTO_TEST_CASE_TEMPLATE(linear_of_integers_is_exact, B, Backends) {
  using S = typename B::Scalar;
  Index const m = 66, n = 70, k = 130;
  auto const integers = [](Index count, std::uint64_t seed) {
    auto values = normal_numbers<double>(count, seed, 4);
    for (double& x : values) x = std::round(x);
    return values;
  };
  auto const x = integers(m * k, 1), weight = integers(n * k, 2), dy = integers(m * n, 3);
  Device<B> device;
  auto const y = device.template allocate<float>(m, n), dweight = device.upload(std::vector<float>(static_cast<std::size_t>(n * k)), n, k);
  linear(device.backend(), device.template upload<S>(x, m, k), device.template upload<S>(weight, n, k), {}, y);
  linear_weight_gradient(device.backend(), device.template upload<S>(dy, m, n), device.template upload<S>(x, m, k), 0, dweight);
  BOOST_TEST(relative_error(device.download(y), plain_product(x, false, weight, true, m, n, k)) == 0);
  BOOST_TEST(relative_error(device.download(dweight), plain_product(dy, true, x, false, n, k, m)) == 0);
}

BOOST_AUTO_TEST_CASE_TEMPLATE(linear_shapes_that_do_not_fit, B, Backends) {
  using S = typename B::Scalar;
  Device<B> device;
  auto const x = device.template allocate<S>(3, 4), weight = device.template allocate<S>(5, 4), y = device.template allocate<S>(3, 6);
  auto const dweight = device.template allocate<float>(5, 4);
  auto const says = [](std::string const& text) {
    return [text](Error const& error) { return std::string(error.what()) == text; };
  };
  BOOST_CHECK_EXCEPTION(linear(device.backend(), x, weight, {}, y), Error, says("linear: expected y of 3 x 5, found 3 x 6"));
  BOOST_CHECK_EXCEPTION(linear_weight_gradient(device.backend(), y, x, 2, dweight), Error,
                        says("linear_weight_gradient: expected columns 2 to 7 of dy, found 6"));
  Matrix<S> const none{nullptr, {0, 4}}, nothing{nullptr, {0, 5}};
  BOOST_CHECK_NO_THROW(linear(device.backend(), none, weight, {}, nothing));
}

}  // namespace moduleformer::test
