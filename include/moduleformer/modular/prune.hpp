// SPDX-License-Identifier: MIT
#pragma once
// Pruning: which experts stay, by what a RoutingSummary on a task's data says of them, and the smaller model. Routers either
// drop the rows of removed experts, or keep them: see RemovedExperts.
//
//   auto const kept = mf::keep_fraction(model, summary.routers(), 0.25);
//   auto [small, rows] = mf::prune(model, kept);
//
// An expert's use is the share of tokens that chose it, or its mean probability. A router keeps at least as many experts as
// a token needs; shared experts stay. Dormant experts have no use and go.

#include <moduleformer/model/routing_summary.hpp>
#include <moduleformer/modular/surgery.hpp>

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <vector>

namespace moduleformer {

/// What an expert is ranked by.
enum class ExpertUse { frequency, probability };

namespace detail {

/// One router's routed experts with their use, the most used first.
struct RankedExperts {
  struct Expert {
    Index number;  // in the layer
    double use;
  };
  std::vector<Expert> experts;
  Index shared = 0;
  Index least = 0;  // that must stay

  /// The shared ones and the first `count`, at least so many as must stay, by number.
  [[nodiscard]] std::vector<Index> keep(Index count) const {
    std::vector<Index> kept;
    for (Index s = 0; s < shared; ++s) kept.push_back(s);
    count = std::clamp(count, least, static_cast<Index>(experts.size()));
    for (Index i = 0; i < count; ++i) kept.push_back(experts[static_cast<std::size_t>(i)].number);
    std::sort(kept.begin(), kept.end());
    return kept;
  }
};

/// Attention and feed-forward of each layer in turn; of the model only config and policies are asked. Throws Error for a summary of another model or of no tokens.
template <class M>
std::vector<RankedExperts> rank_experts(M const& model, std::vector<RouterSummary> const& routers, ExpertUse use) {
  Config const& config = model.config();
  SharedCounts const shared = shared_counts(model.policies().shared_experts);
  expects(routers.size() == static_cast<std::size_t>(2 * config.layers), "prune: expected a summary of ", 2 * config.layers,
          " routers, found ", routers.size());
  std::vector<RankedExperts> ranked;
  for (std::size_t r = 0; r < routers.size(); ++r) {
    RouterSummary const& seen = routers[r];
    bool const attention = r % 2 == 0;
    Index const layer = static_cast<Index>(r / 2);
    Index const count = attention ? active_experts(config.attention, layer) : active_experts(config.feed_forward, layer);
    expects(seen.experts() == static_cast<std::size_t>(count), "prune: ", seen.name, ": expected ", count,
            " experts in the summary, found ", seen.experts());
    expects(seen.tokens > 0, "prune: ", seen.name, ": the summary is of no tokens");
    RankedExperts& of = ranked.emplace_back();
    of.shared = attention ? shared.attention : shared.feed_forward;
    of.least = (attention ? config.attention.top_k : config.feed_forward.top_k) - of.shared;
    auto const probability = seen.mean_probability();
    for (auto e = static_cast<std::size_t>(of.shared); e < seen.experts(); ++e)
      of.experts.push_back({static_cast<Index>(e), use == ExpertUse::frequency ? seen.load[e] / seen.tokens : probability[e]});
    std::stable_sort(of.experts.begin(), of.experts.end(), [](auto const& a, auto const& b) { return a.use > b.use; });
  }
  return ranked;
}

template <class Count>
ExpertMap keep_each(std::vector<RankedExperts> const& ranked, Count const& count) {
  ExpertMap kept;
  for (std::size_t r = 0; r < ranked.size(); ++r) (r % 2 == 0 ? kept.attention : kept.feed_forward).push_back(ranked[r].keep(count(ranked[r])));
  return kept;
}

inline void check_fraction(double fraction) {
  expects(fraction >= 0 && fraction <= 1, "prune: expected a fraction to keep from 0 to 1, found ", fraction);
}

}  // namespace detail

/// Experts whose use is at least `threshold`.
template <class M>
ExpertMap keep_used(M const& model, std::vector<RouterSummary> const& routers, double threshold,
                    ExpertUse use = ExpertUse::frequency) {
  expects(threshold >= 0, "prune: expected a threshold from 0, found ", threshold);
  return detail::keep_each(detail::rank_experts(model, routers, use), [&](detail::RankedExperts const& of) {
    return static_cast<Index>(std::count_if(of.experts.begin(), of.experts.end(), [&](auto const& e) { return e.use >= threshold; }));
  });
}

/// Of each router the fraction of its routed experts that is used most, rounded up.
template <class M>
ExpertMap keep_fraction(M const& model, std::vector<RouterSummary> const& routers, double fraction,
                        ExpertUse use = ExpertUse::frequency) {
  detail::check_fraction(fraction);
  return detail::keep_each(detail::rank_experts(model, routers, use), [&](detail::RankedExperts const& of) {
    return static_cast<Index>(std::ceil(fraction * static_cast<double>(of.experts.size()) - 1e-9));
  });
}

/// Of all routed experts of the model the fraction that is used most, relative to a router's mean use: routers keep different
/// numbers. Of equally used ones those of earlier layers stay.
template <class M>
ExpertMap keep_fraction_of_all(M const& model, std::vector<RouterSummary> const& routers, double fraction,
                               ExpertUse use = ExpertUse::frequency) {
  detail::check_fraction(fraction);
  auto const ranked = detail::rank_experts(model, routers, use);
  struct Expert {
    std::size_t router;
    double use;  // relative
  };
  std::vector<Expert> all;
  for (std::size_t r = 0; r < ranked.size(); ++r) {
    double sum = 0;
    for (auto const& e : ranked[r].experts) sum += e.use;
    for (auto const& e : ranked[r].experts)
      all.push_back({r, sum > 0 ? e.use / sum * static_cast<double>(ranked[r].experts.size()) : 0});
  }
  std::stable_sort(all.begin(), all.end(), [](Expert const& a, Expert const& b) { return a.use > b.use; });
  all.resize(static_cast<std::size_t>(std::ceil(fraction * static_cast<double>(all.size()) - 1e-9)));
  return detail::keep_each(ranked, [&](detail::RankedExperts const& of) {
    auto const router = static_cast<std::size_t>(&of - ranked.data());
    return static_cast<Index>(std::count_if(all.begin(), all.end(), [&](Expert const& e) { return e.router == router; }));
  });
}

/// The model with the experts that stay, and no dormant ones. Throws Error where fewer stay than a token needs.
template <class M>
Operated<Resizable<M>> prune(M const& model, ExpertMap const& kept, RemovedExperts removed = RemovedExperts::drop_rows) {
  Config const& config = model.config();
  auto const check = [](auto const& kind, std::vector<std::vector<Index>> const& chosen, char const* what) {
    for (std::size_t i = 0; i < chosen.size(); ++i) {
      expects(static_cast<Index>(chosen[i].size()) >= kind.top_k, "prune: layer ", i, ", ", what, ": expected at least ",
              kind.top_k, " experts to stay, as many as a token needs, found ", chosen[i].size());
      for (Index const e : chosen[i])
        expects(e != new_expert && e < active_experts(kind, static_cast<Index>(i)), "prune: layer ", i, ", ", what,
                ": expected active experts, found ", e);
    }
  };
  check(config.attention, kept.attention, "attention");
  check(config.feed_forward, kept.feed_forward, "feed-forward");
  return with_experts(model, kept, {.removed = removed});
}

}  // namespace moduleformer
