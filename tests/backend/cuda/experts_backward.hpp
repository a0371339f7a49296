// SPDX-License-Identifier: MIT
#pragma once
// Suite: gradients of ragged experts on backends of CUDA with respect to gates, pre-activations and weights against
// double loops.

#include "routes.hpp"

#include <moduleformer/backend/cuda/experts_backward.cuh>
#include <moduleformer/core/functors.hpp>

#include <boost/test/unit_test.hpp>

#include <vector>

namespace moduleformer::test {

/// What a call of expert_backward leaves out.
struct Wanted {
  bool gated = true, dgate = true, dz = true, scaled = true;
};

template <class B, class Act>
void check_expert_backward(ExpertCase const& size, Act act, Rows z_rows, Wanted const& wanted = {}) {
  using S = typename B::Scalar;
  Index const k = size.k, n = size.n, slots = size.tokens * size.top_k;
  Routes const routes{size.tokens, size.top_k, size.experts, size.load};
  auto const dy = normal_numbers<S>(size.tokens * n, 1), z = normal_numbers<S>(slots * k, 2);
  auto const weight = normal_numbers<S>(size.experts * k * n, 3);
  auto const gate = normal_numbers<float>(slots, 4);
  std::vector<float> const untouched(static_cast<std::size_t>(slots * k), 7.0f);
  auto const found = in_all_orders<B>([&](Device<B>& device) {
    auto const dgate = device.upload(std::vector<float>(static_cast<std::size_t>(slots), 7.0f));
    auto const dz = device.template upload<S>(untouched, slots, k), scaled = device.template upload<S>(untouched, slots, k);
    expert_backward(device.backend(), upload_plan(device, routes), act, device.template upload<S>(dy, size.tokens, n), Rows::token,
                    device.template upload<S>(weight, size.experts, k, n),
                    wanted.gated ? device.template upload<float>(gate) : Vector<float const>{},
                    device.template upload<S>(z, slots, k), z_rows, wanted.dgate ? dgate : Vector<float>{},
                    wanted.dz ? dz : Matrix<S>{}, wanted.scaled ? scaled : Matrix<S>{});
    auto all = device.download(dgate);
    for (auto const& part : {dz, scaled})
      for (float const value : device.template download<float>(part)) all.push_back(value);
    return all;
  });
  std::vector<double> dgate(static_cast<std::size_t>(slots)), dz(static_cast<std::size_t>(slots * k)), scaled(dz.size());
  for (Index p = 0; p < slots; ++p) {
    double const factor = wanted.gated ? gate[static_cast<std::size_t>(routes.slot(p))] : 1.0;
    for (Index i = 0; i < k; ++i) {
      double g = 0;
      for (Index j = 0; j < n; ++j)
        g += element(dy, routes.row(Rows::token, p), n, j) * element(weight, routes.expert_of(p) * k + i, n, j);
      auto const at = static_cast<std::size_t>(routes.row(z_rows, p) * k + i);
      auto const a = act(z[at]);
      dgate[static_cast<std::size_t>(routes.slot(p))] += g * a.value;
      dz[at] = factor * g * a.derivative;
      scaled[at] = factor * a.value;
    }
  }
  auto const check = [&](Index begin, std::vector<double> const& expected, bool is_wanted, double bound) {
    std::vector<double> const part(found.begin() + begin, found.begin() + begin + static_cast<Index>(expected.size()));
    BOOST_TEST(relative_error(part, is_wanted ? expected : std::vector<double>(expected.size(), 7.0)) < bound,
               "part at " << begin << " tokens " << size.tokens << " experts " << size.experts);
  };
  check(0, dgate, wanted.dgate, bound<float>);
  check(slots, dz, wanted.dz, bound<S>);
  check(slots + slots * k, scaled, wanted.scaled, bound<S>);
}

template <class B>
void check_expert_weight_gradient(ExpertCase const& size, Rows x_rows, Rows dy_rows, Index first, Index count) {
  using S = typename B::Scalar;
  Index const k = size.k, n = size.n;
  Routes const routes{size.tokens, size.top_k, size.experts, size.load};
  auto const x = normal_numbers<S>(routes.rows(x_rows) * k, 1), dy = normal_numbers<S>(routes.rows(dy_rows) * n, 2);
  auto const before = normal_numbers<float>(count * k * n, 3);
  auto const found = in_all_orders<B>([&](Device<B>& device) {
    auto const dweight = device.template upload<float>(before, count, k, n);
    expert_weight_gradient(device.backend(), upload_plan(device, routes), device.template upload<S>(x, routes.rows(x_rows), k), x_rows,
                           device.template upload<S>(dy, routes.rows(dy_rows), n), dy_rows, first, dweight);
    return device.download(dweight);
  });
  std::vector<double> expected = before;
  for (Index p = 0; p < size.tokens * size.top_k; ++p) {
    Index const e = routes.expert_of(p) - first;
    if (e < 0 || e >= count) continue;
    for (Index i = 0; i < k; ++i)
      for (Index j = 0; j < n; ++j)
        expected[static_cast<std::size_t>((e * k + i) * n + j)] +=
            element(x, routes.row(x_rows, p), k, i) * element(dy, routes.row(dy_rows, p), n, j);
  }
  BOOST_TEST(relative_error(found, expected) < bound<float>, "tokens " << size.tokens << " experts " << size.experts);
}

BOOST_AUTO_TEST_CASE_TEMPLATE(gate_and_pre_activation_of_experts, B, Backends) {
  for (auto const& size : expert_cases) {
    check_expert_backward<B>(size, GeluTanh{}, Rows::sorted);
    check_expert_backward<B>(size, Identity{}, Rows::slot);
  }
}

BOOST_AUTO_TEST_CASE_TEMPLATE(gate_and_pre_activation_in_large_tiles, B, Backends) {
  BOOST_CHECK(detail::product_tile_size(650, 5, 3457) == detail::TileSize::large);
  with_every_product_engine<B>([] {
    check_expert_backward<B>({325, 2, 5, 3457, 9, Load::balanced}, Identity{}, Rows::slot);
    check_expert_backward<B>({325, 2, 5, 3464, 264, Load::balanced}, GeluTanh{}, Rows::sorted);
  });
}

// Gates' gradients add up as many tiles as there are columns of the tiles that fit.
BOOST_AUTO_TEST_CASE_TEMPLATE(gates_whose_experts_leave_no_room_for_large_tiles, B, Backends) {
  RestoredOptions const restored;
  emulation_options().warpgroups = false;
  emulation_options().shared_limit = (96 << 10) + 4 * 128;
  check_expert_backward<B>({325, 2, 5, 3457, 9, Load::balanced}, Identity{}, Rows::slot);
}

BOOST_AUTO_TEST_CASE_TEMPLATE(what_is_not_wanted_of_experts, B, Backends) {
  ExpertCase const size{45, 2, 3, 20, 9, Load::balanced};
  check_expert_backward<B>(size, GeluTanh{}, Rows::sorted, {.gated = false});
  check_expert_backward<B>(size, GeluTanh{}, Rows::slot, {.dgate = false});
  check_expert_backward<B>(size, GeluTanh{}, Rows::sorted, {.dz = false});
  check_expert_backward<B>(size, GeluTanh{}, Rows::sorted, {.scaled = false});
}

BOOST_AUTO_TEST_CASE_TEMPLATE(weights_of_experts, B, Backends) {
  for (auto const& size : expert_cases) {
    check_expert_weight_gradient<B>(size, Rows::token, Rows::sorted, 0, size.experts);
    check_expert_weight_gradient<B>(size, Rows::slot, Rows::token, 0, size.experts);
    if (size.experts > 2)
      check_expert_weight_gradient<B>(size, Rows::sorted, Rows::token, 1, size.experts - 2);  // others are frozen
  }
}

BOOST_AUTO_TEST_CASE_TEMPLATE(weights_of_experts_in_large_tiles, B, Backends) {
  BOOST_CHECK(detail::gradient_tile_size(33, 129, 130) == detail::TileSize::large);
  with_every_product_engine<B>([] {
    check_expert_weight_gradient<B>({40, 2, 33, 129, 130, Load::balanced}, Rows::token, Rows::slot, 0, 33);
    check_expert_weight_gradient<B>({280, 2, 33, 136, 136, Load::one_expert}, Rows::token, Rows::sorted, 0, 33);
  });
}

BOOST_AUTO_TEST_CASE_TEMPLATE(weights_of_more_rows_than_the_stages_hold, B, Backends) {
  for (Index const tokens : {63, 191, 192, 193, 450})
    check_expert_weight_gradient<B>({tokens, 1, 2, 24, 40, Load::one_expert}, Rows::token, Rows::slot, 0, 2);
}

}  // namespace moduleformer::test
