// SPDX-License-Identifier: MIT
// Routing losses against the published reference and against differences, and their properties.

#include "support/golden.hpp"
#include "support/layer.hpp"

#include <moduleformer/routing/gating.hpp>
#include <moduleformer/routing/selection.hpp>
#include <moduleformer/routing/weighted_sum.hpp>

#include <boost/mpl/list.hpp>

namespace mf = moduleformer;
using mf::Index;
using namespace mf::test;

namespace {

/// Logits through softmax, top-k, the sums, a loss, and back.
struct Routed {
  Routed(Double& backend, mf::Matrix<double const> logits, Index k) : logits_(logits) {
    mf::Pass<Double> pass{backend, settings};
    choice = mf::choose(pass, mf::TopK{}, mf::SoftmaxGates{}, mf::TopK::Parameters<mf::Values<double>>{}, k, k,
                        mf::RandomSite::attention_sampling, logits, {});
    Index const e = logits.extent(1);
    sums = {logits.extent(0), k, pass.allocate<double>(e), pass.allocate<double>(e), pass.allocate<double>(e),
            pass.allocate<double>(1).data(), pass.allocate<double>(1).data()};
    sum_routing(backend, logits, choice.probabilities, choice.logsumexp, choice.gates, choice.experts, sums);
  }
  template <class Loss>
  std::vector<double> gradient(Double& backend, Loss const& loss) {
    Index const n = logits_.extent(0), e = logits_.extent(1), k = choice.gates.extent(1);
    std::vector<double> by_probability(static_cast<std::size_t>(e), 0.0), by_gate(by_probability), none(static_cast<std::size_t>(n * k));
    double by_entropy = 0, by_lse = 0;
    mf::RoutingGradient gradient{{by_probability.data(), {e}}, {by_gate.data(), {e}}, &by_entropy, &by_lse};
    loss.gradient(sums, 1.0, gradient);
    std::vector<double> dlogits(static_cast<std::size_t>(n * e));
    mf::Pass<Double> pass{backend, settings};
    mf::SoftmaxGates{}.backward(pass, choice, logits_, mf::Matrix<double const>{none.data(), {n, k}}, gradient,
                               mf::Matrix<double>{dlogits.data(), {n, e}});
    return dlogits;
  }

  mf::Matrix<double const> logits_;
  mf::Settings settings;
  mf::Choice<double> choice;
  mf::RoutingStatistics sums;
};

double largest_error(std::vector<double> const& a, std::vector<double> const& b) {
  double error = 0, scale = 0;
  for (std::size_t i = 0; i < a.size(); ++i) {
    error = std::max(error, std::abs(a[i] - b[i]));
    scale = std::max(scale, std::abs(b[i]));
  }
  return error / scale;
}

template <class Loss>
void compare_with_reference(std::string const& name, Loss const& loss) {
  GoldenFile const file{"ops/routing_losses.safetensors"};
  auto const logits = file.tensor<double>("logits");
  Double backend(2);
  Routed routed(backend, {logits.values.data(), {logits.shape[0], logits.shape[1]}}, 3);
  auto const expected = file.tensor<double>(name).values.front();
  BOOST_TEST(std::abs(loss.value(routed.sums) - expected) <= 1e-9 * std::abs(expected), name);
  BOOST_TEST(largest_error(routed.gradient(backend, loss), file.tensor<double>("grad_" + name).values) <= 1e-9, name);
}

template <class Loss>
void check_differences(Loss const& loss, Index n, Index e, Index k) {
  Double backend(2);
  auto logits = random_values(n * e, 11);
  for (double& l : logits) l *= 3;
  mf::Matrix<double const> const view{logits.data(), {n, e}};
  auto const analytic = Routed(backend, view, k).gradient(backend, loss);
  check_gradient("dlogits", logits, analytic, [&] { return loss.value(Routed(backend, view, k).sums); });
}

using Everything = mf::WeightedSum<mf::MutualInformationLoss, mf::LoadConcentrationLoss, mf::SwitchLoss, mf::RouterZLoss,
                                   mf::ImportanceLoss, mf::NoRoutingLoss>;
using AllLosses = boost::mpl::list<mf::MutualInformationLoss, mf::LoadConcentrationLoss, mf::SwitchLoss, mf::ExactSwitchLoss,
                                   mf::RouterZLoss, mf::ImportanceLoss, mf::NoRoutingLoss>;

}  // namespace

