// SPDX-License-Identifier: MIT
// Routers: numeric gradients of each, ragged sizes, dropout, and the dynamic form's equality.

#include "support/layer.hpp"

#include <moduleformer/routing/policies.hpp>

#include <boost/mpl/list.hpp>

namespace mf = moduleformer;
using mf::Index;
using namespace mf::test;

namespace {

/// A bare router with its sizes as a layer.
template <class R>
struct RouterAlone {
  template <class Access>
  using Parameters = typename R::template Parameters<Access>;
  template <class Views, class Visitor>
  void visit_parameters(Views& p, Visitor& visit) const {
    router.visit_parameters(extents, p, visit);
  }
  R router;
  mf::RouterExtents extents;
};

template <class R>
void check(Index n, Index d, Index r, Index e, double dropout) {
  LayerUnderTest<RouterAlone<R>> test({R{}, {d, r, e}}, 0.7, 21);
  test.settings.router_dropout = dropout;
  auto x = random_values(n * d, 1);
  auto const weights = random_values(n * e, 2);
  mf::Matrix<double const> const input{x.data(), {n, d}}, dlogits{weights.data(), {n, e}};
  auto const forward = [&] {
    auto pass = test.pass(true);
    auto const logits = pass.template allocate<double>(n, e);
    test.layer.router.forward(pass, test.layer.extents, test.values, input, logits);
    return dot(weights, logits);
  };
  std::vector<double> dx(x.size(), 1e9);  // what was there does not count
  {
    auto pass = test.pass(true);
    auto const logits = pass.template allocate<double>(n, e);
    auto const context = test.layer.router.forward(pass, test.layer.extents, test.values, input, logits);
    test.layer.router.backward(pass, test.layer.extents, test.values, test.gradients, context, input, dlogits,
                               mf::Matrix<double>{dx.data(), {n, d}});
  }
  check_gradient("dx", x, dx, forward);
  test.check_parameters(forward);
}

using AllRouters = boost::mpl::list<mf::LinearRouter, mf::MlpRouter, mf::MlpReluRouter, mf::GmmRouter>;

}  // namespace

BOOST_AUTO_TEST_CASE_TEMPLATE(gradients, R, AllRouters) {
  check<R>(1, 1, 1, 1, 0);
  check<R>(7, 5, 3, 2, 0);
  check<R>(65, 17, 11, 13, 0);
}

BOOST_AUTO_TEST_CASE(gradients_under_dropout) { check<mf::MlpRouter>(33, 8, 31, 5, 0.4); }

BOOST_AUTO_TEST_CASE_TEMPLATE(the_dynamic_form_computes_the_same, R, AllRouters) {
  using Any = mf::dynamic_policies::Router;
  Index const n = 9, d = 6, r = 4, e = 5;
  LayerUnderTest<RouterAlone<R>> fixed({R{}, {d, r, e}}, 0.7, 3);
  LayerUnderTest<RouterAlone<Any>> any({Any{R{}}, {d, r, e}}, 0.7, 3);
  BOOST_REQUIRE_EQUAL(fixed.table.count(), any.table.count());
  for (std::size_t i = 0; i < fixed.table.count(); ++i) BOOST_TEST(fixed.table[i].name == any.table[i].name);
  auto const x = random_values(n * d, 1);
  mf::Matrix<double const> const input{x.data(), {n, d}};
  auto run = [&](auto& test) {
    auto pass = test.pass();
    auto const logits = pass.template allocate<double>(n, e);
    test.layer.router.forward(pass, test.layer.extents, test.values, input, logits);
    return std::vector<double>(logits.begin(), logits.end());
  };
  BOOST_TEST(run(fixed) == run(any), boost::test_tools::per_element());
}

BOOST_AUTO_TEST_CASE(policies_are_chosen_by_name) {
  mf::dynamic_policies policies;
  BOOST_TEST(mf::policy_name(policies.router) == "mlp");
  BOOST_TEST(mf::choose_policy(policies.router, "gmm"));
  BOOST_TEST(mf::policy_name(policies.router) == "gmm");
  BOOST_TEST(!mf::choose_policy(policies.router, "nonsense"));
  BOOST_TEST(mf::policy_name(policies.router) == "gmm");
  BOOST_TEST(mf::policy_choices(policies.router) == "mlp, mlp_relu, linear, gmm");
  mf::Policies<mf::SwitchLoss, mf::LinearRouter> fixed;
  BOOST_TEST(mf::choose_policy(fixed.router, "linear"));
  BOOST_TEST(!mf::choose_policy(fixed.router, "mlp"));
  int numbers = 0;
  mf::visit_policy_numbers(fixed.routing_loss, [&](std::string_view key, double& value) {
    BOOST_TEST(key == "z_weight");
    BOOST_TEST(value == 0.1);
    ++numbers;
  });
  BOOST_TEST(numbers == 1);
}
