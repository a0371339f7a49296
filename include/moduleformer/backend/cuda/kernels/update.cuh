// SPDX-License-Identifier: MIT
#pragma once
// AdamW for a range of elements (backend/arguments.hpp has the formula), all that is the same for every element made
// by the host, in double.

#include <moduleformer/backend/cuda/kernels/packs.cuh>
#include <moduleformer/core/platform.hpp>
#include <moduleformer/core/types.hpp>

#include <cmath>

namespace moduleformer::kernels {

/// w -= m_factor m / (sqrt(v_factor v) + epsilon) + decay w with the moments' new values.
struct AdamWFactors {
  float beta1, rest1;  // rest = 1 - beta
  float beta2, rest2;
  float m_factor, v_factor;
  float epsilon;
  float decay;
};

template <class S>
struct AdamW {
  static constexpr int threads = 256;
  static constexpr int pack = 4;
  AdamWFactors factors;
  double const* clip;
  float const* gradient;
  float* weight;
  S* rounded;  // or null
  float* m;
  float* v;
  Index size;
  bool packed;

  template <class Thread>
  MODULEFORMER_DEVICE void operator()(Thread const& thread) const {
    Index const at = (thread.block() * threads + thread.index()) * pack, left = size - at;
    if (left <= 0) return;
    double const factor = *clip;
    if (!(factor - factor == 0.0)) return;  // infinite or NaN
    float g[pack], w[pack], mean[pack], square[pack];
    load(gradient + at, left, packed, g);
    load(weight + at, left, packed, w);
    load(m + at, left, packed, mean);
    load(v + at, left, packed, square);
    MODULEFORMER_UNROLL
    for (int i = 0; i < pack; ++i) {
      float const slope = static_cast<float>(factor) * g[i];
      mean[i] = factors.beta1 * mean[i] + factors.rest1 * slope;
      square[i] = factors.beta2 * square[i] + factors.rest2 * slope * slope;
      float const deviation = std::sqrt(factors.v_factor * square[i]) + factors.epsilon;
      w[i] -= factors.m_factor * mean[i] / deviation + factors.decay * w[i];
    }
    store(thread, m + at, left, packed, mean);
    store(thread, v + at, left, packed, square);
    store(thread, weight + at, left, packed, w);
    if (rounded != nullptr) store(thread, rounded + at, left, packed, w);
  }
};

}  // namespace moduleformer::kernels
