// SPDX-License-Identifier: MIT
// expect: moduleformer: statistics over more than a micro-batch need a routing loss that reads them
#include <moduleformer/routing/policies.hpp>

namespace mf = moduleformer;

#ifdef MISUSE
mf::Policies<mf::NoRoutingLoss, mf::WholeBatchStatistics> policies;
#else
mf::Policies<mf::NoRoutingLoss, mf::MicroBatchStatistics> policies;
#endif
