// SPDX-License-Identifier: MIT
#pragma once
// AdamW for a range of elements (backend/arguments.hpp has the formula). What changes from step to step is read from
// device memory; what is the same for every element is computed in double.

#include <moduleformer/backend/arguments.hpp>
#include <moduleformer/backend/cuda/kernels/packs.cuh>
#include <moduleformer/core/platform.hpp>
#include <moduleformer/core/types.hpp>

#include <cmath>

namespace moduleformer::kernels {

template <class S>
struct AdamW {
  static constexpr int threads = 256;
  static constexpr int pack = 4;
  AdamWConstants constants;
  AdamWStep const* step;
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
    AdamWStep const now = *step;
    if (!(now.clip - now.clip == 0.0)) return;  // infinite or NaN
    float const clip = static_cast<float>(now.clip), epsilon = static_cast<float>(constants.epsilon);
    float const beta1 = static_cast<float>(constants.beta1), rest1 = static_cast<float>(1 - constants.beta1);
    float const beta2 = static_cast<float>(constants.beta2), rest2 = static_cast<float>(1 - constants.beta2);
    float const m_factor = static_cast<float>(now.learning_rate / now.first_correction);
    float const v_factor = static_cast<float>(1 / now.second_correction);
    float const decay = static_cast<float>(now.learning_rate * constants.weight_decay);
    float g[pack], w[pack], mean[pack], square[pack];
    load(gradient + at, left, packed, g);
    load(weight + at, left, packed, w);
    load(m + at, left, packed, mean);
    load(v + at, left, packed, square);
    MODULEFORMER_UNROLL
    for (int i = 0; i < pack; ++i) {
      float const slope = clip * g[i];
      mean[i] = beta1 * mean[i] + rest1 * slope;
      square[i] = beta2 * square[i] + rest2 * slope * slope;
      float const deviation = std::sqrt(v_factor * square[i]) + epsilon;
      w[i] -= m_factor * mean[i] / deviation + decay * w[i];
    }
    store(thread, m + at, left, packed, mean);
    store(thread, v + at, left, packed, square);
    store(thread, weight + at, left, packed, w);
    if (rounded != nullptr) store(thread, rounded + at, left, packed, w);
  }
};

}  // namespace moduleformer::kernels
