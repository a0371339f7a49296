// SPDX-License-Identifier: MIT
// Views against index arithmetic written out: row-major offsets, slices, rows, reshaping, constness.

#include <moduleformer/core/tensor_view.hpp>

#include <boost/test/unit_test.hpp>

#include <numeric>
#include <type_traits>
#include <vector>

namespace mf = moduleformer;

namespace {

/// Elements 0, 1, 2, ... so that an element's value is its offset.
struct Counted {
  std::vector<int> values;
  explicit Counted(mf::Index size) : values(static_cast<std::size_t>(size)) {
    std::iota(values.begin(), values.end(), 0);
  }
  template <class... Sizes>
  auto view(Sizes... sizes) {
    return mf::TensorView<int, sizeof...(Sizes)>{values.data(), {sizes...}};
  }
};

}  // namespace

BOOST_AUTO_TEST_SUITE(core_tensor_view)

BOOST_AUTO_TEST_CASE(elements_are_row_major) {
  mf::Index const sizes[][3] = {{1, 1, 1}, {2, 3, 5}, {7, 1, 2}, {1, 11, 1}};
  for (auto const& [planes, rows, columns] : sizes) {
    Counted data{planes * rows * columns};
    auto const view = data.view(planes, rows, columns);
    BOOST_TEST(view.size() == planes * rows * columns);
    for (mf::Index i = 0; i < planes; ++i)
      for (mf::Index j = 0; j < rows; ++j)
        for (mf::Index k = 0; k < columns; ++k) {
          mf::Index const offset = (i * rows + j) * columns + k;
          BOOST_TEST(view(i, j, k) == offset);
          BOOST_TEST(view[offset] == offset);
          BOOST_TEST(&view.slice(i)(j, k) == &view(i, j, k));
          BOOST_TEST(&view.slice(i).slice(j)(k) == &view(i, j, k));
        }
  }
}

BOOST_AUTO_TEST_CASE(extents_of_parts) {
  Counted data{2 * 3 * 5};
  auto const view = data.view(2, 3, 5);
  BOOST_TEST(view.extent(0) == 2);
  BOOST_TEST(view.extent(2) == 5);
  auto const slice = view.slice(1);
  static_assert(std::is_same_v<decltype(slice), mf::Matrix<int> const>);
  BOOST_TEST((slice.extents() == mf::Matrix<int>::Extents{3, 5}));
  auto const rows = slice.rows(1, 2);
  BOOST_TEST((rows.extents() == mf::Matrix<int>::Extents{2, 5}));
  BOOST_TEST(rows(0, 0) == 20);
  BOOST_TEST(rows(1, 4) == 29);
  BOOST_TEST(slice.rows(3, 0).size() == 0);
}

BOOST_AUTO_TEST_CASE(reshape_keeps_elements) {
  Counted data{12};
  auto const matrix = data.view(12).reshape(3, 4);
  static_assert(std::is_same_v<decltype(matrix), mf::Matrix<int> const>);
  BOOST_TEST(matrix(2, 3) == 11);
  BOOST_TEST(matrix(1, 0) == 4);
  BOOST_TEST(matrix.reshape(2, 3, 2)(1, 1, 1) == 9);
}

BOOST_AUTO_TEST_CASE(ranges) {
  Counted data{6};
  auto const matrix = data.view(2, 3);
  BOOST_TEST(std::accumulate(matrix.begin(), matrix.end(), 0) == 15);
  BOOST_TEST(std::accumulate(matrix.slice(1).begin(), matrix.slice(1).end(), 0) == 12);
  matrix(1, 2) = 100;  // a constant view of mutable elements
  BOOST_TEST(data.values[5] == 100);
}

BOOST_AUTO_TEST_CASE(null_and_constant_views) {
  BOOST_TEST(!mf::Matrix<float>{});
  BOOST_TEST(mf::Matrix<float>{}.size() == 0);
  Counted data{1};
  BOOST_TEST(static_cast<bool>(data.view(1)));
  mf::Vector<int const> const constant = data.view(1);
  BOOST_TEST(constant.data() == data.values.data());
  static_assert(!std::is_convertible_v<mf::Vector<int const>, mf::Vector<int>>);
  static_assert(!std::is_convertible_v<mf::Matrix<int>, mf::Vector<int>>);
  static_assert(std::is_same_v<decltype(constant[0]), int const&>);
}

BOOST_AUTO_TEST_CASE(works_at_compile_time) {
  constexpr auto sum = [] {
    int values[6] = {1, 2, 3, 4, 5, 6};
    mf::Matrix<int> const matrix{values, {2, 3}};
    return matrix(1, 0) * 10 + matrix.slice(0)(2) + matrix.rows(1, 1)(0, 2);
  }();
  BOOST_TEST(sum == 49);
}

BOOST_AUTO_TEST_SUITE_END()
