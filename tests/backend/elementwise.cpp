// SPDX-License-Identifier: MIT
// Elementwise primitives and memory: definitions element by element, dropout's mask, work in place.

#include "primitives.hpp"

#include <moduleformer/backend/cpu/elementwise.hpp>
#include <moduleformer/backend/cpu/memory.hpp>
#include <moduleformer/core/functors.hpp>

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
/// Widths that are no multiple of 4 (a random number's words straddle rows) and pass the block of 256.
constexpr Size sizes[] = {{1, 1}, {3, 7}, {5, 256}, {9, 257}, {33, 511}, {64, 64}, {2, 5003}};

/// The factor of element i as backend/arguments.hpp defines it.
double dropout_factor(mf::Dropout const& drop, Index i) {
  auto const words = mf::random_words(drop.random.key(), static_cast<std::uint64_t>(i / 4));
  bool const kept = mf::to_unit(words[static_cast<std::size_t>(i % 4)]) >= drop.probability;
  return kept ? 1 / (1 - static_cast<double>(drop.probability)) : 0.0;
}

}  // namespace

BOOST_AUTO_TEST_SUITE(backend_elementwise)

BOOST_AUTO_TEST_CASE_TEMPLATE(combine_the_slots_of_a_token, S, Scalars) {
  for (Size const& size : sizes)
    for (Index const slots : {1, 2, 5})
      for (float const probability : {0.0f, 0.3f}) {
        Index const rows = size.rows, width = size.width;
        mf::RandomKey const key{5, 2, 0};
        mf::Dropout const drop{{&key, 9}, probability};
        auto const y = random_array<S>(1, rows * slots, width), residual = random_array<S>(2, rows, width);
        auto const found = mf::test::run<S>([&](mf::Cpu<S>& backend) {
          auto out = residual;  // in place
          combine(backend, slots, y.view(), drop, out.view(), out.view());
          return out.values();
        });
        std::vector<double> expected;
        for (Index t = 0; t < rows; ++t)
          for (Index i = 0; i < width; ++i) {
            double sum = 0;
            for (Index s = 0; s < slots; ++s) sum += static_cast<double>(y(t * slots + s, i));
            double const factor = probability > 0 ? dropout_factor(drop, t * width + i) : 1.0;
            expected.push_back(static_cast<double>(residual(t, i)) + factor * sum);
          }
        BOOST_TEST(relative_error(found, expected) < tolerance<S>, "rows " << rows << " width " << width);
      }
}

BOOST_AUTO_TEST_CASE_TEMPLATE(dropout, S, Scalars) {
  for (Size const& size : sizes) {
    Index const rows = size.rows, width = size.width;
    mf::RandomKey const key{11, 3, 0};
    mf::Dropout const drop{{&key, 4}, 0.25f};
    auto const x = random_array<S>(1, rows, width);
    auto const found = mf::test::run<S>([&](mf::Cpu<S>& backend) {
      auto out = x;
      apply_dropout(backend, drop, out.view(), out.view());
      return out.values();
    });
    std::vector<double> expected;
    for (Index i = 0; i < rows * width; ++i)
      expected.push_back(dropout_factor(drop, i) * static_cast<double>(x.values()[static_cast<std::size_t>(i)]));
    BOOST_TEST(relative_error(found, expected) < tolerance<S>);
  }
}

BOOST_AUTO_TEST_CASE(dropout_keeps_the_mean_and_nothing_else_changes_the_mask) {
  mf::Cpu<double> backend{2};
  Array<double, 2> ones(100, 1000), out(100, 1000);
  std::fill(ones.values().begin(), ones.values().end(), 1.0);
  mf::RandomKey const key{1, 1};
  apply_dropout(backend, {{&key, 1}, 0.4f}, ones.view(), out.view());
  double sum = 0;
  for (double const x : out.values()) sum += x;
  BOOST_TEST(std::abs(sum / 1e5 - 1) < 0.01);  // four standard deviations
  apply_dropout(backend, {{&key, 1}, 0.0f}, ones.view(), out.view());
  BOOST_TEST(out.values() == ones.values());
  BOOST_CHECK_THROW(apply_dropout(backend, {{&key, 1}, 1.0f}, ones.view(), out.view()), mf::Error);
}

BOOST_AUTO_TEST_CASE_TEMPLATE(jitter, S, Scalars) {
  mf::RandomKey const key{11, 3, 0};
  mf::Jitter const jitter{{&key, 4}, 0.25f};
  for (Size const& size : sizes) {
    auto const x = random_array<S>(1, size.rows, size.width);
    auto const found = mf::test::run<S>([&](mf::Cpu<S>& backend) {
      auto out = x;
      apply_jitter(backend, jitter, out.view(), out.view());
      return out.values();
    });
    std::vector<double> expected;
    for (std::size_t i = 0; i < x.values().size(); ++i) {
      double const u = static_cast<double>(mf::to_unit(mf::random_words(key.at(4), i / 4)[i % 4]));
      expected.push_back((0.75 + 0.5 * u) * static_cast<double>(x.values()[i]));
    }
    BOOST_TEST(relative_error(found, expected) < 2e-7);  // draws are floats
    mf::Cpu<S> backend{1};
    auto unchanged = random_array<S>(2, size.rows, size.width);
    apply_jitter(backend, mf::Jitter{}, x.view(), unchanged.view());
    BOOST_TEST(unchanged.values() == x.values());
  }
  mf::Cpu<S> backend{1};
  auto x = random_array<S>(1, 2, 3);
  BOOST_CHECK_THROW(apply_jitter(backend, {{&key, 4}, 1.0f}, x.view(), x.view()), mf::Error);
}

