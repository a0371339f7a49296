// SPDX-License-Identifier: MIT
#pragma once
// Auxiliary losses of one router. Each is a function of the sums in RoutingStatistics: value() gives
// the loss, gradient() adds `weight` times its derivatives with respect to those sums; the backend's
// routing_backward carries them to the logits. p(e) = probability_sum_e / N, natural logarithms.
// Formulas: arXiv 2306.04640 section 2.4 (mutual information, concentration), arXiv 2101.03961
// (switch), arXiv 2202.08906 (router-z), arXiv 1701.06538 (importance, load).

#include <moduleformer/backend/arguments.hpp>
#include <moduleformer/core/error.hpp>
#include <moduleformer/core/platform.hpp>
#include <moduleformer/core/policy.hpp>

#include <cmath>
#include <concepts>
#include <string_view>

namespace moduleformer {

/// A policy of role RoutingLoss.
template <class L>
concept RoutingLoss = Policy<L> && requires(L const& loss, RoutingStatistics const& sums, double weight, RoutingGradient& gradient) {
  { loss.value(sums) } -> std::convertible_to<double>;
  loss.gradient(sums, weight, gradient);
};

namespace detail {

/// Inside the logarithm of the marginal entropy, as published.
inline constexpr double entropy_epsilon = 1e-8;

/// H(e) = -sum_e p(e) log(p(e) + 1e-8).
MODULEFORMER_HOST_DEVICE inline double marginal_entropy(RoutingStatistics const& sums) {
  double const n = static_cast<double>(sums.tokens);
  double entropy = 0;
  for (Index e = 0; e < sums.experts(); ++e) {
    double const p = sums.probability_sum[e] / n;
    entropy -= p * std::log(p + entropy_epsilon);
  }
  return entropy;
}

/// Adds weight * d H(e) / d probability_sum_e.
MODULEFORMER_HOST_DEVICE inline void marginal_entropy_gradient(RoutingStatistics const& sums, double weight,
                                                               RoutingGradient& gradient) {
  double const n = static_cast<double>(sums.tokens);
  for (Index e = 0; e < sums.experts(); ++e) {
    double const p = sums.probability_sum[e] / n;
    gradient.probability_sum[e] -=
        weight / n * (std::log(p + entropy_epsilon) + p / (p + entropy_epsilon));
  }
}

/// Mean of x over experts.
MODULEFORMER_HOST_DEVICE inline double mean_of(Vector<double const> x) {
  double total = 0;
  for (Index e = 0; e < x.size(); ++e) total += x[e];
  return total / static_cast<double>(x.size());
}

/// CV^2(x) = Var(x) / Mean(x)^2 over experts, unbiased variance; 0 for one expert, and where nothing was summed.
MODULEFORMER_HOST_DEVICE inline double squared_variation(Vector<double const> x) {
  double const mean = mean_of(x);
  if (x.size() == 1 || mean == 0) return 0;
  double squares = 0;
  for (Index e = 0; e < x.size(); ++e) squares += (x[e] - mean) * (x[e] - mean);
  return squares / static_cast<double>(x.size() - 1) / (mean * mean);
}

/// Adds weight * d CV^2(x) / d x_e.
MODULEFORMER_HOST_DEVICE inline void squared_variation_gradient(Vector<double const> x, double weight, Vector<double> gradient) {
  double const mean = mean_of(x), experts = static_cast<double>(x.size());
  if (x.size() == 1 || mean == 0) return;
  double const cv2 = squared_variation(x);
  for (Index e = 0; e < x.size(); ++e)
    gradient[e] += weight * 2 / mean * ((x[e] - mean) / ((experts - 1) * mean) - cv2 / experts);
}

}  // namespace detail

/// L = H(e|x) - H(e): experts used evenly over all tokens, decisively for each. Pre-training.
struct MutualInformationLoss {
  using Role = role::RoutingLoss;
  static constexpr std::string_view name = "mi";

  [[nodiscard]] MODULEFORMER_HOST_DEVICE double value(RoutingStatistics const& sums) const {
    if (sums.tokens == 0) return 0;
    return -*sums.negative_entropy_sum / static_cast<double>(sums.tokens) - detail::marginal_entropy(sums);
  }
  MODULEFORMER_HOST_DEVICE void gradient(RoutingStatistics const& sums, double weight, RoutingGradient& gradient) const {
    if (sums.tokens == 0) return;
    detail::marginal_entropy_gradient(sums, -weight, gradient);
    *gradient.negative_entropy_sum -= weight / static_cast<double>(sums.tokens);
  }
};

/// L = H(e): few experts carry the load. Fine-tuning before pruning.
struct LoadConcentrationLoss {
  using Role = role::RoutingLoss;
  static constexpr std::string_view name = "load_concentration";

