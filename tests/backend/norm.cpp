// SPDX-License-Identifier: MIT
// Layer norm: its definition, its gradient against differences in double, large means, null outputs.

#include "primitives.hpp"

#include <moduleformer/backend/cpu/norm.hpp>

#include <boost/test/unit_test.hpp>

#include <tuple>

namespace mf = moduleformer;
using mf::Index;
using mf::test::Array;
using mf::test::random_array;
using mf::test::relative_error;
using mf::test::tolerance;

namespace {

using Scalars = std::tuple<float, double>;

struct Size {
  Index rows, width;
};
constexpr Size sizes[] = {{1, 1}, {1, 7}, {31, 64}, {32, 65}, {33, 257}, {131, 19}};
constexpr double epsilon = 1e-5;

std::vector<double> reference(std::vector<double> const& x, std::vector<double> const& weight,
                              std::vector<double> const& bias) {
  std::size_t const width = weight.size();
  std::vector<double> y(x.size());
  for (std::size_t row = 0; row < x.size(); row += width) {
    double mean = 0, variance = 0;
    for (std::size_t i = 0; i < width; ++i) mean += x[row + i] / static_cast<double>(width);
    for (std::size_t i = 0; i < width; ++i)
      variance += (x[row + i] - mean) * (x[row + i] - mean) / static_cast<double>(width);
    for (std::size_t i = 0; i < width; ++i)
      y[row + i] = (x[row + i] - mean) / std::sqrt(variance + epsilon) * weight[i] + bias[i];
  }
  return y;
}

template <class S>
std::vector<double> in_double(std::vector<S> const& values) {
  return {values.begin(), values.end()};
}

}  // namespace

BOOST_AUTO_TEST_SUITE(backend_norm)

BOOST_AUTO_TEST_CASE_TEMPLATE(forward, S, Scalars) {
  for (Size const& size : sizes) {
    Index const rows = size.rows, width = size.width;
    auto x = random_array<S>(1, rows, width);
    auto const weight = random_array<S>(2, width), bias = random_array<S>(3, width);
    for (double const mean : {0.0, 1000.0}) {  // E[x^2] - E[x]^2 would fail for the second
      for (S& value : x.values()) value += static_cast<S>(mean);
      auto const found = mf::test::run<S>([&](mf::Cpu<S>& backend) {
        Array<S, 2> y(rows, width);
        layer_norm(backend, x.view(), weight.view(), bias.view(), epsilon, y.view(), {}, {});
        return y.values();
      });
      auto const expected = reference(in_double(x.values()), in_double(weight.values()), in_double(bias.values()));
      BOOST_TEST(relative_error(found, expected) < tolerance<S> * (mean > 0 ? 100 : 1),
                 "rows " << rows << " width " << width);
    }
  }
}

BOOST_AUTO_TEST_CASE(backward_is_the_derivative) {
  for (Size const& size : {Size{1, 3}, Size{33, 5}, Size{3, 17}}) {
    Index const rows = size.rows, width = size.width;
    auto const x = random_array<double>(1, rows, width), dy = random_array<double>(4, rows, width);
    auto const weight = random_array<double>(2, width), bias = random_array<double>(3, width);
    mf::Cpu<double> backend{2};
    Array<double, 2> y(rows, width), dx(rows, width);
    Array<double, 1> mean(rows), inverse(rows), dweight(width), dbias(width);
    layer_norm(backend, x.view(), weight.view(), bias.view(), epsilon, y.view(), mean.view(), inverse.view());
    layer_norm_backward(backend, dy.view(), x.view(), weight.view(), mean.view(), inverse.view(), dx.view(),
                        dweight.view(), dbias.view());
    auto const loss = [&](std::vector<double> const& a, std::vector<double> const& b, std::vector<double> const& c) {
      auto const out = reference(a, b, c);
      double sum = 0;
      for (std::size_t i = 0; i < out.size(); ++i) sum += out[i] * dy.values()[i];
      return sum;
    };
    auto const differences = [&](int which) {
      std::vector<double> arguments[3] = {x.values(), weight.values(), bias.values()}, result;
      for (std::size_t i = 0; i < arguments[which].size(); ++i) {
        double const old = arguments[which][i], step = 1e-5;
        arguments[which][i] = old + step;
        double const above = loss(arguments[0], arguments[1], arguments[2]);
        arguments[which][i] = old - step;
        result.push_back((above - loss(arguments[0], arguments[1], arguments[2])) / (2 * step));
        arguments[which][i] = old;
      }
      return result;
    };
    BOOST_TEST(relative_error(dx.values(), differences(0)) < 1e-7);
    BOOST_TEST(relative_error(dweight.values(), differences(1)) < 1e-7);
    BOOST_TEST(relative_error(dbias.values(), differences(2)) < 1e-7);
  }
}

BOOST_AUTO_TEST_CASE_TEMPLATE(backward_accumulates_and_skips_what_is_null, S, Scalars) {
  for (Size const& size : sizes) {
    Index const rows = size.rows, width = size.width;
    auto const x = random_array<double>(1, rows, width), dy = random_array<double>(4, rows, width);
    auto const weight = random_array<double>(2, width), bias = random_array<double>(3, width);
    // The double result on one thread, all outputs from zero, which the test above compares with differences.
    mf::Cpu<double> plain{1};
    Array<double, 2> y(rows, width), dx(rows, width);
    Array<double, 1> mean(rows), inverse(rows), dweight(width), dbias(width);
    layer_norm(plain, x.view(), weight.view(), bias.view(), epsilon, y.view(), mean.view(), inverse.view());
    layer_norm_backward(plain, dy.view(), x.view(), weight.view(), mean.view(), inverse.view(), dx.view(),
                        dweight.view(), dbias.view());
    auto const cast = [](auto const& from) {
      auto to = random_array<S>(1, from.view().size());
      for (std::size_t i = 0; i < to.values().size(); ++i) to.values()[i] = static_cast<S>(from.values()[i]);
      return to;
    };
    auto const x_s = cast(x), dy_s = cast(dy), weight_s = cast(weight), mean_s = cast(mean), inverse_s = cast(inverse);
    auto const gradient = [&](int wanted) {
      return mf::test::run<S>([&](mf::Cpu<S>& backend) {
        auto found = random_array<S>(9, wanted == 0 ? rows * width : width);
        std::fill(found.values().begin(), found.values().end(), S(1));
        auto const out = found.view();
        layer_norm_backward(backend, dy_s.view().reshape(rows, width), x_s.view().reshape(rows, width), weight_s.view(),
                            mean_s.view(), inverse_s.view(), wanted == 0 ? out.reshape(rows, width) : mf::Matrix<S>{},
                            wanted == 1 ? out : mf::Vector<S>{}, wanted == 2 ? out : mf::Vector<S>{});
        return found.values();
      });
    };
    auto const plus_one = [](std::vector<double> values) {
      for (double& value : values) value += 1;
      return values;
    };
    BOOST_TEST(relative_error(gradient(0), plus_one(dx.values())) < 4 * tolerance<S>,
               "rows " << rows << " width " << width);
    BOOST_TEST(relative_error(gradient(1), plus_one(dweight.values())) < 4 * tolerance<S>);
    BOOST_TEST(relative_error(gradient(2), plus_one(dbias.values())) < 4 * tolerance<S>);
  }
}

BOOST_AUTO_TEST_SUITE_END()
