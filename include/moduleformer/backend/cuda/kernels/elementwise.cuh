// SPDX-License-Identifier: MIT
#pragma once
// Elementwise kernels: a thread has a pack of neighbouring elements, all of which it reads before it writes any, so
// that outputs may be inputs. Arithmetic in float. Dropout's mask is backend/arguments.hpp's, bit for bit.

#include <moduleformer/backend/arguments.hpp>
#include <moduleformer/backend/cuda/kernels/packs.cuh>
#include <moduleformer/core/platform.hpp>
#include <moduleformer/core/random.hpp>
#include <moduleformer/core/types.hpp>

#include <cstdint>

namespace moduleformer::kernels {

/// What the threads of an elementwise kernel share: where a thread's pack begins, and how much is left there.
template <class T>
struct Elements {
  static constexpr int threads = 256;
  static constexpr int pack = pack_size<T>;
  Index size;
  bool packed;

  template <class Thread>
  MODULEFORMER_DEVICE Index begin(Thread const& thread) const {
    return (thread.block() * threads + thread.index()) * pack;
  }
  [[nodiscard]] Index blocks() const { return (size + threads * pack - 1) / (threads * pack); }
};

/// Elements of arrays at these addresses.
template <class T, class... Data>
Elements<T> elements_at(Index size, Data const*... data) {
  return {size, may_pack<pack_size<T>>(data...)};
}

/// x[i] *= the factor of element first + i, 0 or `kept`; first is a multiple of 4, as N is.
template <int N>
MODULEFORMER_DEVICE void drop_out(Dropout const& drop, float kept, Index first, float (&x)[N]) {
  static_assert(N % 4 == 0);
  MODULEFORMER_UNROLL
  for (int group = 0; group < N / 4; ++group) {
    auto const words = random_words(drop.random.key(), static_cast<std::uint64_t>(first / 4 + group));
    MODULEFORMER_UNROLL
    for (int i = 0; i < 4; ++i)
      x[4 * group + i] *= to_unit(words[static_cast<std::size_t>(i)]) >= drop.probability ? kept : 0.0f;
  }
}

/// sum = the slots' packs at y, y + width, ..., added in ascending order.
template <int N, class S>
MODULEFORMER_DEVICE void sum_slots(Index slots, S const* y, Index width, Index left, bool packed, float (&sum)[N]) {
  load(y, left, packed, sum);
  for (Index s = 1; s < slots; ++s) {
    float next[N];
    load(y + s * width, left, packed, next);
    MODULEFORMER_UNROLL
    for (int i = 0; i < N; ++i) sum[i] += next[i];
  }
}

/// out[t] = residual[t] + dropout(sum_s y[t*slots+s]), s ascending; residual null: 0. Rows of `width`.
template <class S>
struct Combine {
  static constexpr int threads = Elements<S>::threads;
  Elements<S> elements;  // of out; packed: rows, too, are whole packs
  S const* y;
  S const* residual;
  S* out;
  Index slots;
  Index width;
  Dropout drop;
  float kept;

  template <class Thread>
  MODULEFORMER_DEVICE void operator()(Thread const& thread) const {
    constexpr int pack = Elements<S>::pack;
    Index const at = elements.begin(thread), left = elements.size - at;
    if (left <= 0) return;
    float sum[pack], base[pack] = {};
    if (residual != nullptr) load(residual + at, left, elements.packed, base);
    if (elements.packed || slots == 1) {
      Index const row = slots == 1 ? 0 : at / width;
      sum_slots(slots, y + at + row * (slots - 1) * width, width, left, elements.packed, sum);
    } else {
      sum_anywhere(at, left, sum);
    }
    if (drop.probability > 0) drop_out(drop, kept, at, sum);
    MODULEFORMER_UNROLL
    for (int i = 0; i < pack; ++i) sum[i] += base[i];
    store(thread, out + at, left, elements.packed, sum);
  }

