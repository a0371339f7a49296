// SPDX-License-Identifier: MIT
// expect: moduleformer: Policies was given a policy whose role no model has
#include <moduleformer/routing/policies.hpp>

#include <string_view>

namespace mf = moduleformer;

struct Loss : mf::MutualInformationLoss {
#ifdef MISUSE
  struct Role {};
#endif
};

mf::Policies<Loss> policies;
