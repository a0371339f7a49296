// SPDX-License-Identifier: MIT
// The matrix product of one thread against a triple loop: all transpositions, strides, few and many rows,
// sizes around its block sizes.

#include "primitives.hpp"

#include <moduleformer/backend/cpu/gemm.hpp>

#include <boost/test/unit_test.hpp>

#include <tuple>

namespace mf = moduleformer;
using mf::Index;

namespace {

using Scalars = std::tuple<float, double>;

struct Size {
  Index m, n, k;
};

template <class S>
void check(Size size, bool trans_a, bool trans_b, S alpha, S beta) {
  auto const [m, n, k] = size;
  Index const a_rows = trans_a ? k : m, a_columns = trans_a ? m : k, b_rows = trans_b ? n : k,
              b_columns = trans_b ? k : n;
  Index const lda = a_columns + 3, ldb = b_columns + 1, ldc = n + 2;
  auto const a = mf::test::random_array<S>(1, a_rows, lda), b = mf::test::random_array<S>(2, b_rows, ldb);
  auto c = mf::test::random_array<S>(3, m, ldc);
  auto const before = c;
  // C must not be read for beta = 0.
  if (beta == S(0))
    for (Index i = 0; i < m; ++i)
      for (Index j = 0; j < n; ++j) c(i, j) = std::numeric_limits<S>::quiet_NaN();
  std::vector<S> scratch(static_cast<std::size_t>(mf::gemm_scratch<S>(m, n, k)), std::numeric_limits<S>::quiet_NaN());
  scratch.resize(scratch.size() + 16);
  auto const misaligned = reinterpret_cast<std::uintptr_t>(scratch.data()) % 64 / sizeof(S);
  mf::gemm<S>(trans_a ? mf::Trans::yes : mf::Trans::no, trans_b ? mf::Trans::yes : mf::Trans::no, m, n, k, alpha,
              a.view().data(), lda, b.view().data(), ldb, beta, c.view().data(), ldc,
              scratch.data() + (misaligned > 0 ? 64 / sizeof(S) - misaligned : 0));
  double worst = 0;
  for (Index i = 0; i < m; ++i) {
    for (Index j = 0; j < n; ++j) {
      double sum = 0, magnitude = 0;
      for (Index l = 0; l < k; ++l) {
        double const term =
            static_cast<double>(trans_a ? a(l, i) : a(i, l)) * static_cast<double>(trans_b ? b(j, l) : b(l, j));
        sum += term;
        magnitude += std::abs(term);
      }
      double const expected =
          static_cast<double>(alpha) * sum + (beta == S(0) ? 0.0 : static_cast<double>(before(i, j)));
      double const error = std::abs(static_cast<double>(c(i, j)) - expected) / (magnitude + 1);
      worst = error < worst ? worst : error;
    }
    for (Index j = n; j < ldc; ++j) BOOST_TEST(c(i, j) == before(i, j));  // nothing beyond the row
  }
  BOOST_TEST(worst < mf::test::tolerance<S>, "m " << m << " n " << n << " k " << k << " trans_a " << trans_a
                                                  << " trans_b " << trans_b << " beta " << beta << ": " << worst);
}

}  // namespace

BOOST_AUTO_TEST_SUITE(backend_gemm)

BOOST_AUTO_TEST_CASE_TEMPLATE(every_transposition, S, Scalars) {
  for (Size const size : {Size{1, 1, 1}, {1, 7, 5}, {2, 64, 8}, {3, 17, 31}, {4, 129, 33}, {5, 1, 9}, {5, 47, 257},
                          {7, 48, 1}, {16, 49, 255}, {33, 97, 64}, {63, 500, 19},
                          {130, 31, 300}, {200, 70, 90}})
    for (bool const trans_a : {false, true})
      for (bool const trans_b : {false, true}) {
        check<S>(size, trans_a, trans_b, S(1), S(0));
        check<S>(size, trans_a, trans_b, S(-0.5), S(1));
      }
}

BOOST_AUTO_TEST_CASE_TEMPLATE(around_block_sizes, S, Scalars) {
  using Blocks = mf::detail::LargeBlocks<S>;
  constexpr Index many = mf::detail::own_rows + 1, width = mf::detail::panel_width<S>;
  for (Index const d : {-1, 0, 1}) {
    check<S>({mf::detail::own_rows + d, 11, 7}, false, true, S(1), S(0));
    check<S>({mf::detail::panel_rows + d, 2 * width + d, mf::detail::panel_depth + d}, false, true, S(1), S(0));
    check<S>({2 * mf::detail::panel_rows + d, width + d, 2 * mf::detail::panel_depth + d}, true, false, S(0.5), S(1));
    check<S>({29, mf::detail::shallow_columns + d, mf::detail::shallow_depth + d}, true, false, S(1), S(1));
    check<S>({many, 11, Blocks::k + d}, false, false, S(1), S(0));
    check<S>({many, Blocks::n + d, 6}, false, true, S(1), S(1));
    check<S>({Blocks::m + d, 10, 7}, true, false, S(1), S(0));
  }
  check<S>({Blocks::m + 1, Blocks::n + 1, Blocks::k + 1}, false, false, S(1), S(1));
}

BOOST_AUTO_TEST_CASE_TEMPLATE(empty_sizes, S, Scalars) {
  check<S>({0, 5, 3}, false, false, S(1), S(0));
  check<S>({5, 0, 3}, false, true, S(1), S(0));
  check<S>({5, 4, 0}, false, false, S(1), S(0));  // zeros
  check<S>({5, 4, 0}, true, true, S(1), S(1));    // unchanged
}

BOOST_AUTO_TEST_SUITE_END()
