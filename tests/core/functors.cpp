// SPDX-License-Identifier: MIT
// Activations against long double formulas, and their derivatives against differences of values.

#include <moduleformer/core/functors.hpp>

#include <boost/test/unit_test.hpp>

#include <cmath>
#include <limits>
#include <tuple>

namespace mf = moduleformer;

namespace {

using Smooth = std::tuple<mf::GeluTanh, mf::Gelu, mf::Silu, mf::Tanh>;
using All = std::tuple<mf::GeluTanh, mf::Gelu, mf::Silu, mf::Tanh, mf::Relu>;

long double truth(mf::GeluTanh, long double z) {
  return z / 2 * (1 + std::tanh(std::sqrt(2 / std::acos(-1.0L)) * (z + 0.044715L * z * z * z)));
}
long double truth(mf::Gelu, long double z) { return z / 2 * std::erfc(-z / std::sqrt(2.0L)); }
long double truth(mf::Silu, long double z) { return z / (1 + std::exp(-z)); }
long double truth(mf::Tanh, long double z) { return std::tanh(z); }
long double truth(mf::Relu, long double z) { return z > 0 ? z : 0; }

}  // namespace

BOOST_AUTO_TEST_SUITE(core_functors)

BOOST_AUTO_TEST_CASE_TEMPLATE(values, Activation, All) {
  for (int i = -400; i <= 400; ++i) {
    double const z = i * 0.03125 + 0.001;
    auto const expected = static_cast<double>(truth(Activation{}, z));
    BOOST_TEST(std::abs(Activation{}(z).value - expected) <= 8e-16 * (1 + std::abs(expected)));
    float const single = static_cast<float>(z);
    auto const rounded = static_cast<float>(truth(Activation{}, single));
    BOOST_TEST(std::abs(Activation{}(single).value - rounded) <= 4e-7f * std::max(0.25f, std::abs(rounded)));
  }
}

BOOST_AUTO_TEST_CASE_TEMPLATE(derivatives, Activation, Smooth) {
  for (int i = -400; i <= 400; ++i) {
    long double const z = i * 0.03125L + 0.001L, h = 1e-6L;
    double const expected = static_cast<double>((truth(Activation{}, z + h) - truth(Activation{}, z - h)) / (2 * h));
    BOOST_TEST(std::abs(Activation{}(static_cast<double>(z)).derivative - expected) < 1e-11);
    BOOST_TEST(std::abs(Activation{}(static_cast<float>(z)).derivative - static_cast<float>(expected)) < 2e-6f);
  }
}

BOOST_AUTO_TEST_CASE(derivative_of_relu) {
  BOOST_TEST(mf::Relu{}(2.5).derivative == 1.0);
  BOOST_TEST(mf::Relu{}(0.0).derivative == 0.0);
  BOOST_TEST(mf::Relu{}(-2.5).derivative == 0.0);
}

// Far from 0 every activation is a line; no overflow on the way may turn it into NaN.
BOOST_AUTO_TEST_CASE_TEMPLATE(large_arguments, Activation, All) {
  bool const bounded = std::is_same_v<Activation, mf::Tanh>;
  for (float const z : {100.0f, 1e10f, 1e30f, std::numeric_limits<float>::max()}) {
    auto const up = Activation{}(z), down = Activation{}(-z);
    BOOST_TEST(up.value == (bounded ? 1.0f : z));
    BOOST_TEST(up.derivative == (bounded ? 0.0f : 1.0f));
    BOOST_TEST(down.value == (bounded ? -1.0f : 0.0f));
    BOOST_TEST(down.derivative == 0.0f);
    auto const wide = Activation{}(static_cast<double>(z) * 1e200);
    BOOST_TEST(std::isfinite(wide.value));
    BOOST_TEST(wide.derivative == (bounded ? 0.0 : 1.0));
  }
}

BOOST_AUTO_TEST_SUITE_END()
