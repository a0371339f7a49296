// SPDX-License-Identifier: MIT
// expect: moduleformer: router-z is a mean over tokens, streaming statistics change nothing in it
#include <moduleformer/routing/policies.hpp>

namespace mf = moduleformer;

#ifdef MISUSE
mf::Policies<mf::StreamingStatistics, mf::RouterZLoss> policies;
#else
mf::Policies<mf::WholeBatchStatistics, mf::RouterZLoss> policies;
#endif
