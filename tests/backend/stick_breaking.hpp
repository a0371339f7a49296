// SPDX-License-Identifier: MIT
#pragma once
// What a test needs to call the CPU's stick-breaking attention on host arrays.

#include "stick_breaking_cases.hpp"

#include <moduleformer/backend/cpu.hpp>

namespace moduleformer::test {

template <class S>
void forward(Cpu<S>& backend, AttentionCase const& c, StickBreakingVariant variant, AttentionInputs<S> const& in,
             AttentionOutputs<S>& out) {
  stick_breaking_forward(backend, variant, c.extents, c.views(), in.q.view(), in.k.view(), in.v.view(), out.y.view(),
                         out.log_stick.view(), out.stop.view());
}

template <class S>
void backward(Cpu<S>& backend, AttentionCase const& c, StickBreakingVariant variant, AttentionInputs<S> const& in,
              AttentionOutputs<S>& out) {
  stick_breaking_backward(backend, variant, c.extents, c.views(), in.dy.view(), in.q.view(), in.k.view(), in.v.view(),
                          out.log_stick.view(), out.stop.view(), out.dq.view(), out.dk.view(), out.dv.view());
}

}  // namespace moduleformer::test
