// SPDX-License-Identifier: MIT
// expect: moduleformer: Policies was given two policies of one role
#include <moduleformer/routing/policies.hpp>

namespace mf = moduleformer;

#ifdef MISUSE
mf::Policies<mf::SwitchLoss, mf::LinearRouter, mf::RouterZLoss> policies;
#else
mf::Policies<mf::SwitchLoss, mf::LinearRouter> policies;
#endif
