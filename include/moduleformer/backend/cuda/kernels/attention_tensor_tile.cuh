// SPDX-License-Identifier: MIT
#pragma once
// AttentionTensorTile: a warp's products of 16 query rows with a block of 64 keys on tensor cores, head size known
// when compiled. Keys and values are read from shared memory in a permuted order, so that column 8n + 2t + h of an
// accumulator is key 16t + 2n + h: lane t of a quad has 16 neighbouring keys of a row, as the scan wants it
// (stick_breaking_run.cuh). The 16-byte chunks of a row are permuted by an exclusive or so that the eight rows that
// ldmatrix reads together lie in different banks: `key_place` for that order, `row_place` for eight neighbouring rows.

#include <moduleformer/backend/cuda/kernels/stick_breaking_run.cuh>
#include <moduleformer/core/platform.hpp>
#include <moduleformer/core/types.hpp>

#include <cstdint>

namespace moduleformer::kernels {

template <int d>
struct AttentionTensorTile {
  static_assert(d % 32 == 0, "moduleformer: head sizes of tensor cores are multiples of 32");
  static constexpr int keys = 64, chunks = d / 8, block_size = keys * d;
  static constexpr int lanes = 4;  // that share a row

  using Scores = float[8][4];
  using Output = float[d / 8][4];

  /// Where a chunk lies in a part of shared memory, in elements.
  static MODULEFORMER_DEVICE int key_place(int key, int chunk) {
    return (key * chunks + (chunk ^ key_mix(key / 16, key % 2))) * 8;
  }
  static MODULEFORMER_DEVICE int key_mix(int group, int odd) { return chunks % 8 == 0 ? group | odd << 2 : group; }
  static MODULEFORMER_DEVICE int row_place(int row, int chunk) { return (row * chunks + (chunk ^ row_mix(row))) * 8; }
  static MODULEFORMER_DEVICE int row_mix(int row) { return chunks % 8 == 0 ? row & 7 : row >> 1 & 3; }

  template <bool by_key>
  static MODULEFORMER_DEVICE int place(int row, int chunk) {
    return by_key ? key_place(row, chunk) : row_place(row, chunk);
  }

  /// Begins to copy `count` rows; those outside of [begin, end) become zeros. The caller commits.
  template <int threads, int count, bool by_key, class Thread>
  static MODULEFORMER_DEVICE void copy_rows(Thread const& thread, bfloat16 const* from, Index stride, int begin,
                                            int end, bfloat16* to) {
    constexpr int copies = count * chunks / threads;
    static_assert(copies * threads == count * chunks && (copies <= 4 || copies % 2 == 0));
    // Many copies are a loop: their addresses would take registers that wide heads do not have.
    MODULEFORMER_NO_UNROLL
    for (int first = 0; first<copies; first += copies> 4 ? 2 : copies)
      MODULEFORMER_UNROLL
      for (int i = 0; i < (copies > 4 ? 2 : copies); ++i) {
        int const at = (first + i) * threads + thread.opaque(thread.index()), row = at / chunks, chunk = at % chunks;
        bool const exists = row >= begin && row < end;
        thread.copy_async(to + place<by_key>(row, chunk),
                          exists ? from + (row * static_cast<int>(stride) + chunk * 8) : from, exists ? 16 : 0);
      }
  }

  template <int n>
  static MODULEFORMER_DEVICE void clear(float (&sums)[n][4]) {
    MODULEFORMER_UNROLL
    for (int i = 0; i < n; ++i)
      MODULEFORMER_UNROLL
      for (int j = 0; j < 4; ++j) sums[i][j] = 0.0f;
  }

  /// a = columns [16 k, 16 k + 16) of 16 rows in memory; rows outside of the tile are zeros. row0, row8: this lane's
  /// two rows, or null.
  template <class Thread>
  static MODULEFORMER_DEVICE void load_rows(Thread const& thread, bfloat16 const* row0, bfloat16 const* row8, int k,
                                            std::uint32_t (&a)[4]) {
    MODULEFORMER_UNROLL
    for (int i = 0; i < 4; ++i) {
      bfloat16 const* const row = i % 2 == 0 ? row0 : row8;
      int const column = 16 * k + 2 * (thread.lane() % 4) + 8 * (i / 2);
      a[i] = row == nullptr ? 0u : *reinterpret_cast<std::uint32_t const*>(row + column);
    }
  }
  /// How a warp loads fragments of rows first ... first + 15 of a part of shared memory (row_place).
  template <class Thread>
  struct PartRows {
    static constexpr bool from_memory = true;
    Thread const& thread;
    bfloat16 const* row;
    int half, mix;
    MODULEFORMER_DEVICE PartRows(Thread const& own, bfloat16 const* part, int first) : thread(own) {
      int const lane = thread.opaque(thread.lane());
      row = part + (first + lane % 16) * chunks * 8;
      half = lane / 16;
      mix = row_mix(first + lane % 16);
    }
    MODULEFORMER_DEVICE void operator()(int k, std::uint32_t (&a)[4]) const {
      thread.load_matrices(a, row + ((2 * k + half) ^ mix) * 8);
    }
  };

