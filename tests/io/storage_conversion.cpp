// SPDX-License-Identifier: MIT
// Conversions of stored elements: exact where they can be, rounded to nearest even once where not, for
// every alignment.

#include <moduleformer/io/storage_conversion.hpp>

#include <boost/test/unit_test.hpp>

#include <bit>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <limits>
#include <vector>

namespace mf = moduleformer;

BOOST_AUTO_TEST_SUITE(storage_conversion)

namespace {

/// Converts through byte buffers that start at odd addresses.
template <class To, class From>
std::vector<To> convert(std::vector<From> const& source, std::size_t shift) {
  std::vector<std::byte> in(source.size() * sizeof(From) + shift), out(source.size() * sizeof(To) + shift);
  if (!source.empty()) std::memcpy(in.data() + shift, source.data(), source.size() * sizeof(From));
  mf::convert_elements<To, From>(in.data() + shift, out.data() + shift, static_cast<mf::Index>(source.size()));
  std::vector<To> result(source.size());
  if (!result.empty()) std::memcpy(result.data(), out.data() + shift, result.size() * sizeof(To));
  return result;
}

/// The bfloat16 nearest to a finite value, by comparing with all neighbours; an even last bit wins ties.
std::uint16_t nearest_bfloat16(double value) {
  auto const magnitude = [](std::uint32_t bits) {
    return bits == 0x7f80 ? 0x1p128 : static_cast<double>(std::bit_cast<float>(bits << 16));
  };
  std::uint32_t low = 0, high = 0x7f80;  // infinity stands for 2^128 in rounding
  double const size = std::abs(value);
  if (size >= 0x1p128) low = 0x7f80;
  else
    while (high - low > 1) {
      auto const middle = (low + high) / 2;
      (magnitude(middle) <= size ? low : high) = middle;
    }
  if (low != 0x7f80) {
    double const below = size - magnitude(low), above = magnitude(low + 1) - size;
    if (above < below || (above == below && low % 2 == 1)) ++low;
  }
  return static_cast<std::uint16_t>(low | (std::signbit(value) ? 0x8000u : 0u));
}

}  // namespace

BOOST_AUTO_TEST_CASE(every_half_precision_value_widens_exactly) {
  std::vector<mf::float16> halves;
  std::vector<mf::bfloat16> brains;
  for (unsigned bits = 0; bits < 0x10000; ++bits) {
    mf::float16 half;
    half.bits = static_cast<std::uint16_t>(bits);
    mf::bfloat16 brain;
    brain.bits = half.bits;
    halves.push_back(half);
    brains.push_back(brain);
  }
  auto const from_halves = convert<float>(halves, 1);
  auto const from_brains = convert<float>(brains, 3);
  auto const wide = convert<double>(halves, 0);
  std::size_t wrong = 0;
  for (unsigned bits = 0; bits < 0x10000; ++bits) {
    int const exponent = static_cast<int>(bits >> 10 & 0x1f);
    auto const mantissa = static_cast<float>(bits & 0x3ff);
    float value = exponent == 0    ? std::ldexp(mantissa, -24)
                  : exponent == 31 ? (mantissa == 0 ? std::numeric_limits<float>::infinity() : std::nanf(""))
                                   : std::ldexp(mantissa + 1024, exponent - 25);
    value = std::copysign(value, (bits & 0x8000u) != 0 ? -1.0f : 1.0f);
    float const found = from_halves[bits];
    bool const same = std::isnan(value) ? std::isnan(found)
                                        : std::bit_cast<std::uint32_t>(found) == std::bit_cast<std::uint32_t>(value);
    wrong += !same || !(std::isnan(value) ? std::isnan(wide[bits]) : wide[bits] == static_cast<double>(value));
    wrong += std::bit_cast<std::uint32_t>(from_brains[bits]) != bits << 16;
  }
  BOOST_TEST(wrong == 0u);
}

