// SPDX-License-Identifier: MIT
// Accuracy of core/math.hpp in units in the last place against long double, and its edges.

#include <moduleformer/core/math.hpp>
#include <moduleformer/core/random.hpp>

#include <boost/test/unit_test.hpp>

#include <cmath>
#include <limits>
#include <tuple>

namespace mf = moduleformer;

namespace {

using Scalars = std::tuple<float, double>;

template <class T>
constexpr T infinity = std::numeric_limits<T>::infinity();

/// The largest error over `count` points of [low, high], in spacings of T at the true value.
template <class T, class Function, class Truth>
double worst_ulp(Function function, Truth truth, double low, double high, int count = 40000) {
  double worst = 0;
  for (int i = 0; i < count; ++i) {
    auto const words = mf::random_words({17}, static_cast<std::uint64_t>(i));
    double const unit = (words[0] + words[1] * 0x1p-32) * 0x1p-32;
    T const x = static_cast<T>(low + unit * (high - low));
    long double const expected = truth(static_cast<long double>(x));
    T const rounded = std::fabs(static_cast<T>(expected));
    long double const spacing = std::nextafter(rounded, infinity<T>) - rounded;
    double const error = static_cast<double>(std::fabs(static_cast<long double>(function(x)) - expected) / spacing);
    if (!(error <= worst)) worst = error;
  }
  return worst;
}

auto const exp_truth = [](long double x) { return std::exp(x); };
auto const log_truth = [](long double x) { return std::log(x); };
auto const tanh_truth = [](long double x) { return std::tanh(x); };

}  // namespace

BOOST_AUTO_TEST_SUITE(core_math)

BOOST_AUTO_TEST_CASE_TEMPLATE(exp_is_accurate, T, Scalars) {
  auto const f = [](T x) { return mf::math::exp(x); };
  bool const single = sizeof(T) == 4;
  BOOST_TEST(worst_ulp<T>(f, exp_truth, -1, 1) < 1.2);
  BOOST_TEST(worst_ulp<T>(f, exp_truth, single ? -86.9 : -708, single ? 88.7 : 709.7) < 1.2);
}

BOOST_AUTO_TEST_CASE_TEMPLATE(log_is_accurate, T, Scalars) {
  auto const f = [](T x) { return mf::math::log(x); };
  BOOST_TEST(worst_ulp<T>(f, log_truth, 1e-7, 0.99) < 1.2);
  BOOST_TEST(worst_ulp<T>(f, log_truth, 0.99, 1.01) < 1.2);
  BOOST_TEST(worst_ulp<T>(f, log_truth, 1.01, 1e6) < 1.2);
  double const tiny = 100 * static_cast<double>(std::numeric_limits<T>::denorm_min());
  BOOST_TEST(worst_ulp<T>(f, log_truth, tiny, 1e6 * tiny) < 1.2);
}

BOOST_AUTO_TEST_CASE_TEMPLATE(tanh_is_accurate, T, Scalars) {
  auto const f = [](T x) { return mf::math::tanh(x); };
  BOOST_TEST(worst_ulp<T>(f, tanh_truth, -1e-3, 1e-3) < 3);
  BOOST_TEST(worst_ulp<T>(f, tanh_truth, -1, 1) < 3);
  BOOST_TEST(worst_ulp<T>(f, tanh_truth, -25, 25) < 3);
}

BOOST_AUTO_TEST_CASE_TEMPLATE(sigmoid_is_accurate, T, Scalars) {
  auto const truth = [](long double x) { return 1 / (1 + std::exp(-x)); };
  BOOST_TEST(worst_ulp<T>([](T x) { return mf::math::sigmoid(x); }, truth, -50, 50) < 3);
}

BOOST_AUTO_TEST_CASE_TEMPLATE(normal_is_accurate, T, Scalars) {
  auto const truth = [](long double x) { return std::erfc(-x / std::sqrt(2.0L)) / 2; };
  auto const f = [](T x) { return mf::math::normal(x).below; };
  BOOST_TEST(worst_ulp<T>(f, truth, -1, 9) < 8);
  // The rounding of x^2 alone costs x^2/2 units in the tail.
  BOOST_TEST(worst_ulp<T>(f, truth, -3, -1) < 16);
  auto const density = [](long double x) { return std::exp(-x * x / 2) / std::sqrt(2 * std::acos(-1.0L)); };
  BOOST_TEST(worst_ulp<T>([](T x) { return mf::math::normal(x).density; }, density, -1, 1) < 3);
}

BOOST_AUTO_TEST_CASE_TEMPLATE(edges, T, Scalars) {
  T const large = std::numeric_limits<T>::max(), small = std::numeric_limits<T>::denorm_min();
  for (T const x : {T(-800), -large, -infinity<T>}) {
    BOOST_TEST(mf::math::exp(x) == T(0));
    BOOST_TEST(mf::math::sigmoid(x) == T(0));
    BOOST_TEST(mf::math::tanh(x) == T(-1));
    BOOST_TEST(mf::math::normal(x).below == T(0));
    BOOST_TEST(std::isnan(mf::math::log(x)));
  }
  for (T const x : {T(800), large, infinity<T>}) {
    BOOST_TEST(mf::math::exp(x) == infinity<T>);
    BOOST_TEST(mf::math::sigmoid(x) == T(1));
    BOOST_TEST(mf::math::tanh(x) == T(1));
    BOOST_TEST(mf::math::normal(x).below == T(1));
    BOOST_TEST(mf::math::normal(x).density == T(0));
  }
  for (T const x : {T(0), T(-0.0), small, -small}) {
    BOOST_TEST(mf::math::exp(x) == T(1));
    BOOST_TEST(mf::math::sigmoid(x) == T(0.5));
    BOOST_TEST(mf::math::tanh(x) == x);
  }
  BOOST_TEST(mf::math::log(T(1)) == T(0));
  BOOST_TEST(mf::math::log(T(0)) == -infinity<T>);
  BOOST_TEST(mf::math::log(infinity<T>) == infinity<T>);
  T const nan = std::numeric_limits<T>::quiet_NaN();
  BOOST_TEST(std::isnan(mf::math::exp(nan)));
  BOOST_TEST(std::isnan(mf::math::log(nan)));
  BOOST_TEST(std::isnan(mf::math::tanh(nan)));
  BOOST_TEST(std::isnan(mf::math::sigmoid(nan)));
  BOOST_TEST(std::isnan(mf::math::normal(nan).below));
}

BOOST_AUTO_TEST_SUITE_END()
