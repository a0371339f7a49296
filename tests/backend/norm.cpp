// SPDX-License-Identifier: MIT
// Layer norm: its definition, its gradient against differences in double, large means, null outputs; sums over slots
// give the bits of combine and layer norm one after the other.

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

BOOST_AUTO_TEST_CASE_TEMPLATE(of_slots_it_is_combine_then_layer_norm, S, Scalars) {
  for (Size const& size : sizes)
    for (Index const slots : {1, 2, 5})
      for (float const probability : {0.0f, 0.3f}) {
        Index const rows = size.rows, width = size.width;
        mf::RandomKey const key{5, 2, 0};
        mf::Dropout const drop{{&key, 9}, probability};
        auto const y = random_array<S>(1, rows * slots, width), residual = random_array<S>(2, rows, width);
        auto const weight = random_array<S>(3, width), bias = random_array<S>(4, width);
        auto const outputs = [&](auto const& compute) {
          return mf::test::run<S>([&](mf::Cpu<S>& backend) {
            Array<S, 2> h = residual, out(rows, width);  // in place
            Array<S, 1> mean(rows), inverse(rows);
            compute(backend, h.view(), out.view(), mean.view(), inverse.view());
            std::vector<S> all;
            for (auto const* values : {&h.values(), &out.values(), &mean.values(), &inverse.values()})
              all.insert(all.end(), values->begin(), values->end());
            return all;
          });
        };
        using Matrix = mf::Matrix<S>;
        using Vector = mf::Vector<S>;
        auto const apart = outputs([&](mf::Cpu<S>& backend, Matrix h, Matrix out, Vector mean, Vector inverse) {
          combine(backend, slots, y.view(), drop, h, h);
          layer_norm(backend, h, weight.view(), bias.view(), epsilon, out, mean, inverse);
        });
        auto const together = outputs([&](mf::Cpu<S>& backend, Matrix h, Matrix out, Vector mean, Vector inverse) {
          combine_layer_norm(backend, slots, y.view(), drop, h, weight.view(), bias.view(), epsilon, h, out, mean,
                             inverse);
        });
        BOOST_TEST(apart == together, "rows " << rows << " width " << width << " slots " << slots);
      }
}

BOOST_AUTO_TEST_CASE_TEMPLATE(backward_of_slots_is_combine_then_backward, S, Scalars) {
  for (Size const& size : sizes)
    for (Index const slots : {1, 2, 5})
      for (bool const all : {true, false}) {
        Index const rows = size.rows, width = size.width;
        auto const y = random_array<S>(1, rows * slots, width), residual = random_array<S>(2, rows, width),
                   x = random_array<S>(3, rows, width), old = random_array<S>(4, rows, width);
        auto const weight = random_array<S>(5, width), mean = random_array<S>(6, rows),
                   inverse = random_array<S>(7, rows);
        auto const gradients = [&](bool together) {
          return mf::test::run<S>([&](mf::Cpu<S>& backend) {
            Array<S, 2> dx = old, dy(rows, width);
            auto dweight = random_array<S>(8, width), dbias = random_array<S>(9, width);
            mf::Vector<S> const dw = all ? dweight.view() : mf::Vector<S>{}, db = all ? dbias.view() : mf::Vector<S>{};
            if (together) {
              combine_layer_norm_backward(backend, slots, y.view(), residual.view(), x.view(), weight.view(),
                                          mean.view(), inverse.view(), dx.view(), dw, db);
            } else {
              combine(backend, slots, y.view(), {}, residual.view(), dy.view());
              layer_norm_backward(backend, dy.view(), x.view(), weight.view(), mean.view(), inverse.view(), dx.view(),
                                  dw, db);
            }
            std::vector<S> result = dx.values();
            for (auto const* values : {&dweight.values(), &dbias.values()})
              result.insert(result.end(), values->begin(), values->end());
            return result;
          });
        };
        BOOST_TEST(gradients(true) == gradients(false), "rows " << rows << " width " << width << " slots " << slots);
      }
}

BOOST_AUTO_TEST_CASE(slots_that_do_not_fit) {
  mf::Cpu<double> backend{1};
  Array<double, 2> x(3, 4), y(6, 4);
  Array<double, 1> v(4), rows(3);
  auto const forward = [&](Index slots, mf::Dropout drop) {
    combine_layer_norm(backend, slots, y.view(), drop, x.view(), v.view(), v.view(), epsilon, x.view(), x.view(), {},
                       {});
  };
  BOOST_CHECK_THROW(forward(3, {}), mf::Error);
  BOOST_CHECK_THROW(forward(0, {}), mf::Error);
  BOOST_CHECK_THROW(forward(2, {{}, 1.0f}), mf::Error);
  BOOST_CHECK_THROW(combine_layer_norm_backward(backend, 2, y.view(), y.view(), x.view(), v.view(), rows.view(),
                                                rows.view(), x.view(), {}, {}),
                    mf::Error);
}

BOOST_AUTO_TEST_SUITE_END()
