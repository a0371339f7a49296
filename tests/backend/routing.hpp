// SPDX-License-Identifier: MIT
#pragma once
// A backend's routing primitives run on host arrays: what a router computes from logits, and a plain
// double function of the sums and gates whose gradient can be taken numerically.

#include "support.hpp"

#include <moduleformer/backend/cpu.hpp>

#include <cmath>
#include <vector>

namespace moduleformer::test {

template <class S>
struct Routed {
  Array<S, 2> probs, gates;
  Array<S, 1> lse;
  Array<ExpertId, 2> ids;
  Array<double, 1> probability, count, gate;
  double negative_entropy = -1, squared_lse = -1;
  RoutingStatistics stats() {
    return {probs.view().extent(0), ids.view().extent(1), probability.view(), count.view(), gate.view(),
            &negative_entropy,      &squared_lse};
  }
};

template <class S>
Routed<S> route(Cpu<S>& backend, Array<S, 2> const& logits, Index top) {
  Index const tokens = logits.view().extent(0), experts = logits.view().extent(1);
  Routed<S> r{Array<S, 2>(tokens, experts),    Array<S, 2>(tokens, top),  Array<S, 1>(tokens),
              Array<ExpertId, 2>(tokens, top), Array<double, 1>(experts), Array<double, 1>(experts),
              Array<double, 1>(experts)};
  softmax(backend, logits.view(), r.probs.view(), r.lse.view());
  top_k(backend, logits.view(), r.ids.view());
  gather_columns(backend, r.probs.view(), r.ids.view(), r.gates.view());
  sum_routing(backend, logits.view(), r.probs.view(), r.lse.view(), r.gates.view(), r.ids.view(),
              r.stats());
  return r;
}

}  // namespace moduleformer::test
