// SPDX-License-Identifier: MIT
#pragma once
// AttentionTensorProduct: the products of attention_float_product.cuh on tensor cores, for bfloat16 heads of any
// multiple of eight: blocks of 64 x 64, eight warps with 16 rows and 32 columns each. Scores lie in shared memory as
// floats; as weights they are rounded to bfloat16, once for all columns that they are multiplied with.

#include <moduleformer/backend/cuda/kernels/head_rows.cuh>
#include <moduleformer/core/platform.hpp>
#include <moduleformer/core/types.hpp>

#include <cstdint>

namespace moduleformer::kernels {

struct AttentionTensorProduct {
  using Scalar = bfloat16;
  static constexpr int threads = 256, size = 64, depth = 64;
  static constexpr int pitch = size + 4;                 // of a key's scores, in floats
  static constexpr int scores_size = size * pitch;       // floats of a block of scores, stored key by key
  static constexpr int part = size * depth;              // elements of a part of rows
  static constexpr int staging_size = 2 * 2 * part / 2;  // floats: two stages of two parts

  struct Sums {
    float at[4][4];  // accumulators of 8 columns each
  };
  static constexpr int sums = 16;  // of a thread
  static MODULEFORMER_DEVICE float& sum(Sums& own, int i) { return own.at[i / 4][i % 4]; }
  static MODULEFORMER_DEVICE void clear(Sums& own) {
    MODULEFORMER_UNROLL
    for (int i = 0; i < sums; ++i) sum(own, i) = 0.0f;
  }

  /// f(row, column, two neighbouring sums).
  template <class Thread, class F>
  static MODULEFORMER_DEVICE void for_rows(Thread const& thread, Sums& own, F f) {
    MODULEFORMER_UNROLL
    for (int n = 0; n < 4; ++n)
      MODULEFORMER_UNROLL
      for (int half = 0; half < 2; ++half) {
        float pair[2] = {own.at[n][2 * half], own.at[n][2 * half + 1]};
        f(first_row(thread) + thread.lane() / 4 + 8 * half, first_column(thread) + 8 * n + thread.lane() % 4 * 2, pair);
        own.at[n][2 * half] = pair[0];
        own.at[n][2 * half + 1] = pair[1];
      }
  }

  /// Where score (row, key) of a block lies.
  static MODULEFORMER_DEVICE int place(int row, int key) { return key * pitch + row; }

  /// Sums to a block of scores.
  template <class Thread>
  static MODULEFORMER_DEVICE void put_scores(Thread const& thread, Sums& own, float* scores) {
    for_rows(thread, own, [&](int row, int key, float const(&x)[2]) {
      scores[place(row, key)] = x[0];
      scores[place(row, key + 1)] = x[1];
    });
  }

  /// c_ij += sum_x a_ix b_jx.
  template <class Thread>
  static MODULEFORMER_DEVICE void scores(Thread const& thread, float* staging, HeadRows<bfloat16> a,
                                         HeadRows<bfloat16> b, int width, Sums& own) {
    auto* const parts = reinterpret_cast<bfloat16*>(staging);
    auto const stage_columns = [&](int x, int stage) {
      copy_part(thread, a, x, width, parts + stage * 2 * part);
      copy_part(thread, b, x, width, parts + (stage * 2 + 1) * part);
    };
    thread.sync();
    stage_columns(0, 0);
    thread.commit_copies();
    for (int x = 0, stage = 0; x < width; x += depth, stage ^= 1) {
      if (x + depth < width) stage_columns(x + depth, stage ^ 1);
      thread.commit_copies();
      thread.template wait_copies<1>();
      thread.sync();
      bfloat16 const* const left = parts + stage * 2 * part;
      bfloat16 const* const right = left + part;
      int const lane = thread.lane();
      MODULEFORMER_UNROLL
      for (int k = 0; k < depth; k += 16) {
        std::uint32_t words[4], fragment[4];
        thread.load_matrices(fragment, left + chunk_place(first_row(thread) + lane % 16, k / 8 + lane / 16));
        MODULEFORMER_UNROLL
        for (int n = 0; n < 4; n += 2) {
          thread.load_matrices(words, right + chunk_place(first_column(thread) + 8 * n + lane / 16 * 8 + lane % 8,
                                                          k / 8 + lane / 8 % 2));
          thread.multiply_add(own.at[n], fragment, {words[0], words[1]});
          thread.multiply_add(own.at[n + 1], fragment, {words[2], words[3]});
        }
      }
      thread.sync();
    }
  }

