// SPDX-License-Identifier: MIT
#pragma once
// Packs: N neighbouring elements that a thread moves by one instruction (or one for each 16 bytes) where their place
// is aligned, and one by one elsewhere and at the end of an array. In registers they are floats.

#include <moduleformer/core/platform.hpp>
#include <moduleformer/core/types.hpp>

#include <cstdint>
#include <type_traits>

namespace moduleformer::kernels {

/// Elements in 16 bytes.
template <class T>
inline constexpr int pack_size = 16 / static_cast<int>(sizeof(T));

template <class T, int N>
struct alignas(N * sizeof(T) < 16 ? N * sizeof(T) : 16) Pack {
  T values[N];
};

/// Whether packs of N may begin at every address. Null is as good as any.
template <int N, class... T>
bool may_pack(T const*... data) {
  return ((reinterpret_cast<std::uintptr_t>(data) % alignof(Pack<T, N>) == 0) && ...);
}

/// N elements as words of memory. The compiler takes packs apart where they are loaded, and waits for them there; these
/// wait until they are unpacked.
template <class T, int N>
struct alignas(Pack<T, N>) Words {
  std::uint32_t words[N * sizeof(T) / 4];
};

/// The first N of `left` elements, zeros beyond them.
template <int N, class T>
MODULEFORMER_DEVICE Words<T, N> load_words(T const* from, Index left, bool packed) {
  if (packed && left >= N) return *reinterpret_cast<Words<T, N> const*>(from);
  Pack<T, N> pack;
  MODULEFORMER_UNROLL
  for (int i = 0; i < N; ++i) pack.values[i] = i < left ? from[i] : T(0.0f);
  return __builtin_bit_cast(Words<T, N>, pack);
}

template <int N>
MODULEFORMER_DEVICE void unpack(Words<float, N> const& pack, float (&x)[N]) {
  MODULEFORMER_UNROLL
  for (int i = 0; i < N; ++i) x[i] = __builtin_bit_cast(float, pack.words[i]);
}
template <int N>
MODULEFORMER_DEVICE void unpack(Words<bfloat16, N> const& pack, float (&x)[N]) {
  MODULEFORMER_UNROLL
  for (int i = 0; i < N; ++i)
    x[i] = __builtin_bit_cast(float, i % 2 == 0 ? pack.words[i / 2] << 16 : pack.words[i / 2] & 0xffff0000u);
}

/// x = the first N of `left` elements, zeros beyond them.
template <int N, class T>
MODULEFORMER_DEVICE void load(T const* from, Index left, bool packed, float (&x)[N]) {
  if (packed && left >= N) {
    auto const pack = *reinterpret_cast<Pack<T, N> const*>(from);
    MODULEFORMER_UNROLL
    for (int i = 0; i < N; ++i) x[i] = static_cast<float>(pack.values[i]);
  } else {
    MODULEFORMER_UNROLL
    for (int i = 0; i < N; ++i) x[i] = i < left ? static_cast<float>(from[i]) : 0.0f;
  }
}

/// The first N of `left` elements = x.
template <int N, class T>
MODULEFORMER_DEVICE void store(T* to, Index left, bool packed, float const (&x)[N]) {
  if (packed && left >= N) {
    Pack<T, N> pack;
    MODULEFORMER_UNROLL
    for (int i = 0; i < N; ++i) pack.values[i] = static_cast<T>(x[i]);
    *reinterpret_cast<Pack<T, N>*>(to) = pack;
  } else {
    MODULEFORMER_UNROLL
    for (int i = 0; i < N; ++i)
      if (i < left) to[i] = static_cast<T>(x[i]);
  }
}

/// The same, packs of bfloat16 rounded by an instruction for two (which forgets the payload of a NaN).
template <int N, class Thread, class T>
MODULEFORMER_DEVICE void store(Thread const& thread, T* to, Index left, bool packed, float const (&x)[N]) {
  if constexpr (std::is_same_v<T, bfloat16>) {
    if (packed && left >= N) {
      struct alignas(Pack<T, N>) {
        std::uint32_t words[N / 2];
      } pairs;
      MODULEFORMER_UNROLL
      for (int i = 0; i < N / 2; ++i) pairs.words[i] = thread.round_pair(x[2 * i], x[2 * i + 1]);
      *reinterpret_cast<Pack<T, N>*>(to) = __builtin_bit_cast(Pack<T, N>, pairs);
      return;
    }
  }
  store(to, left, packed, x);
}

/// x = what T holds of it.
template <class T, int N, class Thread>
MODULEFORMER_DEVICE void round_to(Thread const& thread, float (&x)[N]) {
  if constexpr (std::is_same_v<T, bfloat16>) {
    MODULEFORMER_UNROLL
    for (int i = 0; i < N / 2; ++i) {
      std::uint32_t const pair = thread.round_pair(x[2 * i], x[2 * i + 1]);
      x[2 * i] = __builtin_bit_cast(float, pair << 16);
      x[2 * i + 1] = __builtin_bit_cast(float, pair & 0xffff0000u);
    }
  }
}

}  // namespace moduleformer::kernels
