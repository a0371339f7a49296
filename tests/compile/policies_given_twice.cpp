// SPDX-License-Identifier: MIT
// expect: moduleformer: Policies was given two policies of one role
#include <moduleformer/routing/policies.hpp>

namespace mf = moduleformer;

#ifdef MISUSE
mf::Policies<mf::LinearRouter, mf::LinearRouter> policies;
#else
mf::Policies<mf::LinearRouter> policies;
#endif