BOOST_AUTO_TEST_CASE(values_and_gradients_are_the_reference_s) {
  compare_with_reference("mutual_information_loss", mf::MutualInformationLoss{});
  compare_with_reference("load_concentration_loss", mf::LoadConcentrationLoss{});
  compare_with_reference("marginal_entropy", mf::LoadConcentrationLoss{});
  compare_with_reference("switch_loss", mf::ExactSwitchLoss{.z_weight = 0});
  compare_with_reference("router_z_loss", mf::RouterZLoss{});
  compare_with_reference("importance_cv2_loss", mf::ImportanceLoss{});
}

BOOST_AUTO_TEST_CASE_TEMPLATE(gradients_are_those_of_the_value, Loss, AllLosses) {
  check_differences(Loss{}, 1, 1, 1);
  check_differences(Loss{}, 1, 5, 5);
  check_differences(Loss{}, 13, 7, 2);
  check_differences(Loss{}, 300, 3, 1);
}

BOOST_AUTO_TEST_CASE(weighted_sum_is_the_sum) {
  Everything const sum{.weights = {0.5, -1, 2, 0.25, 3, 7}};
  check_differences(sum, 13, 7, 2);
  Double backend(1);
  auto const logits = random_values(13 * 7, 5);
  Routed const routed(backend, {logits.data(), {13, 7}}, 2);
  double const expected = 0.5 * mf::MutualInformationLoss{}.value(routed.sums) - mf::LoadConcentrationLoss{}.value(routed.sums) +
                          2 * mf::SwitchLoss{}.value(routed.sums) + 0.25 * mf::RouterZLoss{}.value(routed.sums) +
                          3 * mf::ImportanceLoss{}.value(routed.sums);
  BOOST_TEST(std::abs(sum.value(routed.sums) - expected) < 1e-13);
}

BOOST_AUTO_TEST_CASE(weighted_sum_lists_the_numbers_of_its_losses) {
  mf::WeightedSum<mf::MutualInformationLoss, mf::SwitchLoss> sum{.weights = {0.5, 2}};
  std::vector<std::pair<std::string, double>> seen;
  sum.visit(sum, [&](std::string_view key, double& number) { seen.emplace_back(key, number++); });
  BOOST_TEST((seen == std::vector<std::pair<std::string, double>>{{"mi", 0.5}, {"switch", 2}, {"switch.z_weight", 0.1}}));
  BOOST_TEST(mf::detail::loss_at<1>(sum.losses).z_weight == 1.1);
}

BOOST_AUTO_TEST_CASE(uniform_routing) {
  // Token t chooses expert t mod E with certainty: the load is uniform, each choice decisive.
  Index const n = 24, e = 8;
  std::vector<double> decisive(static_cast<std::size_t>(n * e), 0.0), flat(decisive);
  for (Index t = 0; t < n; ++t) decisive[static_cast<std::size_t>(t * e + t % e)] = 800;
  Double backend(1);
  Routed const even(backend, {decisive.data(), {n, e}}, 1);
  BOOST_TEST(mf::SwitchLoss{.z_weight = 0}.value(even.sums) == 1.0);
  BOOST_TEST(mf::ImportanceLoss{}.value(even.sums) == 0.0);
  BOOST_TEST(std::abs(mf::MutualInformationLoss{}.value(even.sums) + std::log(8.0)) < 1e-6);
  BOOST_TEST(std::abs(mf::LoadConcentrationLoss{}.value(even.sums) - std::log(8.0)) < 1e-6);
  // Equal logits: no information, whatever the ties do.
  Routed const none(backend, {flat.data(), {n, e}}, 2);
  BOOST_TEST(std::abs(mf::SwitchLoss{.z_weight = 0}.value(none.sums) - 1.0) < 1e-12);
  BOOST_TEST(std::abs(mf::MutualInformationLoss{}.value(none.sums)) < 1e-6);
}

BOOST_AUTO_TEST_CASE(huge_logits_stay_finite) {
  std::vector<double> logits{1e4, -1e4, 3e4, -3e4, 0, 2e4};
  Double backend(1);
  Routed routed(backend, {logits.data(), {2, 3}}, 2);
  for (double const g : routed.gradient(backend, Everything{.weights = {1, 1, 1, 1, 1, 1}})) BOOST_TEST(std::isfinite(g));
  BOOST_TEST(std::isfinite(Everything{.weights = {1, 1, 1, 1, 1, 1}}.value(routed.sums)));
}
