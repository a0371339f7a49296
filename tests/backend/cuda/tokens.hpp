// SPDX-License-Identifier: MIT
#pragma once
// Suite: rows by number: embedding and its gradient (ids that come once, often, never), chosen rows, a cache's new
// rows.

#include "support.hpp"

#include <moduleformer/backend/cuda/embedding.cuh>
#include <moduleformer/core/error.hpp>

#include <boost/test/unit_test.hpp>

#include <algorithm>
#include <cstdint>
#include <numeric>
#include <vector>

namespace moduleformer::test {

struct TokensSize {
  Index count, vocabulary, width;
};
/// Vocabularies of one digit of the sort and of several.
constexpr TokensSize tokens_sizes[] = {{0, 5, 3},     {1, 1, 1},    {37, 5, 65},     {130, 257, 33},
                                       {70, 1, 256},  {33, 2, 264}, {257, 70000, 8}, {1100, 300, 7},
                                       {5, 40, 1024}, {64, 1, 132}, {2500, 40, 8}};

/// Half of them one id, the others anywhere.
inline std::vector<TokenId> random_ids(Index count, Index limit) {
  std::vector<TokenId> ids;
  for (Index t = 0; t < count; ++t) {
    auto const words = random_words({3}, static_cast<std::uint64_t>(t));
    ids.push_back(words[1] % 2 == 0 ? static_cast<TokenId>(limit / 2)
                                    : static_cast<TokenId>(words[0] % static_cast<std::uint32_t>(limit)));
  }
  return ids;
}

/// Rows in a backend's memory, `offset` elements after an aligned place.
template <class T, class B>
Matrix<T> rows_at(Device<B>& device, std::vector<double> values, Index rows, Index width, Index offset) {
  values.insert(values.begin(), static_cast<std::size_t>(offset), 0.0);
  return device.template upload<T>(values).rows(offset, rows * width).reshape(rows, width);
}

BOOST_AUTO_TEST_CASE_TEMPLATE(embedding_of_ids, B, Backends) {
  using S = typename B::Scalar;
  for (TokensSize const& size : tokens_sizes)
    for (Index const offset : {0, 1}) {
      Index const count = size.count, vocabulary = size.vocabulary, width = size.width;
      auto const table = normal_numbers<S>(vocabulary * width, 1);
      auto const ids = random_ids(count, vocabulary);
      auto const found = in_all_orders<B>([&](Device<B>& device) {
        auto const out = device.template allocate<S>(count, width);
        embedding(device.backend(), rows_at<S>(device, table, vocabulary, width, offset), device.upload(ids), out);
        return device.template download<double>(out);
      });
      std::vector<double> expected;
      for (TokenId const id : ids)
        expected.insert(expected.end(), table.begin() + id * width, table.begin() + (id + 1) * width);
      BOOST_TEST(same_bits(found, expected));
    }
}

/// table + the rows of each id in order; of ids whose places among all that are sorted lie in several chunks of 32, the
/// chunks' sums.
inline std::vector<float> sums_by_id(std::vector<float> table, std::vector<float> const& rows,
                                     std::vector<TokenId> const& ids, Index width) {
  std::vector<std::size_t> order(ids.size());
  std::iota(order.begin(), order.end(), std::size_t{0});
  std::stable_sort(order.begin(), order.end(), [&](std::size_t a, std::size_t b) { return ids[a] < ids[b]; });
  auto const columns = static_cast<std::size_t>(width);
  for (std::size_t begin = 0, end = 0; begin < order.size(); begin = end) {
    auto const id = ids[order[begin]];
    while (end < order.size() && ids[order[end]] == id) ++end;
    bool const in_parts = begin / 32 != (end - 1) / 32;
    for (std::size_t c = 0; c < columns; ++c) {
      float& sum = table[static_cast<std::size_t>(id) * columns + c];
      float part = 0;
      for (std::size_t p = begin; p < end; ++p) {
        (in_parts ? part : sum) += rows[order[p] * columns + c];
        if (in_parts && (p % 32 == 31 || p + 1 == end)) {
          sum += part;
          part = 0;
        }
      }
    }
  }
  return table;
}

BOOST_AUTO_TEST_CASE_TEMPLATE(embedding_gradient_adds_in_a_known_order, B, Backends) {
  using S = typename B::Scalar;
  for (TokensSize const& size : tokens_sizes)
    for (Index const offset : {0, 1}) {
      Index const count = size.count, vocabulary = size.vocabulary, width = size.width;
      auto const old = normal_numbers<float>(vocabulary * width, 1);
      auto const dout = normal_numbers<S>(count * width, 2);
      auto const ids = random_ids(count, vocabulary);
      auto const found = in_all_orders<B>([&](Device<B>& device) {
        auto const dtable = rows_at<float>(device, old, vocabulary, width, 0);
        embedding_backward(device.backend(), device.upload(ids), rows_at<S>(device, dout, count, width, offset),
                           dtable);
        return device.download(dtable);
      });
      BOOST_TEST(same_bits(found, sums_by_id(numbers<float>(old), numbers<float>(dout), ids, width)),
                 count << " of " << vocabulary << ", width " << width);
    }
}

BOOST_AUTO_TEST_CASE_TEMPLATE(chosen_rows, B, Backends) {
  using S = typename B::Scalar;
  for (Index const width : {1, 64, 131, 520})
    for (Index const offset : {0, 1}) {
      auto const x = normal_numbers<S>(40 * width, 1);
      std::vector<std::int32_t> chosen;
      for (std::int32_t i = 0; i < 13; ++i) chosen.push_back(39 - 3 * i);
      auto const gathered = in_all_orders<B>([&](Device<B>& device) {
        auto const out = device.template allocate<S>(13, width);
        gather_rows(device.backend(), rows_at<S>(device, x, 40, width, offset), device.upload(chosen), out);
        return device.template download<double>(out);
      });
      auto const scattered = in_all_orders<B>([&](Device<B>& device) {
        auto const out = rows_at<S>(device, x, 40, width, offset);
        scatter_rows(device.backend(), rows_at<S>(device, x, 40, width, offset).rows(0, 13), device.upload(chosen),
                     out);
        return device.download(out);
      });
      std::vector<double> expected;
      auto sums = numbers<S>(x);
      for (Index i = 0; i < 13; ++i)
        for (Index c = 0; c < width; ++c) {
          auto const at = static_cast<std::size_t>(chosen[static_cast<std::size_t>(i)] * width + c);
          expected.push_back(x[at]);
          sums[at] =
              number<S>(static_cast<float>(x[at]) + static_cast<float>(x[static_cast<std::size_t>(i * width + c)]));
        }
      BOOST_TEST(same_bits(gathered, expected));
      BOOST_TEST(same_bits(scattered, sums));
    }
}

BOOST_AUTO_TEST_CASE_TEMPLATE(rows_appended_to_a_cache, B, Backends) {
  using S = typename B::Scalar;
  // Two old keys and three new ones in rows 1 to 5; no old key and two new ones in rows 8 and 9; nothing new; many.
  std::vector<Sequence> const sequences = {{0, 3, 1, 5}, {3, 2, 8, 2}, {5, 0, 12, 4}, {5, 31, 20, 32}};
  for (Index const width : {7, 64})
    for (Index const count : {0, 2, 4}) {
      std::vector<Sequence> const some(sequences.begin(), sequences.begin() + count);
      auto const x = normal_numbers<S>(36 * width, 1), cache = normal_numbers<S>(52 * width, 2);
      auto const found = in_all_orders<B>([&](Device<B>& device) {
        auto const to = device.template upload<S>(cache, 52, width);
        append_rows(device.backend(), device.upload(some), device.template upload<S>(x, 36, width), to);
        return device.template download<double>(to);
      });
      auto expected = cache;
      for (Sequence const& s : some)
        std::copy_n(x.begin() + s.query_begin * width, s.query_count * width,
                    expected.begin() + (s.key_begin + s.key_count - s.query_count) * width);
      BOOST_TEST(same_bits(found, expected));
    }
}

BOOST_AUTO_TEST_CASE_TEMPLATE(rows_by_number_refuse, B, Backends) {
  using S = typename B::Scalar;
  Device<B> device;
  auto const values = normal_numbers<S>(5 * 4, 1);
  auto const x = device.template upload<S>(values, 5, 4), rows = device.template allocate<S>(3, 4);
  auto const wide = device.template allocate<S>(3, 5);
  auto const ids = device.upload(std::vector<TokenId>{0, 1, 2});
  BOOST_CHECK_EXCEPTION(embedding(device.backend(), x, ids, wide), Error, [](Error const& error) {
    return std::string(error.what()) == "embedding: expected out of 3 x 4, found 3 x 5";
  });
  BOOST_CHECK_THROW(embedding_backward(device.backend(), ids, wide, device.template allocate<float>(5, 4)), Error);
  BOOST_CHECK_THROW(gather_rows(device.backend(), x, ids, x), Error);
  BOOST_CHECK_THROW(scatter_rows(device.backend(), wide, ids, x), Error);
  BOOST_CHECK_THROW(append_rows(device.backend(), {}, wide, x), Error);
  gather_rows(device.backend(), x, ids, rows);  // and still work
  BOOST_TEST(same_bits(device.template download<double>(rows), std::vector<double>(values.begin(), values.begin() + 3 * 4)));
}

}  // namespace moduleformer::test