  [[nodiscard]] MODULEFORMER_HOST_DEVICE double value(RoutingStatistics const& sums) const {
    return sums.tokens == 0 ? 0 : detail::marginal_entropy(sums);
  }
  MODULEFORMER_HOST_DEVICE void gradient(RoutingStatistics const& sums, double weight, RoutingGradient& gradient) const {
    if (sums.tokens != 0) detail::marginal_entropy_gradient(sums, weight, gradient);
  }
};

/// L = mean_t logsumexp(logits_t)^2: keeps logits small.
struct RouterZLoss {
  using Role = role::RoutingLoss;
  static constexpr std::string_view name = "router_z";

  [[nodiscard]] MODULEFORMER_HOST_DEVICE double value(RoutingStatistics const& sums) const {
    return sums.tokens == 0 ? 0 : *sums.squared_lse_sum / static_cast<double>(sums.tokens);
  }
  MODULEFORMER_HOST_DEVICE void gradient(RoutingStatistics const& sums, double weight, RoutingGradient& gradient) const {
    if (sums.tokens != 0) *gradient.squared_lse_sum += weight / static_cast<double>(sums.tokens);
  }
};

/// L = E sum_e p(e) f(e) + z_weight * router-z, f(e) the share of the N*K slots, rounded to Share; uniform
/// routing gives 1. The published `switch` option has z_weight 0.1 and shares in float, whatever the model
/// computes in; z_weight 0 is the loss of the Switch Transformer.
template <class Share>
struct BasicSwitchLoss {
  using Role = role::RoutingLoss;
  static constexpr std::string_view name = std::same_as<Share, float> ? "switch" : "switch_exact";
  double z_weight = 0.1;

  template <class Self, class Visitor>
  static void visit(Self& self, Visitor&& visit) {
    visit("z_weight", self.z_weight);
  }

  /// Throws Error for a weight that would make logits grow.
  void check() const { expects(z_weight >= 0, name, ": z_weight: expected a number from 0, found ", z_weight); }

  [[nodiscard]] MODULEFORMER_HOST_DEVICE double value(RoutingStatistics const& sums) const {
    if (sums.tokens == 0) return 0;
    double product = 0;
    for (Index e = 0; e < sums.experts(); ++e) product += sums.probability_sum[e] * share(sums, e);
    return product * scale(sums) + z_weight * RouterZLoss{}.value(sums);
  }
  MODULEFORMER_HOST_DEVICE void gradient(RoutingStatistics const& sums, double weight, RoutingGradient& gradient) const {
    if (sums.tokens == 0) return;
    for (Index e = 0; e < sums.experts(); ++e) gradient.probability_sum[e] += weight * scale(sums) * share(sums, e);
    RouterZLoss{}.gradient(sums, weight * z_weight, gradient);
  }

 private:
  MODULEFORMER_HOST_DEVICE static double scale(RoutingStatistics const& sums) {
    return static_cast<double>(sums.experts()) / static_cast<double>(sums.tokens);
  }
  MODULEFORMER_HOST_DEVICE static double share(RoutingStatistics const& sums, Index e) {
    return static_cast<Share>(sums.count[e]) / static_cast<Share>(sums.tokens * sums.top_k);
  }
};
using SwitchLoss = BasicSwitchLoss<float>;
using ExactSwitchLoss = BasicSwitchLoss<double>;

/// L = CV^2 of the summed gates of each expert; 0 for one expert.
struct ImportanceLoss {
  using Role = role::RoutingLoss;
  static constexpr std::string_view name = "importance_cv2";

  [[nodiscard]] MODULEFORMER_HOST_DEVICE double value(RoutingStatistics const& sums) const {
    return detail::squared_variation(sums.gate_sum);
  }
  MODULEFORMER_HOST_DEVICE void gradient(RoutingStatistics const& sums, double weight, RoutingGradient& gradient) const {
    detail::squared_variation_gradient(sums.gate_sum, weight, gradient.gate_sum);
  }
};

/// L = CV^2 of the tokens that chose each expert; 0 for one expert, E if all choose one. Counts have no derivative: in
/// the gradient K p_te stands for whether t chose e. (arXiv 1701.06538 smooths the counts by the noise of its selection;
/// ours work without noise, so this stand-in is our own.)
struct LoadLoss {
  using Role = role::RoutingLoss;
  static constexpr std::string_view name = "load_cv2";

  [[nodiscard]] MODULEFORMER_HOST_DEVICE double value(RoutingStatistics const& sums) const {
    return detail::squared_variation(sums.count);
  }
  MODULEFORMER_HOST_DEVICE void gradient(RoutingStatistics const& sums, double weight, RoutingGradient& gradient) const {
    detail::squared_variation_gradient(sums.count, weight * static_cast<double>(sums.top_k), gradient.probability_sum);
  }
};

/// No auxiliary loss.
struct NoRoutingLoss {
  using Role = role::RoutingLoss;
  static constexpr std::string_view name = "none";
  [[nodiscard]] MODULEFORMER_HOST_DEVICE double value(RoutingStatistics const&) const { return 0; }
  MODULEFORMER_HOST_DEVICE void gradient(RoutingStatistics const&, double, RoutingGradient&) const {}
};

}  // namespace moduleformer