 private:
  /// Of a pack that may straddle rows.
  template <int N>
  MODULEFORMER_DEVICE void sum_anywhere(Index at, Index left, float (&sum)[N]) const {
    MODULEFORMER_UNROLL
    for (int i = 0; i < N; ++i) {
      sum[i] = 0.0f;
      if (i >= left) continue;
      S const* const from = y + at + i + (at + i) / width * (slots - 1) * width;
      sum[i] = static_cast<float>(from[0]);
      for (Index s = 1; s < slots; ++s) sum[i] += static_cast<float>(from[s * width]);
    }
  }
};

/// out = x times draws near 1.
template <class S>
struct ApplyJitter {
  static constexpr int threads = Elements<S>::threads;
  Elements<S> elements;
  S const* x;
  S* out;
  Jitter jitter;

  template <class Thread>
  MODULEFORMER_DEVICE void operator()(Thread const& thread) const {
    constexpr int pack = Elements<S>::pack;
    static_assert(pack % 4 == 0);
    Index const at = elements.begin(thread), left = elements.size - at;
    if (left <= 0) return;
    float values[pack];
    load(x + at, left, elements.packed, values);
    MODULEFORMER_UNROLL
    for (int group = 0; group < pack / 4; ++group) {
      auto const words = random_words(jitter.random.key(), static_cast<std::uint64_t>(at / 4 + group));
      MODULEFORMER_UNROLL
      for (int i = 0; i < 4; ++i) values[4 * group + i] *= jitter.factor(words[static_cast<std::size_t>(i)]);
    }
    store(thread, out + at, left, elements.packed, values);
  }
};

/// y = act(z).
template <class S, class Act>
struct Activate {
  static constexpr int threads = Elements<S>::threads;
  Elements<S> elements;
  S const* z;
  S* y;
  Act act;

  template <class Thread>
  MODULEFORMER_DEVICE void operator()(Thread const& thread) const {
    Index const at = elements.begin(thread), left = elements.size - at;
    if (left <= 0) return;
    float x[Elements<S>::pack];
    load(z + at, left, elements.packed, x);
    MODULEFORMER_UNROLL
    for (float& value : x) value = act(value).value;
    store(thread, y + at, left, elements.packed, x);
  }
};

/// dz = dy act'(z).
template <class S, class Act>
struct ActivateBackward {
  static constexpr int threads = Elements<S>::threads;
  Elements<S> elements;
  S const* dy;
  S const* z;
  S* dz;
  Act act;

  template <class Thread>
  MODULEFORMER_DEVICE void operator()(Thread const& thread) const {
    constexpr int pack = Elements<S>::pack;
    Index const at = elements.begin(thread), left = elements.size - at;
    if (left <= 0) return;
    float x[pack], slope[pack];
    load(z + at, left, elements.packed, x);
    load(dy + at, left, elements.packed, slope);
    MODULEFORMER_UNROLL
    for (int i = 0; i < pack; ++i) slope[i] *= act(x[i]).derivative;
    store(thread, dz + at, left, elements.packed, slope);
  }
};

/// out += x.
template <class T>
struct Add {
  static constexpr int threads = Elements<T>::threads;
  Elements<T> elements;
  T const* x;
  T* out;

  template <class Thread>
  MODULEFORMER_DEVICE void operator()(Thread const& thread) const {
    constexpr int pack = Elements<T>::pack;
    Index const at = elements.begin(thread), left = elements.size - at;
    if (left <= 0) return;
    float a[pack], b[pack];
    load(x + at, left, elements.packed, a);
    load(out + at, left, elements.packed, b);
    MODULEFORMER_UNROLL
    for (int i = 0; i < pack; ++i) b[i] += a[i];
    store(thread, out + at, left, elements.packed, b);
  }
};

/// out = x * factor[0].
struct ScaleBy {
  static constexpr int threads = Elements<float>::threads;
  Elements<float> elements;
  float const* factor;
  float const* x;
  float* out;

  template <class Thread>
  MODULEFORMER_DEVICE void operator()(Thread const& thread) const {
    constexpr int pack = Elements<float>::pack;
    Index const at = elements.begin(thread), left = elements.size - at;
    if (left <= 0) return;
    float const by = factor[0];
    float a[pack];
    load(x + at, left, elements.packed, a);
    MODULEFORMER_UNROLL
    for (float& value : a) value *= by;
    store(thread, out + at, left, elements.packed, a);
  }
};

}  // namespace moduleformer::kernels
