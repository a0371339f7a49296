// SPDX-License-Identifier: MIT
// Products of small blocks, transposes and padded copies against loops, over all remainders of tiles.

#include "support.hpp"

#include <moduleformer/backend/cpu/block_product.hpp>
#include <moduleformer/backend/cpu/stick_breaking_tile.hpp>

#include <boost/test/unit_test.hpp>

#include <tuple>

namespace mf = moduleformer;
using mf::test::Array;
using mf::test::relative_error;

namespace {

using Scalars = std::tuple<float, double>;

template <class S, mf::detail::Operand operand, mf::detail::Store how>
void check(mf::Index rows, mf::Index columns, mf::Index depth) {
  bool const plain = operand == mf::detail::Operand::plain;
  mf::Index const lda = (plain ? depth : rows) + 3, ldb = columns + 5, ldc = columns + 1;
  Array<S, 2> a(plain ? rows : depth, lda), b(depth, ldb), c(rows, ldc);
  mf::test::fill_normal(a.values(), 1);
  mf::test::fill_normal(b.values(), 2);
  mf::test::fill_normal(c.values(), 3);
  std::vector<double> expected(c.values().begin(), c.values().end());
  for (mf::Index m = 0; m < rows; ++m)
    for (mf::Index n = 0; n < columns; ++n) {
      double sum = how == mf::detail::Store::add ? static_cast<double>(c(m, n)) : 0.0;
      for (mf::Index k = 0; k < depth; ++k)
        sum += static_cast<double>(plain ? a(m, k) : a(k, m)) * static_cast<double>(b(k, n));
      expected[static_cast<std::size_t>(m * ldc + n)] = sum;
    }
  mf::detail::block_product<operand, how>(rows, columns, depth, a.values().data(), lda, b.values().data(), ldb,
                                          c.values().data(), ldc);
  BOOST_TEST(relative_error(c.values(), expected) < (sizeof(S) == 4 ? 2e-6 : 1e-14));
}

}  // namespace

BOOST_AUTO_TEST_SUITE(backend_block_product)

BOOST_AUTO_TEST_CASE_TEMPLATE(all_remainders, S, Scalars) {
  using mf::detail::Operand, mf::detail::Store;
  mf::Index const vector = mf::detail::lanes<S>;
  for (mf::Index rows = 0; rows <= 2 * mf::detail::tile_rows + 1; ++rows)
    for (mf::Index const columns : {vector, 2 * vector, 3 * vector})
      for (mf::Index const depth : {0, 1, 7, 64}) {
        check<S, Operand::plain, Store::overwrite>(rows, columns, depth);
        check<S, Operand::plain, Store::add>(rows, columns, depth);
        check<S, Operand::transposed, Store::overwrite>(rows, columns, depth);
        check<S, Operand::transposed, Store::add>(rows, columns, depth);
      }
}

BOOST_AUTO_TEST_CASE_TEMPLATE(transposes_and_copies, S, Scalars) {
  mf::Index const vector = mf::detail::lanes<S>, rows = 2 * vector, width = 3 * vector - 1, padded = 3 * vector;
  Array<S, 2> from(rows - 1, width + 2), copy(rows, padded), turned(padded, rows);
  mf::test::fill_normal(from.values(), 4);
  for (S& value : copy.values()) value = S(9);
  mf::detail::copy_padded(rows - 1, width, from.values().data(), width + 2, S(2), copy.values().data(), padded, rows);
  mf::detail::transpose(rows, padded, copy.values().data(), padded, turned.values().data(), rows);
  for (mf::Index i = 0; i < rows; ++i)
    for (mf::Index x = 0; x < padded; ++x) {
      S const expected = i < rows - 1 && x < width ? S(2) * from(i, x) : S(0);
      BOOST_TEST(copy(i, x) == expected);
      BOOST_TEST(turned(x, i) == expected);
    }
}

BOOST_AUTO_TEST_SUITE_END()
