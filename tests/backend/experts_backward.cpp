// SPDX-License-Identifier: MIT
// Gradients of ragged experts with respect to gates, pre-activations and weights against double loops.

#include "experts.hpp"

#include <moduleformer/backend/cpu/experts_backward.hpp>
#include <moduleformer/core/functors.hpp>

#include <boost/test/unit_test.hpp>

#include <tuple>

namespace mf = moduleformer;
using mf::Index;
using mf::Rows;
using mf::test::Array;
using mf::test::random_array;
using mf::test::relative_error;
using mf::test::tolerance;

namespace {

using Scalars = std::tuple<float, double>;

template <class S, class Act>
void check_backward(mf::test::ExpertCase const& size, Act act, Rows z_rows, bool gated, bool with_dgate,
                    bool with_scaled) {
  Index const tokens = size.tokens, experts = size.experts, k = size.k, n = size.n, slots = tokens * size.top_k;
  mf::test::Routes const routes{tokens, size.top_k, experts, size.load};
  auto const dy = random_array<S>(1, tokens, n), z = random_array<S>(2, slots, k);
  auto const weight = random_array<S>(3, experts, k, n);
  auto const gate = random_array<S>(4, slots);
  auto const part = [&](int which) {
    return mf::test::run<S>([&](mf::Cpu<S>& backend) {
      auto dgate = random_array<S>(5, slots);
      auto dz = random_array<S>(6, slots, k), scaled = random_array<S>(7, slots, k);
      expert_backward(backend, routes.plan, act, dy.view(), Rows::token, weight.view(),
                      gated ? gate.view() : mf::Vector<S const>{}, z.view(), z_rows,
                      with_dgate ? dgate.view() : mf::Vector<S>{}, dz.view(),
                      with_scaled ? scaled.view() : mf::Matrix<S>{});
      return which == 0 ? dgate.values() : which == 1 ? dz.values() : scaled.values();
    });
  };
  Array<double, 1> dgate(slots);
  Array<double, 2> dz(slots, k), scaled(slots, k);
  for (Index p = 0; p < slots; ++p) {
    Index const row = routes.row(z_rows, p), token = routes.row(Rows::token, p);
    double const factor = gated ? static_cast<double>(gate(routes.slot(p))) : 1.0;
    for (Index i = 0; i < k; ++i) {
      double g = 0;
      for (Index j = 0; j < n; ++j)
        g += static_cast<double>(dy(token, j)) * static_cast<double>(weight(routes.expert_of(p), i, j));
      auto const a = act(static_cast<double>(z(row, i)));
      dgate(routes.slot(p)) += g * a.value;
      dz(row, i) = factor * g * a.derivative;
      scaled(row, i) = factor * a.value;
    }
  }
  if (with_dgate) BOOST_TEST(relative_error(part(0), dgate.values()) < tolerance<S>);
  BOOST_TEST(relative_error(part(1), dz.values()) < tolerance<S>);
  if (with_scaled) BOOST_TEST(relative_error(part(2), scaled.values()) < tolerance<S>);
}

template <class S>
void check_weight_gradient(mf::test::ExpertCase const& size, Rows x_rows, Rows dy_rows, Index first, Index count) {
  Index const tokens = size.tokens, experts = size.experts, k = size.k, n = size.n, slots = tokens * size.top_k;
  mf::test::Routes const routes{tokens, size.top_k, experts, size.load};
  auto const x = random_array<S>(1, routes.rows(x_rows), k), dy = random_array<S>(2, routes.rows(dy_rows), n);
  auto const before = random_array<S>(3, count, k, n);
  auto const found = mf::test::run<S>([&](mf::Cpu<S>& backend) {
    auto dweight = before;
    expert_weight_gradient(backend, routes.plan, x.view(), x_rows, dy.view(), dy_rows, first, dweight.view());
    return dweight.values();
  });
  std::vector<double> expected(before.values().begin(), before.values().end());
  for (Index p = 0; p < slots; ++p) {
    Index const e = routes.expert_of(p) - first;
    if (e < 0 || e >= count) continue;
    for (Index i = 0; i < k; ++i)
      for (Index j = 0; j < n; ++j)
        expected[static_cast<std::size_t>((e * k + i) * n + j)] +=
            static_cast<double>(x(routes.row(x_rows, p), i)) * static_cast<double>(dy(routes.row(dy_rows, p), j));
  }
  BOOST_TEST(relative_error(found, expected) < tolerance<S>, "tokens " << tokens << " experts " << experts);
}

}  // namespace

BOOST_AUTO_TEST_SUITE(backend_experts_backward)

BOOST_AUTO_TEST_CASE_TEMPLATE(gate_and_pre_activation, S, Scalars) {
  for (auto const& size : mf::test::expert_cases) {
    check_backward<S>(size, mf::GeluTanh{}, Rows::sorted, true, true, true);
    check_backward<S>(size, mf::Identity{}, Rows::slot, true, true, true);
  }
}

BOOST_AUTO_TEST_CASE_TEMPLATE(what_is_not_wanted, S, Scalars) {
  mf::test::ExpertCase const size{45, 2, 3, 20, 9, mf::test::Load::balanced};
  check_backward<S>(size, mf::Silu{}, Rows::sorted, false, true, true);
  check_backward<S>(size, mf::Gelu{}, Rows::slot, true, false, true);
  check_backward<S>(size, mf::Tanh{}, Rows::sorted, true, true, false);
}

BOOST_AUTO_TEST_CASE_TEMPLATE(weights, S, Scalars) {
  for (auto const& size : mf::test::expert_cases) {
    check_weight_gradient<S>(size, Rows::token, Rows::sorted, 0, size.experts);
    check_weight_gradient<S>(size, Rows::slot, Rows::token, 0, size.experts);
    if (size.experts > 2)
      check_weight_gradient<S>(size, Rows::sorted, Rows::token, 1, size.experts - 2);  // others are frozen
  }
}

BOOST_AUTO_TEST_CASE_TEMPLATE(weights_of_more_rows_than_are_gathered_at_once, S, Scalars) {
  for (Index const tokens : {255, 256, 257, 600})
    check_weight_gradient<S>({tokens, 1, 2, 24, 40, mf::test::Load::one_expert}, Rows::token, Rows::slot, 0, 2);
}

BOOST_AUTO_TEST_SUITE_END()
