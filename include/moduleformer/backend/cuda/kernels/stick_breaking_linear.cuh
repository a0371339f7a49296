// SPDX-License-Identifier: MIT
#pragma once
// The scan of stick_breaking_run.cuh in the device's approximations, for kernels that have issue slots to lose: logits
// are not bounded one by one, but where the stick that a lane's 16 keys leave might underflow, all are bounded
// and the run is computed again; and what is left of the stick runs along with the weights:
//   inv = stick / prod_{m>=j} a_m ;  weight_j = e_j inv ;  inv += weight_j, which is inv a_j.
// Backward has beta = e / a of each key as well, and with G_j = weight_j A_j:
//   dl_j = G_j - beta_j (G_j + sum of G over older keys).

#include <moduleformer/backend/cuda/kernels/stick_breaking_run.cuh>
#include <moduleformer/core/platform.hpp>
#include <moduleformer/core/types.hpp>

namespace moduleformer::kernels {

/// A lane's run of 16 keys of a row; four lanes have the row's 64 keys.
struct LinearRun {
  static constexpr int groups = run_keys / 4;
  static constexpr float largest = 0x1p30f;    // of e where it is bounded
  static constexpr float most_used = 120.0f;   // log2 of what a run may divide the stick by, unless e is bounded

  float inverse[groups];  // 1 / product of a over four keys
  float used;             // log2 of the product of a over the run

  /// Scores become e. Keys from `end` on, and before `begin`, are not seen.
  template <bool masked, class Thread>
  static MODULEFORMER_DEVICE void exponentials(Thread const& thread, float (&x)[run_keys], float scale, int begin,
                                               int end) {
    MODULEFORMER_UNROLL
    for (int j = 0; j < run_keys; ++j) {
      x[j] = thread.exp2(x[j] * scale);
      if constexpr (masked) x[j] = j >= begin && j < end ? x[j] : 0.0f;
    }
  }
  template <class Thread>
  MODULEFORMER_DEVICE void multiply(Thread const& thread, float const (&e)[run_keys]) {
    used = 0;
    MODULEFORMER_UNROLL
    for (int g = 0; g < groups; ++g) {
      float const product = (1 + e[4 * g]) * (1 + e[4 * g + 1]) * ((1 + e[4 * g + 2]) * (1 + e[4 * g + 3]));
      inverse[g] = thread.reciprocal(product);
      used += thread.log2(product);
    }
  }
  /// Whether multiply() may have lost the stick; NaN counts as lost.
  [[nodiscard]] MODULEFORMER_DEVICE bool is_lost() const { return !(used <= most_used); }
  static MODULEFORMER_DEVICE void bound(float (&e)[run_keys]) {
    MODULEFORMER_UNROLL
    for (int j = 0; j < run_keys; ++j) e[j] = e[j] > largest ? largest : e[j];  // NaN stays
  }

  /// log2 of what the keys of newer lanes use, and of what all use. t: the lane's number of the four.
  struct Used {
    float newer, all;
  };
  template <class Thread>
  [[nodiscard]] MODULEFORMER_DEVICE Used exchange(Thread const& thread, int t) const {
    float const near = thread.shuffle_xor(used, 1), pair = used + near, far = thread.shuffle_xor(pair, 2);
    return {((t & 1) == 0 ? near : 0.0f) + ((t & 2) == 0 ? far : 0.0f), pair + far};
  }
  /// e becomes weights, `stick` being what newer keys left.
  MODULEFORMER_DEVICE void weights(float (&e)[run_keys], float stick) const {
    MODULEFORMER_UNROLL
    for (int g = groups - 1; g >= 0; --g) {
      stick *= inverse[g];
      float left = stick;
      MODULEFORMER_UNROLL
      for (int i = 0; i < 4; ++i) {
        e[4 * g + i] *= left;
        left += e[4 * g + i];
      }
    }
  }
  /// e becomes beta; a is what A was multiplied from and becomes G; store(j, weight) in falling order of j.
  template <class Store>
  MODULEFORMER_DEVICE void contributions(float (&e)[run_keys], float (&a)[run_keys], float stick, Store store) const {
    MODULEFORMER_UNROLL
    for (int g = groups - 1; g >= 0; --g) {
      float left[4];
      MODULEFORMER_UNROLL
      for (int i = 0; i < 4; ++i) left[i] = 1 + e[4 * g + i];
      float const older = inverse[g] * (left[2] * left[3]), newer = inverse[g] * (left[0] * left[1]);
      float const u[4] = {older * left[1], older * left[0], newer * left[3], newer * left[2]};
      MODULEFORMER_UNROLL
      for (int i = 3; i >= 0; --i) {
        int const j = 4 * g + i;
        e[j] *= u[i];
        float const weight = e[j] * stick;
        stick *= u[i];
        a[j] *= weight;
        store(j, weight);
      }
    }
  }
  /// G becomes dl; prefix, the sum of G over older keys, moves on to the newer edge of the block.
  template <class Thread>
  static MODULEFORMER_DEVICE void differentiate(Thread const& thread, int t, float const (&beta)[run_keys],
                                                float (&g)[run_keys], float& prefix) {
    float sum = 0;
    MODULEFORMER_UNROLL
    for (int j = 0; j < run_keys; ++j) sum += g[j];
    float const near = thread.shuffle_xor(sum, 1), pair = sum + near, far = thread.shuffle_xor(pair, 2);
    float upto = prefix + (((t & 1) != 0 ? near : 0.0f) + ((t & 2) != 0 ? far : 0.0f));
    prefix += pair + far;
    MODULEFORMER_UNROLL
    for (int j = 0; j < run_keys; ++j) {
      upto += g[j];
      g[j] -= beta[j] * upto;
    }
  }
};

/// Both rows of a lane: scores become e, with what weights are made of.
template <bool masked, class Thread>
MODULEFORMER_DEVICE void begin_runs(Thread const& thread, float (&x)[2][run_keys], float scale, int const (&begins)[2],
                                    int const (&ends)[2], LinearRun (&runs)[2]) {
  MODULEFORMER_UNROLL
  for (int half = 0; half < 2; ++half) {
    LinearRun::exponentials<masked>(thread, x[half], scale, begins[half], ends[half]);
    runs[half].multiply(thread, x[half]);
  }
  if (thread.ballot(runs[0].is_lost() || runs[1].is_lost()) == 0) return;
  MODULEFORMER_UNROLL
  for (int half = 0; half < 2; ++half) {
    LinearRun::bound(x[half]);
    runs[half].multiply(thread, x[half]);
  }
}

}  // namespace moduleformer::kernels
