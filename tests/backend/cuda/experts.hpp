// SPDX-License-Identifier: MIT
#pragma once
// Suite: products of ragged experts on backends of CUDA against double loops over slots: every row map, gates,
// activations, tile sizes, more experts than a warp has lanes.

#include "routes.hpp"

#include <moduleformer/backend/cuda/experts.cuh>
#include <moduleformer/core/functors.hpp>

#include <boost/test/unit_test.hpp>

#include <vector>

namespace moduleformer::test {

template <class B, class Act>
void check_expert_forward(ExpertCase const& size, Act act, Rows x_rows, Rows y_rows, bool gated, bool keep) {
  using S = typename B::Scalar;
  Index const k = size.k, n = size.n, slots = size.tokens * size.top_k;
  Routes const routes{size.tokens, size.top_k, size.experts, size.load};
  auto const x = normal_numbers<S>(routes.rows(x_rows) * k, 1), weight = normal_numbers<S>(size.experts * k * n, 2);
  auto const gate = normal_numbers<float>(slots, 3);
  auto const found = in_all_orders<B>([&](Device<B>& device) {
    auto const pre = device.template allocate<S>(slots, n), y = device.template allocate<S>(routes.rows(y_rows), n);
    expert_forward(device.backend(), upload_plan(device, routes), act, device.template upload<S>(x, routes.rows(x_rows), k), x_rows,
                   device.template upload<S>(weight, size.experts, k, n),
                   gated ? device.template upload<float>(gate) : Vector<float const>{}, keep ? pre : Matrix<S>{}, y, y_rows);
    auto both = device.template download<float>(y);
    if (keep)
      for (float const z : device.template download<float>(pre)) both.push_back(z);
    return both;
  });
  std::vector<double> y(static_cast<std::size_t>(routes.rows(y_rows) * n)), pre(static_cast<std::size_t>(slots * n));
  for (Index p = 0; p < slots; ++p) {
    double* const z = pre.data() + p * n;
    for (Index i = 0; i < k; ++i)
      for (Index j = 0; j < n; ++j)
        z[j] += element(x, routes.row(x_rows, p), k, i) * element(weight, routes.expert_of(p) * k + i, n, j);
    for (Index j = 0; j < n; ++j)
      y[static_cast<std::size_t>(routes.row(y_rows, p) * n + j)] =
          (gated ? gate[static_cast<std::size_t>(routes.slot(p))] : 1.0) * act(z[j]).value;
  }
  std::vector<double> expected = y;
  if (keep) expected.insert(expected.end(), pre.begin(), pre.end());
  BOOST_TEST(relative_error(found, expected) < bound<S>,
             "tokens " << size.tokens << " experts " << size.experts << " k " << k << " n " << n);
}

BOOST_AUTO_TEST_CASE(every_tile_size_of_experts_is_tested) {
  using detail::TileSize;
  BOOST_TEST(detail::has_few_rows(14, 5, 23, 19));
  BOOST_TEST(!detail::has_few_rows(40, 4, 16, 24));
  BOOST_CHECK(detail::product_tile_size(40, 4, 16) == TileSize::small);
  BOOST_CHECK(detail::product_tile_size(600, 2, 24) == TileSize::medium);
  BOOST_CHECK(detail::product_tile_size(5 * 130, 5, 3457) == TileSize::large);
}

BOOST_AUTO_TEST_CASE_TEMPLATE(experts_into_a_feed_forward_layer, B, Backends) {
  for (auto const& size : expert_cases) {
    check_expert_forward<B>(size, GeluTanh{}, Rows::token, Rows::sorted, false, true);
    check_expert_forward<B>(size, Identity{}, Rows::sorted, Rows::slot, true, false);
  }
}

BOOST_AUTO_TEST_CASE_TEMPLATE(experts_with_every_row_map, B, Backends) {
  for (Rows const x_rows : {Rows::sorted, Rows::slot, Rows::token})
    for (Rows const y_rows : {Rows::sorted, Rows::slot})
      check_expert_forward<B>({37, 3, 4, 24, 16, Load::balanced}, GeluTanh{}, x_rows, y_rows, true, x_rows == y_rows);
  check_expert_forward<B>({40, 1, 4, 24, 16, Load::balanced}, Identity{}, Rows::token, Rows::slot, true, true);
  check_expert_forward<B>({37, 1, 4, 24, 16, Load::some_empty}, GeluTanh{}, Rows::slot, Rows::token, true, false);
}

BOOST_AUTO_TEST_CASE_TEMPLATE(experts_in_large_tiles, B, Backends) {
  with_every_product_engine<B>([] {
    check_expert_forward<B>({325, 2, 5, 9, 3457, Load::balanced}, Identity{}, Rows::token, Rows::slot, true, false);
    check_expert_forward<B>({325, 2, 5, 264, 3464, Load::some_empty}, GeluTanh{}, Rows::token, Rows::sorted, true, true);
  });
}

// Shared memory for the stages and rows of a large tile of bfloat16, not for the numbers of experts.
BOOST_AUTO_TEST_CASE_TEMPLATE(experts_whose_numbers_leave_no_room_for_large_tiles, B, Backends) {
  RestoredOptions const restored;
  emulation_options().warpgroups = false;
  emulation_options().shared_limit = (96 << 10) + 4 * 128;
  check_expert_forward<B>({325, 2, 5, 9, 3457, Load::balanced}, Identity{}, Rows::token, Rows::slot, true, false);
}

BOOST_AUTO_TEST_CASE_TEMPLATE(experts_with_few_rows, B, Backends) {
  for (Index const tokens : {1, 2, 5})
    check_expert_forward<B>({tokens, 2, 6, 300, 72, Load::balanced}, GeluTanh{}, Rows::token, Rows::sorted, true, true);
  check_expert_forward<B>({12, 2, 6, 40, 72, Load::one_expert}, Identity{}, Rows::token, Rows::slot, true, false);
}

BOOST_AUTO_TEST_CASE_TEMPLATE(more_experts_than_lanes, B, Backends) {
  for (Index const experts : {31, 32, 33, 100, 256})
    check_expert_forward<B>({90, 3, experts, 8, 16, Load::balanced}, Identity{}, Rows::token, Rows::sorted, false, false);
}

BOOST_AUTO_TEST_CASE_TEMPLATE(expert_input_gradients, B, Backends) {
  using S = typename B::Scalar;
  for (auto const& size : expert_cases)
    for (Rows const dy_rows : {Rows::sorted, Rows::slot}) {
      Rows const dx_rows = dy_rows == Rows::slot ? Rows::sorted : Rows::slot;
      Index const k = size.k, n = size.n, slots = size.tokens * size.top_k;
      Routes const routes{size.tokens, size.top_k, size.experts, size.load};
      auto const dy = normal_numbers<S>(slots * n, 1), weight = normal_numbers<S>(size.experts * k * n, 2);
      auto const found = in_all_orders<B>([&](Device<B>& device) {
        auto const dx = device.template allocate<S>(slots, k);
        expert_input_gradient(device.backend(), upload_plan(device, routes), device.template upload<S>(dy, slots, n), dy_rows,
                              device.template upload<S>(weight, size.experts, k, n), dx, dx_rows);
        return device.download(dx);
      });
      std::vector<double> expected(static_cast<std::size_t>(slots * k));
      for (Index p = 0; p < slots; ++p)
        for (Index i = 0; i < k; ++i)
          for (Index j = 0; j < n; ++j)
            expected[static_cast<std::size_t>(routes.row(dx_rows, p) * k + i)] +=
                element(dy, routes.row(dy_rows, p), n, j) * element(weight, routes.expert_of(p) * k + i, n, j);
      BOOST_TEST(relative_error(numbers<double>(found), expected) < bound<S>);
    }
}

BOOST_AUTO_TEST_CASE_TEMPLATE(experts_without_tokens, B, Backends) {
  using S = typename B::Scalar;
  Routes const routes{0, 2, 3, Load::balanced};
  Device<B> device;
  auto const weight = device.template allocate<S>(3, 4, 5);
  Matrix<S> const x{nullptr, {0, 4}}, y{nullptr, {0, 5}};
  BOOST_CHECK_NO_THROW(
      expert_forward(device.backend(), upload_plan(device, routes), Identity{}, x, Rows::token, weight, {}, {}, y, Rows::slot));
}

BOOST_AUTO_TEST_CASE_TEMPLATE(two_slots_of_experts_must_not_write_one_row, B, Backends) {
  using S = typename B::Scalar;
  Routes const routes{4, 2, 3, Load::balanced};
  Device<B> device;
  auto const x = device.template allocate<S>(4, 5), y = device.template allocate<S>(4, 6);
  auto const weight = device.template allocate<S>(3, 5, 6);
  BOOST_CHECK_THROW(expert_forward(device.backend(), upload_plan(device, routes), Identity{}, x, Rows::token, weight, {}, {}, y,
                                   Rows::token),
                    Error);
}

}  // namespace moduleformer::test
