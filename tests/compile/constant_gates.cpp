// SPDX-License-Identifier: MIT
// expect: moduleformer: gates that sum to 1 are constant where top_k is 1, the task would teach the router nothing
#include <moduleformer/model/causal_lm.hpp>

namespace mf = moduleformer;

constexpr mf::Shape shape{.attention = {.experts = 4, .top_k = 2}, .feed_forward = {.experts = 4, .top_k = 1}};
#ifdef MISUSE
using Gates = mf::NormalisedSigmoidGates;
#else
using Gates = mf::SigmoidGates;
#endif

template class mf::Transformer<shape, mf::Policies<Gates>, mf::Cpu<float>>;
