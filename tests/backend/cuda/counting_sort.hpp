// SPDX-License-Identifier: MIT
#pragma once
// Suite: the stable counting sort, against std::stable_sort.

#include "support.hpp"

#include <moduleformer/backend/cuda/counting_sort.cuh>

#include <boost/test/unit_test.hpp>

#include <algorithm>
#include <numeric>
#include <tuple>
#include <vector>

namespace moduleformer::test {

using SortBackend = std::tuple_element_t<0, Backends>;

enum class Keys { random, all_on_one, gaps, falling };

inline std::vector<std::int32_t> make_keys(Index size, Index key_count, Keys kind) {
  std::vector<std::int32_t> keys(static_cast<std::size_t>(size));
  for (Index p = 0; p < size; ++p) {
    auto const word = static_cast<Index>(random_words({7}, static_cast<std::uint64_t>(p))[0]);
    Index key = word % key_count;
    if (kind == Keys::all_on_one) key = key_count - 1;
    if (kind == Keys::gaps) key = key / 3 * 3;
    if (kind == Keys::falling) key = (size - p) % key_count;
    keys[static_cast<std::size_t>(p)] = static_cast<std::int32_t>(key);
  }
  return keys;
}

/// order and offsets of a sort by key in one vector.
inline std::vector<Index> sorted_on_device(std::vector<std::int32_t> const& keys, Index key_count) {
  return in_all_orders<SortBackend>([&](Device<SortBackend>& device) {
    auto const order = device.template allocate<std::int32_t>(keys.size());
    auto const offsets = device.template allocate<Index>(key_count + 1);
    detail::sort_by_key(device.backend(), device.upload(keys), key_count, order, offsets);
    auto result = device.template download<Index>(order);
    auto const begins = device.download(offsets);
    result.insert(result.end(), begins.begin(), begins.end());
    return result;
  });
}

inline std::vector<Index> sorted_on_host(std::vector<std::int32_t> const& keys, Index key_count) {
  std::vector<Index> result(keys.size());
  std::iota(result.begin(), result.end(), Index{0});
  auto const key = [&](Index p) { return keys[static_cast<std::size_t>(p)]; };
  std::stable_sort(result.begin(), result.end(), [&](Index a, Index b) { return key(a) < key(b); });
  std::vector<Index> counts(static_cast<std::size_t>(key_count) + 1);
  for (auto const k : keys) ++counts[static_cast<std::size_t>(k) + 1];
  std::partial_sum(counts.begin(), counts.end(), counts.begin());
  result.insert(result.end(), counts.begin(), counts.end());
  return result;
}

// One block up to 2048, blocks of 1024 up to 131072, larger ones beyond; passes of 8 bits.
constexpr Index sort_sizes[] = {0, 1, 31, 33, 257, 1023, 1024, 1025, 2048, 2049, 5003};
constexpr Index sort_key_counts[] = {1, 2, 5, 31, 32, 33, 64, 100, 128, 255, 256, 257, 300};

BOOST_AUTO_TEST_CASE(sort_of_all_sizes) {
  for (Index const size : sort_sizes)
    for (Index const key_count : sort_key_counts) {
      auto const keys = make_keys(size, key_count, Keys::random);
      BOOST_TEST(sorted_on_device(keys, key_count) == sorted_on_host(keys, key_count),
                 size << " values, " << key_count << " keys");
    }
}

BOOST_AUTO_TEST_CASE(sort_of_uneven_keys) {
  for (Keys const kind : {Keys::all_on_one, Keys::gaps, Keys::falling})
    for (Index const key_count : {1, 7, 64, 256, 300, 50257}) {
      auto const keys = make_keys(2500, key_count, kind);
      BOOST_TEST(sorted_on_device(keys, key_count) == sorted_on_host(keys, key_count),
                 "kind " << static_cast<int>(kind) << ", " << key_count << " keys");
    }
}

BOOST_AUTO_TEST_CASE(sort_of_many) {
  for (Index const size : {131072, 140001}) {
    auto const keys = make_keys(size, 100, Keys::random);
    BOOST_TEST((sorted_on_device(keys, 100) == sorted_on_host(keys, 100)), size << " values");
  }
}

BOOST_AUTO_TEST_CASE(sort_by_large_keys_without_offsets) {
  for (Index const key_count : {65536, 65537, 1 << 24}) {
    auto const keys = make_keys(1500, key_count, Keys::random);
    auto const found = in_all_orders<SortBackend>([&](Device<SortBackend>& device) {
      auto const order = device.template allocate<std::int32_t>(keys.size());
      detail::sort_by_key(device.backend(), device.upload(keys), key_count, order, {});
      return device.template download<Index>(order);
    });
    auto expected = sorted_on_host(keys, key_count);
    expected.resize(keys.size());
    BOOST_TEST(found == expected, key_count << " keys");
  }
}

BOOST_AUTO_TEST_CASE(one_pass_over_given_values) {
  std::vector<std::int32_t> const keys{0x10, 0x2f, 0x11, 0x3f, 0x20, 0x1c}, values{5, 3, 1, 0, 3};
  Device<SortBackend> device;
  auto const sorted = device.template allocate<std::int32_t>(5);
  auto const offsets = device.template allocate<Index>(6);
  detail::sort_by_digit(device.backend(), device.upload(keys), kernels::Digit{4, 2}, device.upload(values), sorted,
                        offsets);
  BOOST_TEST(device.download(sorted) == (std::vector<std::int32_t>{5, 0, 1, 3, 3}), boost::test_tools::per_element());
  BOOST_TEST(device.download(offsets) == (std::vector<Index>{0, 0, 2, 3, 5, 5}), boost::test_tools::per_element());
}

}  // namespace moduleformer::test
