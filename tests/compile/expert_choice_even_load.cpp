// SPDX-License-Identifier: MIT
// expect: moduleformer: expert choice gives every expert the same load, a loss of the load has nothing to even out
#include <moduleformer/routing/policies.hpp>

namespace mf = moduleformer;

#ifdef MISUSE
mf::Policies<mf::ExpertChoice, mf::LoadLoss> policies;
#else
mf::Policies<mf::ExpertChoice, mf::ImportanceLoss> policies;
#endif
