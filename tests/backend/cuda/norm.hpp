// SPDX-License-Identifier: MIT
#pragma once
// Suite: layer norm and its gradient against their formulas in double: rows that a warp, a block, or neither holds,
// large means, several rows for a block's parts, null outputs, sums that are added to; and the same of sums over slots.

#include "support.hpp"

#include <moduleformer/backend/cuda/norm.cuh>
#include <moduleformer/core/error.hpp>

#include <boost/test/unit_test.hpp>

#include <algorithm>
#include <cmath>

namespace moduleformer::test {

struct NormSize {
  Index rows, width;
};
constexpr double norm_epsilon = 1e-5;

/// Statistics, results and gradients of one layer norm in double.
struct NormReference {
  std::vector<double> y, mean, inverse, dx, dweight, dbias;

  NormReference(std::vector<double> const& x, std::vector<double> const& weight, std::vector<double> const& bias,
                std::vector<double> const& dy)
      : y(x.size()), dx(x.size()), dweight(weight.size()), dbias(weight.size()) {
    std::size_t const width = weight.size();
    double const count = static_cast<double>(width);
    std::vector<double> scaled(width);
    for (std::size_t row = 0; row < x.size(); row += width) {
      double centre = 0, variance = 0, g_mean = 0, gx_mean = 0;
      for (std::size_t i = 0; i < width; ++i) centre += x[row + i] / count;
      for (std::size_t i = 0; i < width; ++i) variance += (x[row + i] - centre) * (x[row + i] - centre) / count;
      double const scale = 1 / std::sqrt(variance + norm_epsilon);
      mean.push_back(centre);
      inverse.push_back(scale);
      for (std::size_t i = 0; i < width; ++i) {
        scaled[i] = (x[row + i] - centre) * scale;
        y[row + i] = scaled[i] * weight[i] + bias[i];
        g_mean += dy[row + i] * weight[i] / count;
        gx_mean += dy[row + i] * weight[i] * scaled[i] / count;
        dweight[i] += dy[row + i] * scaled[i];
        dbias[i] += dy[row + i];
      }
      for (std::size_t i = 0; i < width; ++i)
        dx[row + i] = scale * (dy[row + i] * weight[i] - g_mean - scaled[i] * gx_mean);
    }
  }
};

/// A host array in a backend's memory, `offset` elements after an aligned place.
template <class T, class B>
Vector<T> shifted(Device<B>& device, std::vector<double> values, Index offset) {
  values.insert(values.begin(), static_cast<std::size_t>(offset), 0.0);
  return device.template upload<T>(values).rows(offset, static_cast<Index>(values.size()) - offset);
}

inline std::vector<double> plus(std::vector<double> values, std::vector<double> const& more) {
  for (std::size_t i = 0; i < values.size(); ++i) values[i] += more[i];
  return values;
}

template <class S>
double norm_error(std::vector<S> const& found, std::vector<double> const& expected) {
  return relative_error(numbers<double>(found), expected);
}

BOOST_AUTO_TEST_CASE_TEMPLATE(layer_norm_of_rows, B, Backends) {
  using S = typename B::Scalar;
  for (NormSize const& size : {NormSize{0, 5}, NormSize{1, 1}, NormSize{5, 7}, NormSize{9, 64}, NormSize{3, 257},
                               NormSize{5, 1024}, NormSize{2, 1031}, NormSize{2, 1032}, NormSize{1, 8200}})
    for (Index const offset : {0, 1})
      for (double const mean : {0.0, 1000.0}) {  // E[x^2] - E[x]^2 would fail for the second
        if (mean > 0 && std::is_same_v<S, bfloat16>) continue;  // whose numbers near 1000 are 4 apart
        Index const rows = size.rows, width = size.width;
        auto const x = normal_numbers<S>(rows * width, 1, 1, mean), weight = normal_numbers<S>(width, 2),
                   bias = normal_numbers<S>(width, 3);
        NormReference const expected(x, weight, bias, x);
        auto const found = in_all_orders<B>([&](Device<B>& device) {
          auto const y = shifted<S>(device, x, offset).reshape(rows, width);
          auto const statistics = device.template allocate<float>(2, rows);
          layer_norm(device.backend(), y, shifted<S>(device, weight, offset), shifted<S>(device, bias, offset),
                     norm_epsilon, y, statistics.slice(0), statistics.slice(1));  // in place
          auto values = device.template download<float>(y);
          for (float const s : device.download(statistics)) values.push_back(s);
          return values;
        });
        auto const part = [&](Index begin, Index count) {
          return std::vector<float>(found.begin() + begin, found.begin() + begin + count);
        };
        BOOST_TEST(norm_error(part(0, rows * width), expected.y) < (std::is_same_v<S, float> ? 2e-6 : 4e-3),
                   rows << " x " << width << " mean " << mean);
        double mean_error = 0;  // relative to the deviation, 1, or the mean
        for (std::size_t r = 0; r < expected.mean.size(); ++r)
          mean_error = std::max(
              mean_error,
              std::abs(static_cast<double>(found[static_cast<std::size_t>(rows * width) + r]) - expected.mean[r]) /
                  (1 + mean));
        BOOST_TEST(mean_error < 2e-7);
        BOOST_TEST(norm_error(part(rows * width + rows, rows), expected.inverse) < 2e-6);
        auto const alone = in_all_orders<B>([&](Device<B>& device) {
          auto const y = device.template allocate<S>(rows, width);
          layer_norm(device.backend(), shifted<S>(device, x, offset).reshape(rows, width),
                     device.template upload<S>(weight), device.template upload<S>(bias), norm_epsilon, y, {}, {});
          return device.template download<float>(y);
        });
        BOOST_TEST(same_bits(alone, part(0, rows * width)));
      }
}

BOOST_AUTO_TEST_CASE_TEMPLATE(layer_norm_gradients, B, Backends) {
  using S = typename B::Scalar;
  // 8 rows for a block of fewer than 4096 rows; beyond 5120 columns parts no longer fit in shared memory.
  for (NormSize const& size :
       {NormSize{0, 5}, NormSize{1, 1}, NormSize{1, 7}, NormSize{8, 64}, NormSize{9, 65}, NormSize{33, 257},
        NormSize{131, 19}, NormSize{17, 1032}, NormSize{10, 5203}, NormSize{4103, 3}})
    for (Index const offset : {0, 1}) {
      Index const rows = size.rows, width = size.width;
      if (rows * width > 20000 && offset > 0) continue;
      auto const x = normal_numbers<S>(rows * width, 1, 1, 0.3), dy = normal_numbers<S>(rows * width, 4),
                 weight = normal_numbers<S>(width, 2), old = normal_numbers<S>(rows * width, 5),
                 old_weight = normal_numbers<float>(width, 6), old_bias = normal_numbers<float>(width, 7);
      NormReference const expected(x, weight, weight, dy);
      auto const run = [&](bool want_dx, bool want_weight, bool want_bias) {
        return in_all_orders<B>([&](Device<B>& device) {
          auto const dx = shifted<S>(device, old, offset).reshape(rows, width);
          auto const dweight = shifted<float>(device, old_weight, offset),
                     dbias = shifted<float>(device, old_bias, offset);
          layer_norm_backward(device.backend(), shifted<S>(device, dy, offset).reshape(rows, width),
                              shifted<S>(device, x, offset).reshape(rows, width), shifted<S>(device, weight, offset),
                              device.template upload<float>(expected.mean),
                              device.template upload<float>(expected.inverse), want_dx ? dx : Matrix<S>{},
                              want_weight ? dweight : Vector<float>{}, want_bias ? dbias : Vector<float>{});
          auto values = device.template download<float>(dx);
          for (float const d : device.download(dweight)) values.push_back(d);
          for (float const d : device.download(dbias)) values.push_back(d);
          return values;
        });
      };
      auto const split = [&](std::vector<float> const& values) {
        auto const at = [&](Index i) { return values.begin() + i; };
        Index const n = rows * width;
        return std::vector<std::vector<float>>{
            {at(0), at(n)}, {at(n), at(n + width)}, {at(n + width), at(n + 2 * width)}};
      };
      auto const all = split(run(true, true, true));
      double const sums_bound = 4e-6;
      BOOST_TEST(norm_error(all[0], plus(expected.dx, old)) < (std::is_same_v<S, float> ? 2e-6 : 4e-3),
                 rows << " x " << width);
      BOOST_TEST(norm_error(all[1], plus(expected.dweight, old_weight)) < sums_bound, rows << " x " << width);
      BOOST_TEST(norm_error(all[2], plus(expected.dbias, old_bias)) < sums_bound, rows << " x " << width);
      if (offset > 0 || rows * width > 9000) continue;
      // One output at a time: the same bits; the others stay.
      for (std::size_t wanted = 0; wanted < 4; ++wanted) {
        auto const some = split(run(wanted == 0, wanted == 1, wanted == 2));
        std::vector<double> const untouched[] = {old, old_weight, old_bias};
        for (std::size_t i = 0; i < 3; ++i)
          BOOST_TEST(same_bits(some[i], i == wanted ? all[i] : numbers<float>(untouched[i])));
      }
    }
}

BOOST_AUTO_TEST_CASE_TEMPLATE(layer_norm_of_slots_is_combine_then_layer_norm, B, Backends) {
  using S = typename B::Scalar;
  for (NormSize const& size : {NormSize{0, 5}, NormSize{1, 1}, NormSize{5, 7}, NormSize{9, 64}, NormSize{3, 257},
                               NormSize{2, 1032}, NormSize{1, 8200}})
    for (Index const offset : {0, 1})
      for (Index const slots : {1, 2, 3})
        for (float const probability : {0.0f, 0.3f}) {
          Index const rows = size.rows, width = size.width;
          if (rows * width > 2000 && (offset > 0 || slots != 2)) continue;
          auto const y = normal_numbers<S>(rows * slots * width, 1), residual = normal_numbers<S>(rows * width, 2),
                     weight = normal_numbers<S>(width, 3), bias = normal_numbers<S>(width, 4);
          auto const outputs = [&](bool together) {
            return in_all_orders<B>([&](Device<B>& device) {
              auto const h = shifted<S>(device, residual, offset).reshape(rows, width);  // in place
              auto const branch = shifted<S>(device, y, offset).reshape(rows * slots, width);
              auto const w = shifted<S>(device, weight, offset), b = shifted<S>(device, bias, offset);
              auto const out = device.template allocate<S>(rows, width);
              auto const statistics = device.template allocate<float>(2, rows);
              Dropout const drop{{device.upload(std::vector<RandomKey>{{5, 2, 0}}).data(), 9}, probability};
              if (together) {
                combine_layer_norm(device.backend(), slots, branch, drop, h, w, b, norm_epsilon, h, out,
                                   statistics.slice(0), statistics.slice(1));
              } else {
                combine(device.backend(), slots, branch, drop, h, h);
                layer_norm(device.backend(), h, w, b, norm_epsilon, out, statistics.slice(0), statistics.slice(1));
              }
              auto values = device.template download<float>(h);
              for (auto const& more : {device.template download<float>(out), device.download(statistics)})
                values.insert(values.end(), more.begin(), more.end());
              return values;
            });
          };
          BOOST_TEST(same_bits(outputs(true), outputs(false)), rows << " x " << width << " slots " << slots);
        }
}

BOOST_AUTO_TEST_CASE_TEMPLATE(layer_norm_gradients_of_slots, B, Backends) {
  using S = typename B::Scalar;
  for (NormSize const& size :
       {NormSize{0, 5}, NormSize{1, 7}, NormSize{9, 65}, NormSize{33, 256}, NormSize{9, 1032}, NormSize{3, 5203}})
    for (Index const slots : {1, 2, 3}) {
      Index const rows = size.rows, width = size.width;
      auto const x = normal_numbers<S>(rows * width, 1, 1, 0.3), residual = normal_numbers<S>(rows * width, 2),
                 y = normal_numbers<S>(rows * slots * width, 3), weight = normal_numbers<S>(width, 4),
                 old = normal_numbers<S>(rows * width, 5), zero = std::vector<double>(static_cast<std::size_t>(width));
      auto dy = residual;
      for (Index i = 0; i < rows * width; ++i)
        for (Index s = 0; s < slots; ++s)
          dy[static_cast<std::size_t>(i)] += y[static_cast<std::size_t>((i / width * slots + s) * width + i % width)];
      NormReference const expected(x, weight, weight, dy);
      auto const found = in_all_orders<B>([&](Device<B>& device) {
        auto const dx = device.template upload<S>(old, rows, width);
        auto const dweight = device.template upload<float>(zero), dbias = device.template upload<float>(zero);
        combine_layer_norm_backward(device.backend(), slots, device.template upload<S>(y, rows * slots, width),
                                    device.template upload<S>(residual, rows, width),
                                    device.template upload<S>(x, rows, width), device.template upload<S>(weight),
                                    device.template upload<float>(expected.mean),
                                    device.template upload<float>(expected.inverse), dx, dweight, dbias);
        auto values = device.template download<float>(dx);
        for (auto const& more : {device.download(dweight), device.download(dbias)})
          values.insert(values.end(), more.begin(), more.end());
        return values;
      });
      auto const part = [&](Index begin, Index count) {
        return std::vector<float>(found.begin() + begin, found.begin() + begin + count);
      };
      // Nothing is rounded to S but dx.
      BOOST_TEST(norm_error(part(0, rows * width), plus(expected.dx, old)) < (std::is_same_v<S, float> ? 2e-6 : 4e-3),
                 rows << " x " << width << " slots " << slots);
      BOOST_TEST(norm_error(part(rows * width, width), expected.dweight) < 4e-6);
      BOOST_TEST(norm_error(part(rows * width + width, width), expected.dbias) < 4e-6);
    }
}

BOOST_AUTO_TEST_CASE_TEMPLATE(layer_norm_refuses, B, Backends) {
  using S = typename B::Scalar;
  Device<B> device;
  auto const x = device.template allocate<S>(2, 3), other = device.template allocate<S>(3, 2);
  auto const weight = device.template allocate<S>(3), wide = device.template allocate<S>(4);
  auto const sums = device.template allocate<float>(2), few = device.template allocate<float>(1);
  BOOST_CHECK_EXCEPTION(layer_norm(device.backend(), x, weight, wide, 1e-5, x, {}, {}), Error, [](Error const& error) {
    return std::string(error.what()) == "layer_norm: expected bias of 3, found 4";
  });
  BOOST_CHECK_THROW(layer_norm(device.backend(), x, weight, weight, 1e-5, other, {}, {}), Error);
  BOOST_CHECK_THROW(layer_norm(device.backend(), x, weight, weight, 1e-5, x, few, {}), Error);
  BOOST_CHECK_THROW(layer_norm_backward(device.backend(), x, x, weight, sums, few, x, {}, {}), Error);
  BOOST_CHECK_THROW(layer_norm_backward(device.backend(), x, x, weight, sums, sums, other, {}, {}), Error);
  BOOST_CHECK_THROW(combine_layer_norm(device.backend(), 2, x, {}, x, weight, weight, 1e-5, x, x, {}, {}), Error);
  BOOST_CHECK_THROW(combine_layer_norm_backward(device.backend(), 1, x, other, x, weight, sums, sums, x, {}, {}),
                    Error);
}

}  // namespace moduleformer::test
