// SPDX-License-Identifier: MIT
#pragma once
// Suite: AdamW against its formula over several steps, its copy in the backend's scalar, factors that are not finite,
// and the squared norm.

#include "support.hpp"

#include <moduleformer/backend/cuda/update.cuh>
#include <moduleformer/core/error.hpp>

#include <boost/test/unit_test.hpp>

#include <cmath>

namespace moduleformer::test {

BOOST_AUTO_TEST_CASE_TEMPLATE(adamw_steps, B, Backends) {
  using S = typename B::Scalar;
  for (Index const size : {0, 1, 17, 1024, 1025, 5003})
    for (Index const offset : {0, 1}) {
      AdamWConstants const constants{.beta1 = 0.9, .beta2 = 0.95, .epsilon = 1e-8, .weight_decay = 0.1};
      double const rate = 3e-3, clip = 0.7;
      auto const start = normal_numbers<float>(size + offset, 1);
      auto const gradient = [&](Index t) {
        return normal_numbers<float>(size + offset, static_cast<std::uint64_t>(10 + t));
      };
      auto const found = in_all_orders<B>([&](Device<B>& device) {
        auto const part = [&](auto const& vector) { return vector.rows(offset, size); };
        auto const w = device.template upload<float>(start), m = device.template allocate<float>(size + offset),
                   v = device.template allocate<float>(size + offset);
        auto const rounded = device.template allocate<S>(size + offset);
        fill(device.backend(), m, 0.0f);
        fill(device.backend(), v, 0.0f);
        fill(device.backend(), rounded, S{});
        for (Index t = 1; t <= 3; ++t) {
          auto const step = device.upload(std::vector<AdamWStep>{{rate, 1 - std::pow(0.9, t), 1 - std::pow(0.95, t), clip}});
          adamw(device.backend(), constants, step, part(device.template upload<float>(gradient(t))), part(w),
                t == 2 ? Vector<S>{} : part(rounded), part(m), part(v));
        }
        auto values = device.download(w);
        for (auto const& more : {device.download(m), device.download(v), device.template download<float>(rounded)})
          values.insert(values.end(), more.begin(), more.end());
        return values;
      });
      auto const n = static_cast<std::size_t>(size + offset);
      std::vector<double> w = start, m(n), v(n);
      for (int t = 1; t <= 3; ++t) {
        auto const g = gradient(t);
        for (std::size_t i = static_cast<std::size_t>(offset); i < n; ++i) {
          double const slope = clip * g[i];
          m[i] = constants.beta1 * m[i] + (1 - constants.beta1) * slope;
          v[i] = constants.beta2 * v[i] + (1 - constants.beta2) * slope * slope;
          double const unbiased = m[i] / (1 - std::pow(constants.beta1, t)), square = v[i] / (1 - std::pow(constants.beta2, t));
          w[i] -= rate * (unbiased / (std::sqrt(square) + constants.epsilon) + constants.weight_decay * w[i]);
        }
      }
      auto const part = [&](std::size_t k) {
        auto const from = found.begin() + static_cast<std::ptrdiff_t>(k * n);
        return std::vector<float>(from, from + static_cast<std::ptrdiff_t>(n));
      };
      BOOST_TEST(relative_error(part(0), w) < 3e-7);
      BOOST_TEST(relative_error(part(1), m) < 1e-6);
      BOOST_TEST(relative_error(part(2), v) < 1e-6);
      auto expected = part(0);  // its copy, but for what lies before the range
      if (offset > 0) expected[0] = 0;
      BOOST_TEST(same_bits(part(3), numbers<float>(numbers<S>(expected))));
    }
}

BOOST_AUTO_TEST_CASE_TEMPLATE(no_step_by_a_factor_that_is_not_finite, B, Backends) {
  using S = typename B::Scalar;
  auto const start = normal_numbers<S>(1500, 1);
  for (double const factor : {std::nan(""), HUGE_VAL, -HUGE_VAL}) {
    Device<B> device;
    auto const w = device.template upload<float>(start), m = device.template upload<float>(start),
               v = device.template upload<float>(start);
    auto const rounded = device.template upload<S>(start);
    adamw(device.backend(), {}, device.upload(std::vector<AdamWStep>{{.learning_rate = 1, .clip = factor}}),
          device.template upload<float>(normal_numbers<float>(1500, 2)), w, rounded, m, v);
    for (auto const& array : {w, m, v}) BOOST_TEST(same_bits(device.template download<double>(array), start));
    BOOST_TEST(same_bits(device.template download<double>(rounded), start));
  }
}

BOOST_AUTO_TEST_CASE_TEMPLATE(adamw_refuses, B, Backends) {
  Device<B> device;
  auto const x = device.template allocate<float>(3);
  auto const step = device.upload(std::vector<AdamWStep>{{}});
  BOOST_CHECK_THROW(adamw(device.backend(), {}, step, x, x, {}, x, x.rows(0, 2)), Error);
  BOOST_CHECK_THROW(
      adamw(device.backend(), {}, step, x, x, device.template allocate<typename B::Scalar>(4), x, x), Error);
}

BOOST_AUTO_TEST_CASE_TEMPLATE(norm_squared, B, Backends) {
  for (Index const size : {0, 1, 4095, 4096, 4097, 50021})
    for (Index const offset : {0, 3}) {
      auto const x = normal_numbers<float>(size + offset, 1);
      auto const found = in_all_orders<B>([&](Device<B>& device) {
        auto const sum = device.upload(std::vector<double>{0.0, 1000.0});
        auto const values = device.template upload<float>(x).rows(offset, size);
        squared_norm(device.backend(), values, sum.rows(0, 1));
        squared_norm(device.backend(), values, sum.rows(1, 1));  // added
        return device.download(sum);
      });
      double expected = 0;
      for (std::size_t i = static_cast<std::size_t>(offset); i < x.size(); ++i) expected += x[i] * x[i];
      BOOST_TEST(std::abs(found[0] - expected) <= 1e-13 * expected);
      BOOST_TEST(found[1] == 1000 + found[0]);
    }
}

}  // namespace moduleformer::test
