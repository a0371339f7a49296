// SPDX-License-Identifier: MIT
// Products of ragged experts against double loops over slots: every row map, gates, activations.

#include "experts.hpp"

#include <moduleformer/backend/cpu/experts.hpp>

#include <boost/test/unit_test.hpp>

#include <tuple>

namespace mf = moduleformer;
using mf::Index;
using mf::Rows;
using mf::test::random_array;
using mf::test::relative_error;

namespace {

using Scalars = std::tuple<float, double>;

template <class S, class Act>
void check_forward(mf::test::ExpertCase const& size, Act act, Rows x_rows, Rows y_rows, bool gated, bool keep) {
  Index const tokens = size.tokens, experts = size.experts, k = size.k, n = size.n, slots = tokens * size.top_k;
  mf::test::Routes const routes{tokens, size.top_k, experts, size.load};
  auto const x = random_array<S>(1, routes.rows(x_rows), k);
  auto const weight = random_array<S>(2, experts, k, n);
  auto const gate = random_array<S>(3, slots);
  auto const found = mf::test::run<S>([&](mf::Cpu<S>& backend) {
    auto pre = random_array<S>(4, slots, n), y = random_array<S>(5, routes.rows(y_rows), n);
    expert_forward(backend, routes.plan, act, x.view(), x_rows, weight.view(),
                   gated ? gate.view() : mf::Vector<S const>{}, keep ? pre.view() : mf::Matrix<S>{}, y.view(), y_rows);
    std::vector<S> both = y.values();
    if (keep) both.insert(both.end(), pre.values().begin(), pre.values().end());
    return both;
  });
  mf::test::Array<double, 2> y(routes.rows(y_rows), n), pre(slots, n);
  for (Index p = 0; p < slots; ++p)
    for (Index j = 0; j < n; ++j) {
      double z = 0;
      for (Index i = 0; i < k; ++i)
        z += static_cast<double>(x(routes.row(x_rows, p), i)) * static_cast<double>(weight(routes.expert_of(p), i, j));
      pre(p, j) = z;
      y(routes.row(y_rows, p), j) = (gated ? static_cast<double>(gate(routes.slot(p))) : 1.0) * act(z).value;
    }
  std::vector<double> expected = y.values();
  if (keep) expected.insert(expected.end(), pre.values().begin(), pre.values().end());
  BOOST_TEST(relative_error(found, expected) < mf::test::tolerance<S>, "tokens " << tokens << " experts " << experts);
}

}  // namespace

BOOST_AUTO_TEST_SUITE(backend_experts)

BOOST_AUTO_TEST_CASE_TEMPLATE(forward_into_a_feed_forward_layer, S, Scalars) {
  for (auto const& size : mf::test::expert_cases)
    for (bool const keep : {false, true}) {
      check_forward<S>(size, mf::GeluTanh{}, Rows::token, Rows::sorted, false, keep);
      check_forward<S>(size, mf::Identity{}, Rows::sorted, Rows::slot, true, false);
    }
}

BOOST_AUTO_TEST_CASE_TEMPLATE(forward_with_every_row_map, S, Scalars) {
  for (Rows const x_rows : {Rows::sorted, Rows::slot, Rows::token})
    for (Rows const y_rows : {Rows::sorted, Rows::slot}) {
      check_forward<S>({37, 3, 4, 21, 18, mf::test::Load::balanced}, mf::Tanh{}, x_rows, y_rows, true, true);
      check_forward<S>({37, 3, 4, 21, 18, mf::test::Load::some_empty}, mf::Relu{}, x_rows, y_rows, false, false);
    }
  check_forward<S>({37, 1, 4, 21, 18, mf::test::Load::balanced}, mf::Silu{}, Rows::slot, Rows::token, true, false);
}

BOOST_AUTO_TEST_CASE_TEMPLATE(input_gradient, S, Scalars) {
  for (auto const& size : mf::test::expert_cases)
    for (Rows const dy_rows : {Rows::sorted, Rows::slot}) {
      Rows const dx_rows = dy_rows == Rows::slot ? Rows::sorted : Rows::slot;
      Index const experts = size.experts, k = size.k, n = size.n, slots = size.tokens * size.top_k;
      mf::test::Routes const routes{size.tokens, size.top_k, experts, size.load};
      auto const dy = random_array<S>(1, slots, n);
      auto const weight = random_array<S>(2, experts, k, n);
      auto const found = mf::test::run<S>([&](mf::Cpu<S>& backend) {
        auto dx = random_array<S>(3, slots, k);
        expert_input_gradient(backend, routes.plan, dy.view(), dy_rows, weight.view(), dx.view(), dx_rows);
        return dx.values();
      });
      mf::test::Array<double, 2> expected(slots, k);
      for (Index p = 0; p < slots; ++p)
        for (Index i = 0; i < k; ++i)
          for (Index j = 0; j < n; ++j)
            expected(routes.row(dx_rows, p), i) += static_cast<double>(dy(routes.row(dy_rows, p), j)) *
                                                   static_cast<double>(weight(routes.expert_of(p), i, j));
      BOOST_TEST(relative_error(found, expected.values()) < mf::test::tolerance<S>);
    }
}

BOOST_AUTO_TEST_CASE(no_tokens) {
  mf::test::Routes const routes{0, 2, 3, mf::test::Load::balanced};
  mf::Cpu<float> backend{2};
  auto const weight = random_array<float>(1, 3, 4, 5);
  mf::Matrix<float> const x{nullptr, {0, 4}}, y{nullptr, {0, 5}};
  BOOST_CHECK_NO_THROW(
      expert_forward(backend, routes.plan, mf::Identity{}, x, Rows::token, weight.view(), {}, {}, y, Rows::slot));
}

BOOST_AUTO_TEST_CASE(two_slots_must_not_write_one_row) {
  mf::test::Routes const routes{4, 2, 3, mf::test::Load::balanced};
  mf::Cpu<float> backend{1};
  auto const x = random_array<float>(1, 4, 5), weight3 = random_array<float>(2, 15, 6);
  auto const weight = mf::TensorView<float const, 3>{weight3.view().data(), {3, 5, 6}};
  auto y = random_array<float>(3, 4, 6);
  BOOST_CHECK_THROW(expert_forward(backend, routes.plan, mf::Identity{}, x.view(), Rows::token, weight, {}, {},
                                   y.view(), Rows::token),
                    mf::Error);
}

BOOST_AUTO_TEST_SUITE_END()
