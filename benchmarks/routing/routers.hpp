// SPDX-License-Identifier: MIT
#pragma once
// How a model's routers of one kind spread held-out text of several domains, for a table.

#include "routing/cell.hpp"

#include <moduleformer/model/routing_summary.hpp>

namespace bench {

enum class Kind { attention, feed_forward };

/// Means over the routers of a kind (which take turns); dead experts in all.
inline KindResult result_of(mf::RoutingSummary const& summary, Kind kind) {
  KindResult mean;
  double count = 0;
  auto const routers = summary.routers();
  for (std::size_t r = kind == Kind::attention ? 0 : 1; r < routers.size(); r += 2) {
    mf::RouterSummary const& router = routers[r];
    count += 1;
    mean.effective += router.effective_experts();
    mean.busiest += router.busiest();
    mean.dead += static_cast<double>(router.dead_experts());
    mean.mutual_information += router.mutual_information();
    mean.domain_information += summary.domain_information(r);
    mean.dropped_gate += router.dropped_gate();
  }
  for (double* const x :
       {&mean.effective, &mean.busiest, &mean.mutual_information, &mean.domain_information, &mean.dropped_gate})
    *x /= count;
  return mean;
}

}  // namespace bench