BOOST_AUTO_TEST_CASE_TEMPLATE(activations, S, Scalars) {
  auto const check = [](auto act) {
    for (Size const& size : sizes) {
    Index const rows = size.rows, width = size.width;
      auto const z = random_array<S>(1, rows, width), dy = random_array<S>(2, rows, width);
      auto const value = mf::test::run<S>([&](mf::Cpu<S>& backend) {
        auto y = z;
        activation_forward(backend, act, y.view(), y.view());
        return y.values();
      });
      auto const slope = mf::test::run<S>([&](mf::Cpu<S>& backend) {
        auto dz = dy;
        activation_backward(backend, act, dz.view(), z.view(), dz.view());
        return dz.values();
      });
      std::vector<double> expected, expected_slope;
      for (std::size_t i = 0; i < z.values().size(); ++i) {
        auto const a = act(static_cast<double>(z.values()[i]));
        expected.push_back(a.value);
        expected_slope.push_back(static_cast<double>(dy.values()[i]) * a.derivative);
      }
      BOOST_TEST(relative_error(value, expected) < tolerance<S>);
      BOOST_TEST(relative_error(slope, expected_slope) < tolerance<S>);
    }
  };
  check(mf::GeluTanh{});
  check(mf::Gelu{});
  check(mf::Relu{});
  check(mf::Silu{});
  check(mf::Tanh{});
}

BOOST_AUTO_TEST_CASE_TEMPLATE(add_scale_and_inner_product, S, Scalars) {
  for (Size const& size : sizes) {
    Index const rows = size.rows, width = size.width;
    auto const x = random_array<S>(1, rows, width), y = random_array<S>(2, rows, width);
    auto const factor = random_array<S>(3, 1);
    auto const sum = mf::test::run<S>([&](mf::Cpu<S>& backend) {
      auto out = y;
      add(backend, x.view(), out.view());
      return out.values();
    });
    auto const scaled = mf::test::run<S>([&](mf::Cpu<S>& backend) {
      auto out = x;
      scale_by(backend, factor.view(), out.view(), out.view());
      return out.values();
    });
    auto const inner = mf::test::run<S>([&](mf::Cpu<S>& backend) {
      Array<S, 1> out(1);
      dot(backend, x.view(), y.view(), out.view());
      return out.values();
    });
    double product = 0, magnitude = 0;
    for (std::size_t i = 0; i < sum.size(); ++i) {
      BOOST_TEST(sum[i] == x.values()[i] + y.values()[i]);
      BOOST_TEST(scaled[i] == x.values()[i] * factor.values()[0]);
      double const term = static_cast<double>(x.values()[i]) * static_cast<double>(y.values()[i]);
      product += term;
      magnitude += std::abs(term);
    }
    BOOST_TEST(std::abs(static_cast<double>(inner[0]) - product) <= tolerance<S> * magnitude);
  }
}

BOOST_AUTO_TEST_CASE_TEMPLATE(memory, S, Scalars) {
  for (Index const size : {0, 1, 16383, 16384, 16385}) {
    auto const x = random_array<S>(1, size);
    mf::Cpu<S> backend{3};
    Array<S, 1> y(size), z(size);
    copy(backend, x.view(), y.view());
    BOOST_TEST(y.values() == x.values());
    fill(backend, y.view(), S(2.5));
    BOOST_TEST(std::count(y.values().begin(), y.values().end(), S(2.5)) == size);
    from_host(backend, x.values().data(), z.view());
    to_host(backend, z.view(), y.values().data());
    BOOST_TEST(y.values() == x.values());
  }
  mf::Cpu<S> backend{1};
  Array<S, 1> x(3), y(4);
  BOOST_CHECK_THROW(copy(backend, x.view(), y.view()), mf::Error);
  bool called = false;
  invoke(backend, [&] { called = true; });
  BOOST_TEST(called);
  for (Index const count : {0, 1, 3, 10000}) {
    std::vector<int> calls(static_cast<std::size_t>(count) + 1);
    invoke_each(backend, count, [&](Index i) { ++calls[static_cast<std::size_t>(i)]; });
    BOOST_TEST(std::count(calls.begin(), calls.end(), 1) == count);
    BOOST_TEST(calls.back() == 0);
  }
}

BOOST_AUTO_TEST_SUITE_END()