  /// Fragments of rows in registers.
  struct KeptRows {
    static constexpr bool from_memory = false;
    std::uint32_t words[d / 16][4];
    MODULEFORMER_DEVICE void operator()(int k, std::uint32_t (&a)[4]) const {
      MODULEFORMER_UNROLL
      for (int i = 0; i < 4; ++i) a[i] = words[k][i];
    }
  };

  /// s = rows . keys; load(k, a) gives the rows' fragment k.
  template <class Thread, class Load>
  static MODULEFORMER_DEVICE void scores(Thread const& thread, Load const& load, bfloat16 const* part, Scores& s) {
    clear(s);
    // Row c of a matrix is key 16 (c/2) + c%2, plus 2n: its permutation does not depend on n.
    int const lane = thread.opaque(thread.lane()), c = lane % 8, key = 16 * (c / 2) + c % 2,
              mix = key_mix(c / 2, c % 2);
    auto const add = [&](int k) {
      std::uint32_t a[2][4];
      load(k, a[0]);
      load(k + 1, a[1]);
      bfloat16 const* const from = part + (key * chunks + ((2 * k + lane / 8) ^ mix)) * 8;
      MODULEFORMER_UNROLL
      for (int n = 0; n < 8; ++n) {
        std::uint32_t words[4];
        thread.load_matrices(words, from + 2 * n * chunks * 8);
        thread.multiply_add(s[n], a[0], {words[0], words[1]});
        thread.multiply_add(s[n], a[1], {words[2], words[3]});
      }
    };
    // Rows from registers need their numbers when compiled; else wide heads keep registers by a loop.
    if constexpr (Load::from_memory && d > 64) {
      MODULEFORMER_NO_UNROLL
      for (int k = 0; k < d / 16; k += 2) add(k);
    } else {
      MODULEFORMER_UNROLL
      for (int k = 0; k < d / 16; k += 2) add(k);
    }
  }

  /// out += weights . rows of the part, the weights rounded to bfloat16.
  template <class Thread>
  static MODULEFORMER_DEVICE void weighted(Thread const& thread, Scores const& weights, bfloat16 const* part,
                                           Output& out) {
    std::uint32_t a[4][4];
    MODULEFORMER_UNROLL
    for (int k = 0; k < 4; ++k)
      MODULEFORMER_UNROLL
      for (int i = 0; i < 4; ++i) {
        float const(&w)[4] = weights[2 * k + i / 2];
        a[k][i] = thread.round_pair(w[i % 2 * 2], w[i % 2 * 2 + 1]);
      }
    int const lane = thread.opaque(thread.lane()), c = lane % 8, matrix = lane / 8;
    int const key = 16 * (c / 2) + 2 * (matrix % 2) + c % 2, mix = key_mix(c / 2, c % 2);
    MODULEFORMER_UNROLL
    for (int j = 0; j < d / 8; j += 2) {
      bfloat16 const* const from = part + (key * chunks + ((j + matrix / 2) ^ mix)) * 8;
      MODULEFORMER_UNROLL
      for (int k = 0; k < 4; ++k) {
        std::uint32_t words[4];
        thread.load_matrices_transposed(words, from + 4 * k * chunks * 8);
        thread.multiply_add(out[j], a[k], {words[0], words[1]});
        thread.multiply_add(out[j + 1], a[k], {words[2], words[3]});
      }
    }
  }

  /// The lane's run of its upper (0) or lower (1) row.
  static MODULEFORMER_DEVICE void take_run(Scores const& s, int half, float (&x)[run_keys]) {
    MODULEFORMER_UNROLL
    for (int j = 0; j < run_keys; ++j) x[j] = s[j / 2][2 * half + j % 2];
  }
  static MODULEFORMER_DEVICE void put_run(float const (&x)[run_keys], int half, Scores& s) {
    MODULEFORMER_UNROLL
    for (int j = 0; j < run_keys; ++j) s[j / 2][2 * half + j % 2] = x[j];
  }
};

}  // namespace moduleformer::kernels