  /// A block of scores, or its transpose, as the warp's rows of a product.
  struct Weights {
    std::uint32_t words[size / 16][4];
  };
  template <bool transposed, class Thread>
  static MODULEFORMER_DEVICE Weights take(Thread const& thread, float const* scores) {
    Weights weights;
    int const row = first_row(thread) + thread.lane() / 4, term = thread.lane() % 4 * 2;
    MODULEFORMER_UNROLL
    for (int k = 0; k < size / 16; ++k)
      MODULEFORMER_UNROLL
      for (int i = 0; i < 4; ++i) {
        int const r = row + 8 * (i % 2), t = 16 * k + term + 8 * (i / 2);
        weights.words[k][i] = transposed ? thread.round_pair(scores[place(t, r)], scores[place(t + 1, r)])
                                         : thread.round_pair(scores[place(r, t)], scores[place(r, t + 1)]);
      }
    return weights;
  }

  /// c_ix += sum_j w_ij v_jx; v: rows of the head from the first of 64 columns on, of which `width` exist.
  template <class Thread>
  static MODULEFORMER_DEVICE void weighted(Thread const& thread, float* staging, Weights const& weights,
                                           HeadRows<bfloat16> v, int width, Sums& own) {
    auto* const values = reinterpret_cast<bfloat16*>(staging);
    thread.sync();
    copy_part(thread, v, 0, width, values);
    thread.commit_copies();
    thread.template wait_copies<0>();
    thread.sync();
    int const lane = thread.lane();
    MODULEFORMER_UNROLL
    for (int k = 0; k < size / 16; ++k)
      MODULEFORMER_UNROLL
      for (int n = 0; n < 4; n += 2) {
        std::uint32_t words[4];
        thread.load_matrices_transposed(
            words, values + chunk_place(16 * k + lane % 16, first_column(thread) / 8 + n + lane / 16));
        thread.multiply_add(own.at[n], weights.words[k], {words[0], words[1]});
        thread.multiply_add(own.at[n + 1], weights.words[k], {words[2], words[3]});
      }
  }

 private:
  template <class Thread>
  static MODULEFORMER_DEVICE int first_row(Thread const& thread) {
    return thread.warp() / 2 * 16;
  }
  template <class Thread>
  static MODULEFORMER_DEVICE int first_column(Thread const& thread) {
    return thread.warp() % 2 * 32;
  }
  /// Eight rows that are read together have their chunks in different banks.
  static MODULEFORMER_DEVICE int chunk_place(int row, int chunk) { return (row * 8 + (chunk ^ (row & 7))) * 8; }

  /// Begins to copy columns [x, x + 64) of 64 rows; what does not exist becomes 0.
  template <class Thread>
  static MODULEFORMER_DEVICE void copy_part(Thread const& thread, HeadRows<bfloat16> const& rows, int x, int width,
                                            bfloat16* to) {
    MODULEFORMER_UNROLL
    for (int i = 0; i < size * 8 / threads; ++i) {
      int const at = i * threads + thread.index(), row = at / 8, chunk = at % 8, left = 2 * (width - x - 8 * chunk);
      bool const exists = row >= rows.begin && row < rows.end && left > 0;
      thread.copy_async(to + chunk_place(row, chunk),
                        exists ? rows.data + row * rows.stride + x + 8 * chunk : rows.data,
                        exists ? (left < 16 ? left : 16) : 0);
    }
  }
};

}  // namespace moduleformer::kernels