BOOST_AUTO_TEST_CASE(bfloat16_is_rounded_once) {
  std::vector<double> values{0.0,     -0.0,   1.0,     1e-45,  -1e-46, 5e-324, 1e-40,
                             9.2e-41, 3.4e38, 3.39e38, 3.5e38, -1e300, 1e39};
  std::uint64_t state = 12345;
  for (int i = 0; i < 100000; ++i) {
    state = state * 6364136223846793005u + 1442695040888963407u;
    // A bfloat16, or the middle of two, moved by a few units in a double's last places: what rounding to
    // float first gets wrong.
    auto const exponent = (state >> 40) % 300;
    auto bits = (880 + exponent) << 52 | (state >> 20 & 0x7f) << 45 | (state >> 8 & 1) << 44;
    bits += (state >> 10 & 7) << (state >> 13 & 15);
    bits -= (state >> 17 & 3);
    values.push_back(std::bit_cast<double>(bits | (state >> 63) << 63));
  }
  auto const rounded = convert<mf::bfloat16>(values, 1);
  std::size_t wrong = 0, differs_from_twice = 0;
  for (std::size_t i = 0; i < values.size(); ++i) {
    wrong += rounded[i].bits != nearest_bfloat16(values[i]);
    differs_from_twice += rounded[i].bits != mf::bfloat16(static_cast<float>(values[i])).bits;
  }
  BOOST_TEST(wrong == 0u);
  BOOST_TEST(differs_from_twice > 100u);  // else the values prove nothing

  std::vector<float> floats;
  for (double const value : values) floats.push_back(static_cast<float>(value));
  auto const from_floats = convert<mf::bfloat16>(floats, 2);
  for (std::size_t i = 0; i < floats.size(); ++i) {
    if (std::isfinite(floats[i])) wrong += from_floats[i].bits != nearest_bfloat16(static_cast<double>(floats[i]));
  }
  BOOST_TEST(wrong == 0u);
}

BOOST_AUTO_TEST_CASE(nan_and_infinity_survive) {
  auto const nan = std::bit_cast<float>(0xffa12345u);   // negative, signalling, with a payload
  auto const tail = std::bit_cast<float>(0x7f800001u);  // its payload lies in the bits that bfloat16 lacks
  auto const infinity = std::numeric_limits<float>::infinity();
  auto const rounded = convert<mf::bfloat16>(std::vector<float>{nan, tail, infinity, -infinity}, 0);
  BOOST_TEST(rounded[0].bits == 0xffe1u);
  BOOST_TEST(rounded[1].bits == 0x7fc0u);
  BOOST_TEST(rounded[2].bits == 0x7f80u);
  BOOST_TEST(rounded[3].bits == 0xff80u);
  auto const from_double =
      convert<mf::bfloat16>(std::vector<double>{std::nan(""), -std::numeric_limits<double>::infinity()}, 0);
  BOOST_TEST(std::isnan(static_cast<float>(from_double[0])));
  BOOST_TEST(from_double[1].bits == 0xff80u);
  auto const same = convert<float>(std::vector<float>{nan, tail}, 1);
  BOOST_TEST(std::bit_cast<std::uint32_t>(same[0]) == 0xffa12345u);
  BOOST_TEST(std::bit_cast<std::uint32_t>(same[1]) == 0x7f800001u);
}

BOOST_AUTO_TEST_CASE(runs_of_every_length_and_shift) {
  for (std::size_t shift = 0; shift < 9; ++shift) {
    for (std::size_t size : {0u, 1u, 2u, 7u, 31u, 64u, 65u}) {
      std::vector<double> values;
      for (std::size_t i = 0; i < size; ++i) values.push_back(1.1 * static_cast<double>(i) - 5);
      auto const floats = convert<float>(values, shift);
      for (std::size_t i = 0; i < size; ++i) BOOST_REQUIRE_EQUAL(floats[i], static_cast<float>(values[i]));
    }
  }
}

BOOST_AUTO_TEST_SUITE_END()
