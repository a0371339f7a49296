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
    auto const own = pass.allocate<double>(logits.extent(0), logits.extent(1));
    copy(backend, logits.reshape(logits.size()), own.reshape(own.size()));
    choice = mf::choose(pass, mf::TopK{}, mf::SoftmaxGates{}, mf::TopK::Parameters<mf::Values<double>>{}, k, k, 0, {},
                        mf::RandomSite::attention_sampling, own, {});
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
                                   mf::ImportanceLoss, mf::LoadLoss, mf::NoRoutingLoss>;
// Load is not among them: see load_s_gradient.
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
  Everything const smooth{.weights = {0.5, -1, 2, 0.25, 3, 0, 7}}, sum{.weights = {0.5, -1, 2, 0.25, 3, 1.5, 7}};
  check_differences(smooth, 13, 7, 2);
  Double backend(1);
  auto const logits = random_values(13 * 7, 5);
  Routed const routed(backend, {logits.data(), {13, 7}}, 2);
  double const expected = 0.5 * mf::MutualInformationLoss{}.value(routed.sums) - mf::LoadConcentrationLoss{}.value(routed.sums) +
                          2 * mf::SwitchLoss{}.value(routed.sums) + 0.25 * mf::RouterZLoss{}.value(routed.sums) +
                          3 * mf::ImportanceLoss{}.value(routed.sums) + 1.5 * mf::LoadLoss{}.value(routed.sums);
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
  BOOST_TEST(mf::LoadLoss{}.value(even.sums) == 0.0);
  BOOST_TEST(std::abs(mf::MutualInformationLoss{}.value(even.sums) + std::log(8.0)) < 1e-6);
  BOOST_TEST(std::abs(mf::LoadConcentrationLoss{}.value(even.sums) - std::log(8.0)) < 1e-6);
  // Equal logits: no information, whatever the ties do.
  Routed const none(backend, {flat.data(), {n, e}}, 2);
  BOOST_TEST(std::abs(mf::SwitchLoss{.z_weight = 0}.value(none.sums) - 1.0) < 1e-12);
  BOOST_TEST(std::abs(mf::MutualInformationLoss{}.value(none.sums)) < 1e-6);
}

BOOST_AUTO_TEST_CASE(all_tokens_on_one_expert) {
  // CV^2 is then E, switch E, the marginal entropy 0.
  Index const n = 24, e = 8;
  std::vector<double> logits(static_cast<std::size_t>(n * e), 0.0);
  for (Index t = 0; t < n; ++t) logits[static_cast<std::size_t>(t * e + 3)] = 800;
  Double backend(1);
  Routed const collapsed(backend, {logits.data(), {n, e}}, 1);
  BOOST_TEST(mf::LoadLoss{}.value(collapsed.sums) == 8.0);
  BOOST_TEST(mf::ImportanceLoss{}.value(collapsed.sums) == 8.0);
  BOOST_TEST(mf::SwitchLoss{.z_weight = 0}.value(collapsed.sums) == 8.0);
  BOOST_TEST(std::abs(mf::MutualInformationLoss{}.value(collapsed.sums)) < 1e-6);
  BOOST_TEST(std::abs(mf::LoadConcentrationLoss{}.value(collapsed.sums)) < 1e-6);
}

BOOST_AUTO_TEST_CASE(every_expert_of_every_token) {
  // E = K: equal load whatever the logits, so nothing to differentiate.
  auto const logits = random_values(5 * 3, 2);
  Double backend(1);
  Routed routed(backend, {logits.data(), {5, 3}}, 3);
  BOOST_TEST(mf::LoadLoss{}.value(routed.sums) == 0.0);
  for (double const g : routed.gradient(backend, mf::LoadLoss{})) BOOST_TEST(g == 0.0);
}

