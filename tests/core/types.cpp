// SPDX-License-Identifier: MIT
// Every bfloat16 and binary16 pattern against the rules of the formats, rounding at every midpoint, and
// the sizes and names of storage types.

#include <moduleformer/core/types.hpp>

#include <boost/test/unit_test.hpp>

#include <bit>
#include <cmath>
#include <cstdint>
#include <functional>
#include <limits>

namespace mf = moduleformer;

namespace {

/// The value of sign, exponent and mantissa fields, from the definition of IEEE 754's binary formats.
double defined_value(std::uint32_t bits, int exponent_bits, int mantissa_bits) {
  std::uint32_t const sign = bits >> (exponent_bits + mantissa_bits);
  int const exponent = static_cast<int>((bits >> mantissa_bits) & ((1u << exponent_bits) - 1));
  double const mantissa = bits & ((1u << mantissa_bits) - 1);
  int const bias = (1 << (exponent_bits - 1)) - 1;
  double magnitude = 0;
  if (exponent == (1 << exponent_bits) - 1)
    magnitude = mantissa == 0 ? std::numeric_limits<double>::infinity() : std::numeric_limits<double>::quiet_NaN();
  else if (exponent == 0) magnitude = std::ldexp(mantissa, 1 - bias - mantissa_bits);
  else magnitude = std::ldexp(1 + std::ldexp(mantissa, -mantissa_bits), exponent - bias);
  return sign != 0 ? -magnitude : magnitude;
}

bool same(double a, double b) { return std::isnan(a) ? std::isnan(b) : a == b && std::signbit(a) == std::signbit(b); }

mf::bfloat16 bfloat(std::uint32_t bits) {
  mf::bfloat16 value;
  value.bits = static_cast<std::uint16_t>(bits);
  return value;
}
float float_of(std::uint32_t bits) { return std::bit_cast<float>(bits); }

/// The first 16-bit pattern for which the property fails, or -1.
int first_failure(std::function<bool(std::uint32_t)> const& holds) {
  for (std::uint32_t bits = 0; bits < 0x10000u; ++bits)
    if (!holds(bits)) return static_cast<int>(bits);
  return -1;
}

}  // namespace

BOOST_AUTO_TEST_SUITE(core_types)

BOOST_AUTO_TEST_CASE(every_bfloat16_has_its_value) {
  BOOST_TEST(first_failure([](std::uint32_t bits) {
    return same(static_cast<float>(bfloat(bits)), defined_value(bits, 8, 7));
  }) == -1);
}

BOOST_AUTO_TEST_CASE(every_float16_has_its_value) {
  BOOST_TEST(first_failure([](std::uint32_t bits) {
    mf::float16 value;
    value.bits = static_cast<std::uint16_t>(bits);
    return same(static_cast<float>(value), defined_value(bits, 5, 10));
  }) == -1);
}

BOOST_AUTO_TEST_CASE(every_bfloat16_returns_from_float) {
  BOOST_TEST(first_failure([](std::uint32_t bits) {
    mf::bfloat16 const back{static_cast<float>(bfloat(bits))};
    bool const is_nan = (bits & 0x7fffu) > 0x7f80u;
    return is_nan ? back.bits == (bits | 0x40u) : back.bits == bits;
  }) == -1);
}

BOOST_AUTO_TEST_CASE(every_midpoint_rounds_to_even) {
  BOOST_TEST(first_failure([](std::uint32_t bits) {
    if ((bits & 0x7fffu) >= 0x7f80u) return true;  // infinity and NaN have no neighbour above
    std::uint32_t const word = bits << 16, even = bits + (bits & 1u);
    return mf::bfloat16{float_of(word + 0x0001u)}.bits == bits &&      // just above this value
           mf::bfloat16{float_of(word + 0x7fffu)}.bits == bits &&      // just below the midpoint
           mf::bfloat16{float_of(word + 0x8000u)}.bits == even &&      // the midpoint; of the largest, infinity
           mf::bfloat16{float_of(word + 0x8001u)}.bits == bits + 1 &&  // just above it
           mf::bfloat16{float_of(word + 0xffffu)}.bits == bits + 1;
  }) == -1);
}

BOOST_AUTO_TEST_CASE(nan_stays_nan) {
  // A payload in the lower half alone must not round to infinity or, with a carry, to zero.
  for (std::uint32_t const bits : {0x7f800001u, 0x7f80ffffu, 0x7fffffffu, 0xff800001u, 0xffffffffu}) {
    mf::bfloat16 const value{float_of(bits)};
    BOOST_TEST(std::isnan(static_cast<float>(value)));
    BOOST_TEST((value.bits >> 15) == (bits >> 31));
  }
}

BOOST_AUTO_TEST_CASE(conversions_are_constant_expressions) {
  static_assert(mf::bfloat16{1.0f}.bits == 0x3f80);
  static_assert(static_cast<float>(mf::bfloat16{-2.5f}) == -2.5f);
  static_assert(static_cast<float>(mf::float16{}) == 0.0f);
  BOOST_TEST(mf::bfloat16{}.bits == 0);
}

BOOST_AUTO_TEST_CASE(storage_sizes) {
  auto const agrees = []<class T>(T) { return mf::storage_size(mf::storage_type_of<T>) == static_cast<mf::Index>(sizeof(T)); };
  BOOST_TEST(agrees(double{}));
  BOOST_TEST(agrees(float{}));
  BOOST_TEST(agrees(mf::float16{}));
  BOOST_TEST(agrees(mf::bfloat16{}));
  BOOST_TEST(agrees(std::int64_t{}));
  BOOST_TEST(agrees(std::int32_t{}));
  BOOST_TEST(agrees(std::uint8_t{}));
  BOOST_TEST((mf::storage_type_of<mf::float16> != mf::storage_type_of<mf::bfloat16>));
  BOOST_TEST((mf::storage_type_of<float> != mf::storage_type_of<std::int32_t>));
}

BOOST_AUTO_TEST_SUITE_END()
