// SPDX-License-Identifier: MIT
#pragma once
// Routing plans in a device's memory, for tests of ragged experts.

#include "../routes.hpp"
#include "support.hpp"

#include <vector>

namespace moduleformer::test {

/// The plan in a device's memory.
template <class B>
RoutingPlan upload_plan(Device<B>& device, Routes const& routes) {
  RoutingPlan plan = routes.plan;
  plan.expert = device.upload(routes.expert);
  plan.order = device.upload(routes.order);
  plan.offsets = device.upload(routes.offsets);
  return plan;
}

/// An element of a matrix whose rows have `columns` elements.
inline double element(std::vector<double> const& values, Index row, Index columns, Index column) {
  return values[static_cast<std::size_t>(row * columns + column)];
}

}  // namespace moduleformer::test
