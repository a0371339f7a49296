// SPDX-License-Identifier: MIT
#pragma once
// Row operations of routing, a warp per row: softmax and lse = max + log sum exp(l - max) in float; rows divided by
// their norms, y = x / max(|x|, 1e-12), and back, dx = (dy - y <y, dy>) / norm, with sums in double, whose
// squares neither overflow nor vanish.

#include <moduleformer/backend/cuda/kernels/packs.cuh>
#include <moduleformer/backend/cuda/kernels/routing_row.cuh>
#include <moduleformer/backend/cuda/kernels/warp.cuh>
#include <moduleformer/core/math.hpp>
#include <moduleformer/core/platform.hpp>
#include <moduleformer/core/types.hpp>

#include <cmath>

namespace moduleformer::kernels {

/// probs (N,E), lse (N) or null, from logits (N,E). probs may be logits.
template <int Items>
struct Softmax {
  static constexpr int threads = 32 * ExpertRow<Items>::warps;
  ExpertRow<Items> row;
  float const* logits;
  float* probs;
  float* lse;

  template <class Thread>
  MODULEFORMER_DEVICE void operator()(Thread const& thread) const {
    Index const t = row.token(thread);
    if (t >= row.tokens) return;
    float const* const logit = logits + t * row.experts;
    float* const p = probs + t * row.experts;
    bool const is_long = row.is_long();  // then p holds what registers cannot
    float x[Items] = {};
    float largest = -__builtin_huge_valf();
    row.for_chunks([&](Index first) {
      row.for_experts(thread, first, [&](int i, Index e) {
        x[i] = logit[e];
        largest = x[i] > largest ? x[i] : largest;
      });
    });
    largest = warp_max(thread, largest);
    float sum = 0;
    row.for_chunks([&](Index first) {
      row.for_experts(thread, first, [&](int i, Index e) {
        x[i] = math::exp((is_long ? logit[e] : x[i]) - largest);
        if (is_long) p[e] = x[i];
        sum += x[i];
      });
    });
    sum = warp_sum(thread, sum);
    float const inverse = 1.0f / sum;
    row.for_chunks([&](Index first) {
      row.for_experts(thread, first, [&](int i, Index e) { p[e] = (is_long ? p[e] : x[i]) * inverse; });
    });
    if (lse != nullptr && thread.lane() == 0) lse[t] = largest + math::log(sum);
  }
};

/// Rows of `width` elements in packs of Size, which divides it.
template <class S, int Size>
struct NormRows {
  static constexpr int warps = 8;  // of a block

  Index rows = 0;
  Index width = 0;

  template <class Thread>
  [[nodiscard]] MODULEFORMER_DEVICE static Index row(Thread const& thread) {
    return thread.block() * warps + thread.warp();
  }

  /// The row's <a, b>, the same in every lane.
  template <class Thread>
  [[nodiscard]] MODULEFORMER_DEVICE double dot(Thread const& thread, S const* a, S const* b) const {
    double sum = 0;
    // Rows are short, and nvcc's four rounds at once spill.
    MODULEFORMER_NO_UNROLL
    for (Index i = Index{thread.lane()} * Size; i < width; i += 32 * Size) {
      float x[Size], y[Size];
      load(a + i, Size, true, x);
      load(b + i, Size, true, y);
      MODULEFORMER_UNROLL
      for (int j = 0; j < Size; ++j) sum += static_cast<double>(x[j]) * static_cast<double>(y[j]);
    }
    return warp_sum(thread, sum);
  }

  /// out = f(a, b), element by element.
  template <class Thread, class F>
  MODULEFORMER_DEVICE void map(Thread const& thread, S const* a, S const* b, S* out, F f) const {
    for (Index i = Index{thread.lane()} * Size; i < width; i += 32 * Size) {
      float x[Size], y[Size];
      load(a + i, Size, true, x);
      load(b + i, Size, true, y);
      MODULEFORMER_UNROLL
      for (int j = 0; j < Size; ++j) x[j] = f(x[j], y[j]);
      store(out + i, Size, true, x);
    }
  }
};

/// Rows shorter than this are divided by this.
inline constexpr double smallest_norm = 1e-12;

/// sqrt(x) to float's accuracy, for all x whose root is a normal float: x beyond float's range is scaled.
MODULEFORMER_DEVICE inline float square_root(double x) {
  bool const is_large = x > 0x1p100;
  float const root = std::sqrt(static_cast<float>(is_large ? x * 0x1p-160 : x));
  return is_large ? root * 0x1p80f : root;
}

/// y (N,R), norms (N) from x (N,R). y may be x.
template <class S, int Size>
struct NormaliseRows {
  static constexpr int threads = 32 * NormRows<S, Size>::warps;
  NormRows<S, Size> rows;
  S const* x;
  S* y;
  float* norms;

  template <class Thread>
  MODULEFORMER_DEVICE void operator()(Thread const& thread) const {
    Index const r = rows.row(thread);
    if (r >= rows.rows) return;
    S const* const in = x + r * rows.width;
    double const square = rows.dot(thread, in, in);
    float const norm = square < smallest_norm * smallest_norm ? static_cast<float>(smallest_norm) : square_root(square);
    if (thread.lane() == 0) norms[r] = norm;
    rows.map(thread, in, in, y + r * rows.width, [inverse = 1.0f / norm](float a, float) { return a * inverse; });
  }
};

/// dx (N,R) from dy, y (N,R) and norms (N). dx may be dy.
template <class S, int Size>
struct NormaliseRowsBackward {
  static constexpr int threads = 32 * NormRows<S, Size>::warps;
  NormRows<S, Size> rows;
  S const* dy;
  S const* y;
  float const* norms;
  S* dx;

  template <class Thread>
  MODULEFORMER_DEVICE void operator()(Thread const& thread) const {
    Index const r = rows.row(thread);
    if (r >= rows.rows) return;
    S const* const slope = dy + r * rows.width;
    S const* const unit = y + r * rows.width;
    float const norm = norms[r];
    float along = 0;
    if (norm > static_cast<float>(smallest_norm)) along = static_cast<float>(rows.dot(thread, unit, slope));
    float const inverse = 1.0f / norm;
    rows.map(thread, slope, unit, dx + r * rows.width, [=](float g, float u) { return (g - u * along) * inverse; });
  }
};

}  // namespace moduleformer::kernels
