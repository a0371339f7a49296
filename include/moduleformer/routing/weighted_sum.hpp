// SPDX-License-Identifier: MIT
#pragma once
// WeightedSum<Losses...>: L = sum_i weight_i L_i, itself a routing loss.

#include <moduleformer/routing/routing_losses.hpp>

#include <array>
#include <cstddef>
#include <string>
#include <string_view>
#include <tuple>
#include <utility>

namespace moduleformer {

template <RoutingLoss... Losses>
struct WeightedSum {
  static_assert(sizeof...(Losses) > 0, "moduleformer: WeightedSum needs at least one loss");
  using Role = role::RoutingLoss;
  static constexpr std::string_view name = "weighted_sum";

  std::array<double, sizeof...(Losses)> weights{};  // in the order of Losses
  std::tuple<Losses...> losses{};

  /// Each weight under its loss's name, and numbers of a loss under "name.number".
  template <class Self, class Visitor>
  static void visit(Self& self, Visitor&& visit) {
    std::size_t i = 0;
    auto const one = [&]<class Loss>(Loss& loss) {
      visit(Loss::name, self.weights[i++]);
      auto const inner = [&](std::string_view key, auto& number) {
        visit(std::string_view(std::string(Loss::name) + "." + std::string(key)), number);
      };
      if constexpr (requires { Loss::visit(loss, inner); }) Loss::visit(loss, inner);
    };
    std::apply([&](auto&... each) { (one(each), ...); }, self.losses);
  }

  [[nodiscard]] MODULEFORMER_HOST_DEVICE double value(RoutingStatistics const& sums) const {
    return each([&](auto const& loss, double w) { return w == 0 ? 0.0 : w * loss.value(sums); },
                std::index_sequence_for<Losses...>{});
  }
  MODULEFORMER_HOST_DEVICE void gradient(RoutingStatistics const& sums, double weight, RoutingGradient& gradient) const {
    each([&](auto const& loss, double w) { return loss.gradient(sums, weight * w, gradient), 0.0; },
         std::index_sequence_for<Losses...>{});
  }

 private:
  template <class F, std::size_t... I>
  MODULEFORMER_HOST_DEVICE double each(F const& f, std::index_sequence<I...>) const {
    return (f(std::get<I>(losses), weights[I]) + ...);
  }
};

}  // namespace moduleformer
