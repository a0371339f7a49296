// SPDX-License-Identifier: MIT
#pragma once
// Suite: elementwise primitives element by element, dropout's mask, outputs that are inputs, arrays that packs of 16
// bytes fit or not.

#include "support.hpp"

#include <moduleformer/backend/cuda/elementwise.cuh>
#include <moduleformer/core/error.hpp>
#include <moduleformer/core/functors.hpp>

#include <boost/test/unit_test.hpp>

#include <cmath>

namespace moduleformer::test {

struct MatrixSize {
  Index rows, width;
};
/// Widths that are no multiple of 4 (a random number's words straddle rows), and of whole packs.
constexpr MatrixSize elementwise_sizes[] = {{0, 3}, {1, 1}, {3, 7}, {5, 256}, {9, 257}, {2, 1031}, {17, 128}};

/// Rounding of a few operations, the last one to S, relative to the largest element.
template <class S>
inline constexpr double rounding = std::is_same_v<S, float> ? 1e-6 : 4e-3;

/// A matrix in a backend's memory that begins `offset` elements after an aligned place; the element behind it is 77.
template <class T, class B>
Matrix<T> placed(Device<B>& device, std::vector<double> values, Index rows, Index width, Index offset) {
  values.insert(values.begin(), static_cast<std::size_t>(offset), 0.0);
  values.push_back(77);
  return device.template upload<T>(values).rows(offset, rows * width).reshape(rows, width);
}

/// The elements of such a matrix; checks the one behind it.
template <class T, class B>
std::vector<T> downloaded(Device<B>& device, Matrix<T> matrix) {
  auto values = device.download(Vector<T>{matrix.data(), {matrix.size() + 1}});
  BOOST_TEST(number<double>(values.back()) == 77);
  values.pop_back();
  return values;
}

/// f(rows, width, offset) for all sizes, aligned and not.
template <class F>
void for_elementwise_sizes(F const& f) {
  for (MatrixSize const& size : elementwise_sizes)
    for (Index const offset : {0, 1}) f(size.rows, size.width, offset);
}

/// The factor of element i as backend/arguments.hpp defines it.
inline double dropout_factor(Dropout const& drop, Index i) {
  if (drop.probability == 0) return 1;
  auto const words = random_words(drop.random.key(), static_cast<std::uint64_t>(i / 4));
  bool const kept = to_unit(words[static_cast<std::size_t>(i % 4)]) >= drop.probability;
  return kept ? 1 / (1 - static_cast<double>(drop.probability)) : 0.0;
}

/// The same dropout with its key in backend memory.
template <class B>
Dropout on_device(Device<B>& device, Dropout drop) {
  drop.random.base = device.upload(std::vector<RandomKey>{*drop.random.base}).data();
  return drop;
}

template <class S>
double error_of(std::vector<S> const& found, std::vector<double> const& expected) {
  return relative_error(numbers<double>(found), expected);
}

BOOST_AUTO_TEST_CASE_TEMPLATE(combine_the_slots_of_a_token, B, Backends) {
  using S = typename B::Scalar;
  for_elementwise_sizes([](Index rows, Index width, Index offset) {
    for (Index const slots : {1, 2, 3, 4})
      for (float const probability : {0.0f, 0.3f}) {
        RandomKey const key{5, 2, 0};
        Dropout const drop{{&key, 9}, probability};
        auto const y = normal_numbers<S>(rows * slots * width, 1), residual = normal_numbers<S>(rows * width, 2);
        auto const sum = [&](Index i) {
          double total = 0;
          for (Index s = 0; s < slots; ++s)
            total += y[static_cast<std::size_t>((i / width * slots + s) * width + i % width)];
          return total;
        };
        std::vector<double> expected;
        for (Index i = 0; i < rows * width; ++i) {
          double const old = residual[static_cast<std::size_t>(i)];
          expected.push_back(old + dropout_factor(drop, i) * sum(i));
        }
        auto const found = in_all_orders<B>([&](Device<B>& device) {
          auto const out = placed<S>(device, residual, rows, width, offset);
          combine(device.backend(), slots, placed<S>(device, y, rows * slots, width, offset), on_device(device, drop), out, out);
          return downloaded(device, out);
        });
        BOOST_TEST(error_of(found, expected) < rounding<S>, rows << " x " << width << " slots " << slots);
        auto const apart = in_all_orders<B>([&](Device<B>& device) {
          auto const out = placed<S>(device, std::vector<double>(residual.size()), rows, width, offset);
          combine(device.backend(), slots, placed<S>(device, y, rows * slots, width, offset), on_device(device, drop),
                  device.template upload<S>(residual, rows, width), out);
          return downloaded(device, out);
        });
        BOOST_TEST(same_bits(apart, found));
      }
  });
}

BOOST_AUTO_TEST_CASE_TEMPLATE(dropout_has_the_mask_of_its_key, B, Backends) {
  using S = typename B::Scalar;
  for_elementwise_sizes([](Index rows, Index width, Index offset) {
    RandomKey const key{11, 3, 0};
    Dropout const drop{{&key, 4}, 0.25f};
    auto const x = normal_numbers<S>(rows * width, 1);
    auto const found = in_all_orders<B>([&](Device<B>& device) {
      auto const out = placed<S>(device, x, rows, width, offset);
      apply_dropout(device.backend(), on_device(device, drop), out, out);
      return downloaded(device, out);
    });
    // What the CPU computes in float, rounded: the mask and the factor bit for bit.
    float const kept = static_cast<float>(1.0 / (1.0 - static_cast<double>(drop.probability)));
    std::vector<S> expected;
    for (Index i = 0; i < rows * width; ++i)
      expected.push_back(
          number<S>((dropout_factor(drop, i) > 0 ? kept : 0.0f) * static_cast<float>(x[static_cast<std::size_t>(i)])));
    BOOST_TEST(error_of(found, numbers<double>(expected)) == 0);
    auto const unchanged = in_all_orders<B>([&](Device<B>& device) {
      auto const out = placed<S>(device, std::vector<double>(x.size()), rows, width, offset);
      apply_dropout(device.backend(), Dropout{}, placed<S>(device, x, rows, width, offset), out);
      return downloaded(device, out);
    });
    BOOST_TEST(error_of(unchanged, x) == 0);
  });
}

BOOST_AUTO_TEST_CASE_TEMPLATE(jitter_draws_from_near_one, B, Backends) {
  using S = typename B::Scalar;
  for_elementwise_sizes([](Index rows, Index width, Index offset) {
    RandomKey const key{11, 3, 0};
    auto const x = normal_numbers<S>(rows * width, 1);
    std::vector<double> expected;
    for (std::size_t i = 0; i < x.size(); ++i)
      expected.push_back((0.75 + 0.5 * static_cast<double>(to_unit(random_words(key.at(4), i / 4)[i % 4]))) * x[i]);
    for (bool const in_place : {true, false}) {
      auto const found = in_all_orders<B>([&](Device<B>& device) {
        auto const from = placed<S>(device, x, rows, width, offset);
        auto const out = in_place ? from : placed<S>(device, std::vector<double>(x.size()), rows, width, 0);
        apply_jitter(device.backend(), {{device.upload(std::vector<RandomKey>{key}).data(), 4}, 0.25f}, from, out);
        return downloaded(device, out);
      });
      BOOST_TEST(error_of(found, expected) < rounding<S>, rows << " x " << width);
    }
    auto const unchanged = in_all_orders<B>([&](Device<B>& device) {
      auto const out = placed<S>(device, std::vector<double>(x.size()), rows, width, offset);
      apply_jitter(device.backend(), Jitter{}, placed<S>(device, x, rows, width, offset), out);
      return downloaded(device, out);
    });
    BOOST_TEST(error_of(unchanged, x) == 0);
  });
}

BOOST_AUTO_TEST_CASE_TEMPLATE(activations_and_their_slopes, B, Backends) {
  using S = typename B::Scalar;
  auto const check = [](auto act) {
    for_elementwise_sizes([&](Index rows, Index width, Index offset) {
      auto const z = normal_numbers<S>(rows * width, 1, 2), dy = normal_numbers<S>(rows * width, 2);
      auto const value = in_all_orders<B>([&](Device<B>& device) {
        auto const y = placed<S>(device, z, rows, width, offset);
        activation_forward(device.backend(), act, y, y);
        return downloaded(device, y);
      });
      auto const slope = in_all_orders<B>([&](Device<B>& device) {
        auto const dz = placed<S>(device, dy, rows, width, offset);
        activation_backward(device.backend(), act, dz, placed<S>(device, z, rows, width, offset), dz);
        return downloaded(device, dz);
      });
      std::vector<double> expected, expected_slope;
      for (std::size_t i = 0; i < z.size(); ++i) {
        expected.push_back(act(z[i]).value);
        expected_slope.push_back(dy[i] * act(z[i]).derivative);
      }
      BOOST_TEST(error_of(value, expected) < rounding<S>);
      BOOST_TEST(error_of(slope, expected_slope) < rounding<S>);
    });
  };
  check(GeluTanh{});
  check(Gelu{});
  check(Relu{});
  check(Silu{});
  check(Tanh{});
  check(Identity{});
}

BOOST_AUTO_TEST_CASE_TEMPLATE(add_activations_and_sums, B, Backends) {
  auto const check = [](auto zero) {
    using T = decltype(zero);
    for_elementwise_sizes([](Index rows, Index width, Index offset) {
      auto const x = normal_numbers<T>(rows * width, 1), y = normal_numbers<T>(rows * width, 2);
      auto const found = in_all_orders<B>([&](Device<B>& device) {
        auto const out = placed<T>(device, y, rows, width, offset);
        add(device.backend(), placed<T>(device, x, rows, width, offset), out);
        return downloaded(device, out);
      });
      std::vector<T> expected;
      for (std::size_t i = 0; i < x.size(); ++i)
        expected.push_back(number<T>(static_cast<float>(x[i]) + static_cast<float>(y[i])));
      BOOST_TEST(same_bits(found, expected));
    });
  };
  check(typename B::Scalar{});
  check(float{});
}

BOOST_AUTO_TEST_CASE_TEMPLATE(scale_by_a_number_of_the_device, B, Backends) {
  for_elementwise_sizes([](Index rows, Index width, Index offset) {
    auto const x = normal_numbers<float>(rows * width, 1);
    auto const found = in_all_orders<B>([&](Device<B>& device) {
      auto const out = placed<float>(device, x, rows, width, offset);
      scale_by(device.backend(), device.upload(std::vector<float>{-0.3f}), out, out);
      return downloaded(device, out);
    });
    std::vector<float> expected;
    for (double const value : x) expected.push_back(static_cast<float>(value) * -0.3f);
    BOOST_TEST(same_bits(found, expected));
  });
}

BOOST_AUTO_TEST_CASE_TEMPLATE(inner_product_in_double, B, Backends) {
  for (MatrixSize const& size : {MatrixSize{0, 5}, MatrixSize{1, 1}, MatrixSize{3, 1031}, MatrixSize{1, 4096},
                                 MatrixSize{1, 4097}, MatrixSize{5, 12289}})
    for (Index const offset : {0, 1}) {
      auto const x = normal_numbers<float>(size.rows * size.width, 1, 1, 0.5),
                 y = normal_numbers<float>(size.rows * size.width, 2);
      auto const found = in_all_orders<B>([&](Device<B>& device) {
        auto const out = device.template allocate<float>(1);
        dot(device.backend(), placed<float>(device, x, size.rows, size.width, offset),
            placed<float>(device, y, size.rows, size.width, 0), out);
        return device.download(out);
      });
      double product = 0, magnitude = 0;
      for (std::size_t i = 0; i < x.size(); ++i) {
        product += x[i] * y[i];
        magnitude += std::abs(x[i] * y[i]);
      }
      // The float next to the sum in double.
      BOOST_TEST(std::abs(static_cast<double>(found[0]) - product) <= 6e-8 * std::abs(product) + 1e-15 * magnitude);
    }
}

BOOST_AUTO_TEST_CASE_TEMPLATE(elementwise_refuses, B, Backends) {
  using S = typename B::Scalar;
  Device<B> device;
  auto const x = device.template allocate<S>(2, 3), other = device.template allocate<S>(3, 2);
  auto const says = [](char const* text) {
    return [text](Error const& error) { return std::string(error.what()) == text; };
  };
  BOOST_CHECK_EXCEPTION(add(device.backend(), x, other), Error, says("add: expected out of 2 x 3, found 3 x 2"));
  BOOST_CHECK_EXCEPTION(combine(device.backend(), 2, x, {}, x, x), Error,
                        says("combine: expected y of 4 x 3, found 2 x 3"));
  BOOST_CHECK_THROW(combine(device.backend(), 0, x, {}, x, x), Error);
  BOOST_CHECK_THROW(apply_dropout(device.backend(), Dropout{{}, 1.0f}, x, x), Error);
  BOOST_CHECK_THROW(apply_jitter(device.backend(), Jitter{{}, 1.0f}, x, x), Error);
  BOOST_CHECK_THROW(activation_forward(device.backend(), Silu{}, x, other), Error);
  BOOST_CHECK_THROW(activation_backward(device.backend(), Silu{}, x, other, x), Error);
}

}  // namespace moduleformer::test
