// SPDX-License-Identifier: MIT
// Philox4x32-10 against the known answers published with Random123 (kat_vectors), and to_unit's range.

#include <moduleformer/core/random.hpp>

#include <boost/test/unit_test.hpp>

#include <array>
#include <cstdint>

namespace mf = moduleformer;

BOOST_AUTO_TEST_SUITE(core_random)

BOOST_AUTO_TEST_CASE(known_answers) {
  using Words = std::array<std::uint32_t, 4>;
  auto const same = [](Words const& found, Words const& expected) {
    BOOST_TEST(found == expected, boost::test_tools::per_element());
  };
  constexpr std::uint32_t ones = 0xffffffffu;
  same(mf::random_words({0, 0, 0}, 0), {0x6627e8d5u, 0xe169c58du, 0xbc57ac4cu, 0x9b00dbd8u});
  same(mf::random_words({~std::uint64_t{0}, ones, ones}, ~std::uint64_t{0}),
       {0x408f276du, 0x41c83b0eu, 0xa20bc7c6u, 0x6d5451fdu});
  // Counter and key are digits of pi: the low word comes first.
  same(mf::random_words({0x299f31d0a4093822u, 0x13198a2eu, 0x03707344u}, 0x85a308d3243f6a88u),
       {0xd16cfe09u, 0x94fdccebu, 0x5001e420u, 0x24126ea1u});
}

BOOST_AUTO_TEST_CASE(units_are_inside_the_open_interval) {
  BOOST_TEST(mf::to_unit(0) == 0x1p-24f);
  BOOST_TEST(mf::to_unit(0xffffffffu) == 1.0f - 0x1p-24f);
  BOOST_TEST(mf::to_unit(0x80000000u) == 0.5f + 0x1p-24f);
}

BOOST_AUTO_TEST_CASE(places_draw_different_numbers) {
  mf::RandomKey const key{5, 7, 1};
  BOOST_TEST((mf::random_words(key, 0) != mf::random_words(key.at(2), 0)));
  BOOST_TEST((mf::random_words(key, 0) != mf::random_words(key, 1)));
  BOOST_TEST((mf::random_words(key, 0) == mf::random_words(key.at(2).at(1), 0)));
}

BOOST_AUTO_TEST_SUITE_END()