BOOST_AUTO_TEST_CASE(nothing_was_summed) {
  // No token, or gates that are all 0: no loss, no gradient, and nothing that is not a number.
  std::vector<double> zero(4, 0.0), probability(4, 0.0), gate(4, 0.0);
  double entropy = 0, lse = 0, by_entropy = 0, by_lse = 0;
  mf::Vector<double> const zeros{zero.data(), {4}};
  mf::RoutingStatistics const sums{0, 2, zeros, zeros, zeros, &entropy, &lse};
  mf::RoutingGradient gradient{{probability.data(), {4}}, {gate.data(), {4}}, &by_entropy, &by_lse};
  Everything const all{.weights = {1, 1, 1, 1, 1, 1, 1}};
  BOOST_TEST(all.value(sums) == 0.0);
  all.gradient(sums, 1.0, gradient);
  for (std::size_t e = 0; e < 4; ++e) BOOST_TEST((probability[e] == 0 && gate[e] == 0));
  BOOST_TEST((by_entropy == 0 && by_lse == 0));
}

// Counts do not change under small steps. The gradient is that of the value at counts which follow K times the change of
// the summed probabilities.
BOOST_AUTO_TEST_CASE(load_s_gradient) {
  struct Sizes { Index n, e, k; };
  for (Sizes const& sizes : {Sizes{1, 5, 2}, Sizes{13, 7, 2}, Sizes{300, 3, 1}, Sizes{1, 1, 1}}) {
    Index const n = sizes.n, e = sizes.e, k = sizes.k;
    Double backend(2);
    auto logits = random_values(n * e, 11);
    for (double& l : logits) l *= 3;
    mf::Matrix<double const> const view{logits.data(), {n, e}};
    auto const copied = [&](auto const& v) { return std::vector<double>(v.begin(), v.end()); };
    std::vector<double> counts, before;
    std::vector<double> analytic;
    {
      Routed routed(backend, view, k);
      counts = copied(routed.sums.count);
      before = copied(routed.sums.probability_sum);
      analytic = routed.gradient(backend, mf::LoadLoss{});
    }
    check_gradient("dlogits", logits, analytic, [&] {
      backend.workspace().release({});
      Routed const routed(backend, view, k);
      for (Index i = 0; i < e; ++i) {
        auto const at = static_cast<std::size_t>(i);
        routed.sums.count[i] = counts[at] + static_cast<double>(k) * (routed.sums.probability_sum[i] - before[at]);
      }
      return mf::LoadLoss{}.value(routed.sums);
    });
  }
}

BOOST_AUTO_TEST_CASE(load_moves_probability_from_the_busy_to_the_idle) {
  auto const logits = random_values(40 * 6, 21);
  Double backend(1);
  Routed routed(backend, {logits.data(), {40, 6}}, 1);
  std::vector<double> by_probability(6, 0.0), by_gate(6, 0.0);
  double by_entropy = 0, by_lse = 0;
  mf::RoutingGradient gradient{{by_probability.data(), {6}}, {by_gate.data(), {6}}, &by_entropy, &by_lse};
  mf::LoadLoss{}.gradient(routed.sums, 1.0, gradient);
  for (Index a = 0; a < 6; ++a)
    for (Index b = 0; b < 6; ++b)
      if (routed.sums.count[a] > routed.sums.count[b])
        BOOST_TEST(by_probability[static_cast<std::size_t>(a)] > by_probability[static_cast<std::size_t>(b)]);
}

BOOST_AUTO_TEST_CASE(huge_logits_stay_finite) {
  std::vector<double> logits{1e4, -1e4, 3e4, -3e4, 0, 2e4};
  Double backend(1);
  Routed routed(backend, {logits.data(), {2, 3}}, 2);
  for (double const g : routed.gradient(backend, Everything{.weights = {1, 1, 1, 1, 1, 1, 1}})) BOOST_TEST(std::isfinite(g));
  BOOST_TEST(std::isfinite(Everything{.weights = {1, 1, 1, 1, 1, 1, 1}}.value(routed.sums)));
}
