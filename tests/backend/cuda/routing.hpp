// SPDX-License-Identifier: MIT
#pragma once
// Suite: softmax with logsumexp, and rows divided by their norms with the gradient of that.

#include "routing_cases.hpp"
#include "support.hpp"

#include <moduleformer/backend/cuda/routing.cuh>

#include <boost/test/unit_test.hpp>

#include <cmath>
#include <limits>
#include <string>
#include <tuple>
#include <utility>
#include <vector>

namespace moduleformer::test {

using RoutingBackend = std::tuple_element_t<0, Backends>;

/// probs, then lse where it is wanted.
inline std::vector<float> softmax_on_device(std::vector<float> const& logits, Index tokens, Index experts,
                                            bool want_lse, bool in_place = false) {
  return in_all_orders<RoutingBackend>([&](Device<RoutingBackend>& device) {
    auto const x = device.upload(logits, tokens, experts);
    auto const probs = in_place ? x : device.template allocate<float>(tokens, experts);
    auto const lse = want_lse ? device.template allocate<float>(tokens) : Vector<float>{};
    softmax(device.backend(), x, probs, lse);
    auto result = device.download(probs);
    if (want_lse)
      for (float const value : device.download(lse)) result.push_back(value);
    return result;
  });
}

BOOST_AUTO_TEST_CASE(softmax_of_all_sizes) {
  for (Index const experts : expert_counts)
    for (Index const tokens : {1, 2, 31, 33, 257, 1000}) {
      if (tokens * experts > 70000) continue;
      auto const logits = numbers<float>(normal_numbers<float>(tokens * experts, 21, 3, 20));
      std::vector<double> probs(logits.size()), lse(static_cast<std::size_t>(tokens));
      for (std::size_t t = 0, i = 0; t < lse.size(); ++t) {
        double sum = 0;
        for (std::size_t e = 0; e < static_cast<std::size_t>(experts); ++e, ++i)
          sum += probs[i] = std::exp(double{logits[i]});
        for (std::size_t e = 1; e <= static_cast<std::size_t>(experts); ++e) probs[i - e] /= sum;
        lse[t] = std::log(sum);
      }
      auto found = softmax_on_device(logits, tokens, experts, true);
      BOOST_TEST((softmax_on_device(logits, tokens, experts, false, true) ==
                  std::vector<float>(found.begin(), found.end() - tokens)));
      std::vector<float> const found_lse(found.end() - tokens, found.end());
      found.resize(logits.size());
      BOOST_TEST(relative_error(found, probs) < 1e-6, tokens << " x " << experts);
      BOOST_TEST(relative_error(found_lse, lse) < 3e-7, tokens << " x " << experts);
    }
}

BOOST_AUTO_TEST_CASE(softmax_of_extreme_logits) {
  constexpr float infinity = std::numeric_limits<float>::infinity();
  auto const found = softmax_on_device({0, -500, 500, 1, -infinity, 1, 3e38f, -3e38f, 3e38f}, 3, 3, true);
  BOOST_TEST(found == (std::vector<float>{0, 0, 1, 0.5f, 0, 0.5f, 0.5f, 0, 0.5f, 500, 1 + std::log(2.0f), 3e38f}),
             boost::test_tools::per_element());
  // A number that is none spoils its own row and no other.
  auto const spoilt = softmax_on_device({0, std::numeric_limits<float>::quiet_NaN(), 0, 0}, 2, 2, false);
  BOOST_TEST((std::isnan(spoilt[0]) && std::isnan(spoilt[1]) && spoilt[2] == 0.5f && spoilt[3] == 0.5f));
}

/// y, norms and dx in one vector.
template <class B>
std::vector<double> normalised_on_device(std::vector<double> const& x, std::vector<double> const& dy, Index rows,
                                         Index width, Index shift = 0) {
  using S = typename B::Scalar;
  return in_all_orders<B>([&](Device<B>& device) {
    // `shift` elements before a matrix make its rows begin where 16 bytes at once are not allowed.
    auto const place = [&](std::vector<double> const& values) {
      auto moved = std::vector<double>(static_cast<std::size_t>(shift));
      moved.insert(moved.end(), values.begin(), values.end());
      return Matrix<S>{device.template upload<S>(moved).data() + shift, {rows, width}};
    };
    auto const in = place(x), slope = place(dy), y = place(x), dx = place(x);
    auto const norms = device.template allocate<float>(rows);
    normalise_rows(device.backend(), in, y, norms);
    normalise_rows_backward(device.backend(), slope, y, norms, dx);
    auto result = device.template download<double>(y);
    for (auto const& part : {device.template download<double>(norms), device.template download<double>(dx)})
      result.insert(result.end(), part.begin(), part.end());
    return result;
  });
}

BOOST_AUTO_TEST_CASE_TEMPLATE(normalised_rows, B, Backends) {
  using S = typename B::Scalar;
  for (auto const& [rows, width] :
       {std::pair<Index, Index>{1, 1}, {2, 7}, {33, 8}, {9, 64}, {31, 100}, {257, 129}, {3, 1024}}) {
    auto const x = normal_numbers<S>(rows * width, 31), dy = normal_numbers<S>(rows * width, 32);
    auto const found = normalised_on_device<B>(x, dy, rows, width);
    BOOST_TEST(relative_error(found, normalised_on_device<B>(x, dy, rows, width, 1)) < 1e-6);
    std::vector<double> y(x.size()), norms, dx(x.size());
    for (std::size_t r = 0; r < static_cast<std::size_t>(rows); ++r) {
      std::size_t const w = static_cast<std::size_t>(width), begin = r * w;
      double square = 0, along = 0;
      for (std::size_t i = begin; i < begin + w; ++i) square += x[i] * x[i];
      double const norm = std::sqrt(square);
      norms.push_back(norm);
      // The gradient belongs to the y that was stored, rounded.
      for (std::size_t i = begin; i < begin + w; ++i)
        y[i] = number<double>(number<S>(x[i] / norm)), along += y[i] * dy[i];
      for (std::size_t i = begin; i < begin + w; ++i) dx[i] = (dy[i] - y[i] * along) / norm;
    }
    auto const end_of_y = found.begin() + static_cast<std::ptrdiff_t>(y.size()), end_of_norms = end_of_y + rows;
    double const error = bound<S>;
    BOOST_TEST(relative_error(std::vector<double>(found.begin(), end_of_y), y) < error, rows << " x " << width);
    BOOST_TEST(relative_error(std::vector<double>(end_of_y, end_of_norms), norms) < 1e-6);
    BOOST_TEST(relative_error(std::vector<double>(end_of_norms, found.end()), dx) < error, rows << " x " << width);
  }
}

BOOST_AUTO_TEST_CASE(tiny_and_huge_rows) {
  // Below the bound a row is divided by it, and its gradient too; squares beyond float's range do no harm.
  auto const found =
      normalised_on_device<RoutingBackend>({0, 0, 3e-13, 4e-13, 3e30, -4e30}, {1, 2, 3, 4, 4e30, 3e30}, 3, 2);
  std::vector<double> const small(found.begin(), found.begin() + 6);
  BOOST_TEST(relative_error(small, std::vector<double>{0, 0, 0.3, 0.4, 0.6, -0.8}) < 1e-6);
  BOOST_TEST((numbers<float>(found)[6] == 1e-12f && numbers<float>(found)[8] == 5e30f));
  BOOST_TEST(relative_error(std::vector<double>(found.end() - 6, found.end()),
                            std::vector<double>{1e12, 2e12, 3e12, 4e12, 0.8, 0.6}) < 1e-6);
}

BOOST_AUTO_TEST_CASE_TEMPLATE(mistakes_in_rows_are_named, B, Backends) {
  Device<B> device;
  auto const says = [](char const* text) {
    return [text](Error const& error) { return std::string(error.what()).find(text) != std::string::npos; };
  };
  auto const logits = device.template allocate<float>(2, 3), other = device.template allocate<float>(3, 2);
  BOOST_CHECK_EXCEPTION(softmax(device.backend(), logits, other, {}), Error,
                        says("softmax: expected probs of 2 x 3, found 3 x 2"));
  auto const x = device.template allocate<typename B::Scalar>(2, 3);
  BOOST_CHECK_EXCEPTION(normalise_rows(device.backend(), x, x, device.template allocate<float>(3)), Error,
                        says("normalise_rows: expected norms of 2, found 3"));
}

}  // namespace moduleformer::test
