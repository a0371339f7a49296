// SPDX-License-Identifier: MIT
#pragma once
// What keeps new experts from taking over the traffic of old ones, while only they and their rows A' of routers train:
//   l2  adds l2 / 2 |A'|^2 to the loss
//   kl  adds kl times the routers' divergence from what they were, summed over routers, mean over the tokens of old data
//       that a step is given beside its batches (routing/router_guard.hpp)

#include <moduleformer/core/error.hpp>
#include <moduleformer/core/platform.hpp>
#include <moduleformer/model/observation.hpp>
#include <moduleformer/model/reports.hpp>

#include <cstddef>
#include <limits>
#include <string>
#include <string_view>
#include <vector>

namespace moduleformer {

struct RouterGuard {
  double l2 = 0;
  double kl = 0;

  [[nodiscard]] bool active() const { return l2 > 0 || kl > 0; }
  /// Of one of so many batches of old data: its cross-entropy counts as nothing.
  [[nodiscard]] GradientScale scale(std::size_t batches) const {
    return {.counted = std::numeric_limits<double>::infinity(), .auxiliary = kl / static_cast<double>(batches)};
  }
  /// Throws Error for a weight out of range.
  void check() const {
    expects(l2 >= 0 && l2 < 1e12, "router guard: l2: expected a weight from 0 to below 1e12, found ", l2);
    expects(kl >= 0 && kl < 1e12, "router guard: kl: expected a weight from 0 to below 1e12, found ", kl);
  }
};

namespace detail {

/// gradient += weight w.
template <class A>
struct AddDecay {
  A weight;
  A const* w;
  A* gradient;
  MODULEFORMER_HOST_DEVICE void operator()(Index i) const { gradient[i] += weight * w[i]; }
};

/// Calls f(i) for the segments of routers whose last rows alone train, and f's router: 2 layer + (0 or 1).
template <class Model, class F>
void for_new_router_rows(Model const& model, F const& f) {
  for (Index r = 0; r < 2 * model.config().layers; ++r) {
    std::string const router = (r % 2 == 0 ? attention_router_name(r / 2) : feed_forward_router_name(r / 2)) + ".";
    for (std::size_t i = 0; i < model.table().count(); ++i) {
      auto const& s = model.table()[i];
      if (!std::string_view(s.name).starts_with(router) || s.trainable_size() == 0) continue;
      expects(s.trainable_begin > 0 && s.trainable_end == s.active_rows, "router guard: ", s.name,
              ": expected only its last rows, those of new experts, to train");
      f(i, r);
    }
  }
}

/// How many rows of each router are old, attention and feed-forward of each layer in turn. Throws Error where others train than
/// new ones, and if none does.
template <class Model>
std::vector<Index> old_router_rows(Model const& model) {
  std::vector<Index> old;
  for (auto const& block : model.transformer().blocks()) {
    old.push_back(block.attention().router().rows());
    old.push_back(block.feed_forward().router().rows());
  }
  bool any = false;
  for_new_router_rows(model, [&](std::size_t i, Index r) {
    old[static_cast<std::size_t>(r)] = model.table()[i].trainable_begin;
    any = true;
  });
  expects(any, "router guard: expected rows of new experts that train, found none");
  return old;
}

/// The gradient of l2 / 2 |A'|^2.
template <class Model, class Backend>
void add_guard_decay(Backend& backend, Model const& model, double l2, typename Model::Gradient& gradient) {
  using A = typename Model::Accumulator;
  for_new_router_rows(model, [&](std::size_t i, Index) {
    auto const& s = model.table()[i];
    invoke_each(backend, s.trainable_size(),
                AddDecay<A>{static_cast<A>(l2), model.values(i).data() + s.trainable_begin * s.row_size(),
                            gradient.values().data() + s.gradient_offset});
  });
}

}  // namespace detail

}  // namespace moduleformer
