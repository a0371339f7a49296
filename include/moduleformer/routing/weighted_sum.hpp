// SPDX-License-Identifier: MIT
#pragma once
// WeightedSum<Losses...>: L = sum_i weight_i L_i, itself a routing loss. A weight may be negative; one at least is not 0 in a
// model. for_each_loss() sees through it.

#include <moduleformer/routing/routing_losses.hpp>

#include <array>
#include <cstddef>
#include <string>
#include <string_view>
#include <utility>

namespace moduleformer {

namespace detail {

// Losses by their place. std::tuple would do, were it trivially copyable: the losses go to where the sums are.
template <std::size_t place, class Loss>
struct PlacedLoss {
  Loss loss{};
};
template <class Places, class... Losses>
struct LossList;
template <std::size_t... places, class... Losses>
struct LossList<std::index_sequence<places...>, Losses...> : PlacedLoss<places, Losses>... {};

template <std::size_t place, class Loss>
constexpr Loss& loss_at(PlacedLoss<place, Loss>& list) {
  return list.loss;
}
template <std::size_t place, class Loss>
constexpr Loss const& loss_at(PlacedLoss<place, Loss> const& list) {
  return list.loss;
}

}  // namespace detail

template <RoutingLoss... Losses>
struct WeightedSum {
  static_assert(sizeof...(Losses) > 0, "moduleformer: WeightedSum needs at least one loss");
  using Role = role::RoutingLoss;
  static constexpr std::string_view name = "weighted_sum";

  std::array<double, sizeof...(Losses)> weights{};  // in the order of Losses
  detail::LossList<std::index_sequence_for<Losses...>, Losses...> losses{};

  /// Each weight under its loss's name, and numbers of a loss under "name.number".
  template <class Self, class Visitor>
  static void visit(Self& self, Visitor&& visit) {
    auto const one = [&]<class Loss>(Loss& loss, auto& weight) {
      visit(Loss::name, weight);
      auto const inner = [&](std::string_view key, auto& number) {
        visit(std::string_view(std::string(Loss::name) + "." + std::string(key)), number);
      };
      if constexpr (requires { Loss::visit(loss, inner); }) Loss::visit(loss, inner);
    };
    [&]<std::size_t... places>(std::index_sequence<places...>) {
      (one(detail::loss_at<places>(self.losses), self.weights[places]), ...);
    }(std::index_sequence_for<Losses...>{});
  }

  [[nodiscard]] MODULEFORMER_HOST_DEVICE double value(RoutingStatistics const& sums) const {
    return each([&](auto const& loss, double w) { return w == 0 ? 0.0 : w * loss.value(sums); },
                std::index_sequence_for<Losses...>{});
  }
  MODULEFORMER_HOST_DEVICE void gradient(RoutingStatistics const& sums, double weight, RoutingGradient& gradient) const {
    each([&](auto const& loss, double w) { return w == 0 ? 0.0 : (loss.gradient(sums, weight * w, gradient), 0.0); },
         std::index_sequence_for<Losses...>{});
  }

  /// Calls f(loss) for each that has a weight.
  template <class F>
  void for_each_weighted(F const& f) const {
    [&]<std::size_t... places>(std::index_sequence<places...>) {
      ((weights[places] != 0 ? f(detail::loss_at<places>(losses)) : void()), ...);
    }(std::index_sequence_for<Losses...>{});
  }

 private:
  template <class F, std::size_t... places>
  MODULEFORMER_HOST_DEVICE double each(F const& f, std::index_sequence<places...>) const {
    return (f(detail::loss_at<places>(losses), weights[places]) + ...);
  }
};

/// Calls f(loss) for a loss, or for each one in a sum that has a weight.
template <RoutingLoss Loss, class F>
void for_each_loss(Loss const& loss, F const& f) {
  if constexpr (requires { loss.for_each_weighted(f); }) loss.for_each_weighted(f);
  else f(loss);
}

}  // namespace moduleformer
