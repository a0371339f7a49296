// SPDX-License-Identifier: MIT
#pragma once
// Numeric gradients: central differences of a scalar function against what backward says, in double.

#include <boost/test/unit_test.hpp>

#include <algorithm>
#include <cmath>
#include <functional>
#include <span>
#include <string>
#include <vector>

namespace moduleformer::test {

/// Checks d f / d x_i = analytic_i for up to `samples` evenly spread i, relative to the largest of them.
inline void check_gradient(std::string const& what, std::span<double> x, std::span<double const> analytic,
                           std::function<double()> const& f, double tolerance = 2e-7, std::size_t samples = 40) {
  BOOST_REQUIRE_EQUAL(x.size(), analytic.size());
  double scale = 1e-3;
  for (double const a : analytic) scale = std::max(scale, std::abs(a));
  std::size_t const stride = std::max<std::size_t>(1, x.size() / samples);
  for (std::size_t i = 0; i < x.size(); i += stride) {
    double const kept = x[i], h = 1e-5 * std::max(1.0, std::abs(kept));
    x[i] = kept + h;
    double const above = f();
    x[i] = kept - h;
    double const below = f();
    x[i] = kept;
    double const numeric = (above - below) / (2 * h);
    BOOST_TEST(std::abs(numeric - analytic[i]) <= tolerance * scale,
               what << "[" << i << "]: backward says " << analytic[i] << ", differences say " << numeric << " (scale " << scale
                    << ")");
  }
}

}  // namespace moduleformer::test
