// SPDX-License-Identifier: MIT
#pragma once
// The scan along a row of a block of keys. A row belongs to neighbouring lanes, and a lane has a run of 16
// neighbouring keys, older ones in lower lanes. In linear form, e = exp(l), a = 1 + e:
//   weight_j = e_j stick / prod_{m>=j} a_m ;  stick, the part that newer blocks left, is kept as a logarithm.
// Four keys share one reciprocal and one logarithm. Backward, oldest block first, u = 1/a, A = dy.v:
//   G_j = weight_j A_j ;  dl_j = u_j (G_j - e_j prefix) ;  prefix = sum of G over older keys
// Never 1 - sigmoid, and never a suffix as "all minus prefix": both lose what far keys have.

#include <moduleformer/core/math.hpp>
#include <moduleformer/core/platform.hpp>
#include <moduleformer/core/types.hpp>

namespace moduleformer::kernels {

inline constexpr int run_keys = 16;

/// exp and log to the last bits, in natural units: for float storage.
struct NaturalUnits {
  static constexpr float per_nat = 1.0f;
  static constexpr float largest_logit = 20.7944f;  // 1 + e is 2^30: four of them multiply without overflow
  template <class Thread>
  static MODULEFORMER_DEVICE float exp(Thread const&, float x) {
    return math::exp(x);
  }
  template <class Thread>
  static MODULEFORMER_DEVICE float log(Thread const&, float x) {
    return math::log(x);
  }
  template <class Thread>
  static MODULEFORMER_DEVICE float inverse(Thread const&, float x) {
    return 1.0f / x;
  }
};

/// The device's approximations, in base 2: for bfloat16 storage.
struct BinaryUnits {
  static constexpr float per_nat = 1.44269504f;
  static constexpr float largest_logit = 30.0f;
  template <class Thread>
  static MODULEFORMER_DEVICE float exp(Thread const& thread, float x) {
    return thread.exp2(x);
  }
  template <class Thread>
  static MODULEFORMER_DEVICE float log(Thread const& thread, float x) {
    return thread.log2(x);
  }
  template <class Thread>
  static MODULEFORMER_DEVICE float inverse(Thread const& thread, float x) {
    return thread.reciprocal(x);
  }
};

/// What backward needs of a run beside its weights.
struct KeptRun {
  static constexpr bool keeps = true;
  float exponential[run_keys];  // e, 0 where the row does not see the key
  float rest[run_keys];         // 1 / (1 + e)
};
struct NothingKept {
  static constexpr bool keeps = false;
};

/// Which edge of the block the logarithm of the stick is given at: the newer one going to older keys (forward), or
/// the older one going to newer keys (backward).
enum class Walk { to_older, to_newer };

/// Logits of the run become weights; keys outside of [begin, end), counted from the run's first, are not seen.
/// log_stick goes from one edge of the block to the other. is_newest: the row sees no key beyond this block, so
/// that its stick at the newer edge is 1.
template <class Units, int lanes, Walk walk, class Kept, class Thread>
MODULEFORMER_DEVICE void break_run(Thread const& thread, float (&x)[run_keys], int begin, int end, bool is_newest,
                                   float& log_stick, Kept& kept) {
  float product = 1, used = 0;  // of 1 / a to the right within the run; sum of log a
  MODULEFORMER_UNROLL
  for (int group = run_keys - 4; group >= 0; group -= 4) {
    float e[4], a[4], upto[4];
    MODULEFORMER_UNROLL
    for (int i = 3; i >= 0; --i) {
      float const logit = x[group + i] > Units::largest_logit ? Units::largest_logit : x[group + i];  // NaN stays
      e[i] = group + i >= begin && group + i < end ? Units::exp(thread, logit) : 0.0f;
      a[i] = 1.0f + e[i];
      upto[i] = i == 3 ? a[3] : upto[i + 1] * a[i];
    }
    used += Units::log(thread, upto[0]);
    float inverse = Units::inverse(thread, upto[0]);
    float const whole = inverse;
    MODULEFORMER_UNROLL
    for (int i = 0; i < 4; ++i) {
      x[group + i] = e[i] * inverse * product;
      if constexpr (Kept::keeps) {
        kept.exponential[group + i] = e[i];
        kept.rest[group + i] = i == 3 ? inverse : inverse * upto[i + 1];
      }
      inverse *= a[i];
    }
    product *= whole;
  }
  int const part = thread.lane() % lanes;
  MODULEFORMER_UNROLL
  for (int step = 1; step < lanes; step *= 2) {
    float const newer = thread.shuffle_down(product, step);
    if (part + step < lanes) product *= newer;
    used += thread.shuffle_xor(used, step);
  }
  float newer = 1;
  if constexpr (lanes > 1) {
    newer = thread.shuffle_down(product, 1);
    if (part == lanes - 1) newer = 1;
  }
  float right = walk == Walk::to_older ? log_stick : log_stick + used;
  if (walk == Walk::to_newer && (is_newest || right > 0.0f)) right = 0.0f;
  float const stick = newer * Units::exp(thread, right);
  MODULEFORMER_UNROLL
  for (int j = 0; j < run_keys; ++j) x[j] *= stick;
  log_stick = walk == Walk::to_older ? log_stick - used : right;
}

/// score: A, becomes dl; prefix moves on to the newer edge of the block.
template <int lanes, class Thread>
MODULEFORMER_DEVICE void differentiate_run(Thread const& thread, float const (&weight)[run_keys], KeptRun const& kept,
                                           float (&score)[run_keys], float& prefix) {
  float sum = 0;
  MODULEFORMER_UNROLL
  for (int j = 0; j < run_keys; ++j) {
    // Fused by us: where only the sum is used a compiler would fuse it by itself, and elsewhere not.
    sum = math::detail::multiply_add(score[j], weight[j], sum);
    score[j] *= weight[j];
  }
  int const part = thread.lane() % lanes;
  MODULEFORMER_UNROLL
  for (int step = 1; step < lanes; step *= 2) {
    float const older = thread.shuffle_up(sum, step);
    if (part >= step) sum += older;
  }
  float before = prefix;
  if constexpr (lanes > 1) {
    float const older = thread.shuffle_up(sum, 1);
    if (part > 0) before += older;
  }
  prefix += thread.shuffle(sum, thread.lane() - part + lanes - 1);
  MODULEFORMER_UNROLL
  for (int j = 0; j < run_keys; ++j) {
    float const g = score[j];
    score[j] = kept.rest[j] * (g - kept.exponential[j] * before);
    before += g;
  }
}

}  // namespace moduleformer::kernels
