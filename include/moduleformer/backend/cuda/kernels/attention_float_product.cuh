// SPDX-License-Identifier: MIT
#pragma once
// AttentionFloatProduct: the products that attention with any head size is made of, on blocks of 64 x 64, by fused
// multiply-adds; sums in registers, terms in ascending order:
//   scores:   c_ij += sum_x a_ix b_jx   rows of two matrices in memory
//   weighted: c_ix += sum_j w_ij v_jx   a block of scores in shared memory, rows in memory
//   weighted, transposed: c_jx += sum_i w_ij v_ix
// Threads form a 16 x 16 grid over the block; each has 4 x 4 neighbouring elements.

#include <moduleformer/backend/cuda/kernels/head_rows.cuh>
#include <moduleformer/backend/cuda/kernels/packs.cuh>
#include <moduleformer/core/platform.hpp>
#include <moduleformer/core/types.hpp>

namespace moduleformer::kernels {

template <class S>
struct AttentionFloatProduct {
  using Scalar = S;
  static constexpr int threads = 256, size = 64, depth = 32;
  static constexpr int pitch = size + 4;            // of what lies in shared memory, keeping rows 16-byte aligned
  static constexpr int scores_size = size * pitch;  // floats of a block of scores, stored key by key
  static constexpr int staging_size = 2 * depth * pitch;

  struct Sums {
    float at[4][4];
  };

  static constexpr int sums = 16;  // of a thread
  static MODULEFORMER_DEVICE float& sum(Sums& sums, int i) { return sums.at[i / 4][i % 4]; }
  static MODULEFORMER_DEVICE void clear(Sums& own) {
    MODULEFORMER_UNROLL
    for (int i = 0; i < sums; ++i) sum(own, i) = 0.0f;
  }

  /// f(row, column, four neighbouring sums).
  template <class Thread, class F>
  static MODULEFORMER_DEVICE void for_rows(Thread const& thread, Sums& sums, F f) {
    MODULEFORMER_UNROLL
    for (int i = 0; i < 4; ++i) f(thread.index() / 16 * 4 + i, thread.index() % 16 * 4, sums.at[i]);
  }

  /// Where score (row, key) of a block lies.
  static MODULEFORMER_DEVICE int place(int row, int key) { return key * pitch + row; }

  /// Sums to a block of scores.
  template <class Thread>
  static MODULEFORMER_DEVICE void put_scores(Thread const& thread, Sums& sums, float* scores) {
    for_rows(thread, sums, [&](int row, int key, float const(&x)[4]) {
      MODULEFORMER_UNROLL
      for (int j = 0; j < 4; ++j) scores[place(row, key + j)] = x[j];
    });
  }

  template <class Thread>
  static MODULEFORMER_DEVICE void scores(Thread const& thread, float* staging, HeadRows<S> a, HeadRows<S> b, int width,
                                         Sums& sums) {
    float* const left = staging;
    float* const right = staging + depth * pitch;
    for (int x = 0; x < width; x += depth) {
      thread.sync();
      stage_turned(thread, a, x, width, left);
      stage_turned(thread, b, x, width, right);
      thread.sync();
      int const terms = width - x < depth ? width - x : depth;
      for (int k = 0; k < terms; ++k) {
        float l[4], r[4];
        load<4>(left + k * pitch + thread.index() / 16 * 4, 4, true, l);
        load<4>(right + k * pitch + thread.index() % 16 * 4, 4, true, r);
        add_products(l, r, sums);
      }
    }
  }

  /// A block of scores, or its transpose, as the left side of a product.
  template <bool transposed>
  struct Weights {
    float const* scores;
  };
  template <bool transposed, class Thread>
  static MODULEFORMER_DEVICE Weights<transposed> take(Thread const&, float const* scores) {
    return {scores};
  }

  /// v: rows of the head from the first of 64 columns on, of which `width` exist.
  template <bool transposed, class Thread>
  static MODULEFORMER_DEVICE void weighted(Thread const& thread, float* staging, Weights<transposed> const& weights,
                                           HeadRows<S> v, int width, Sums& sums) {
    for (int first = 0; first < v.end; first += depth) {
      thread.sync();
      for (int i = thread.index(); i < depth * size / 4; i += threads) {
        int const row = i / (size / 4), column = i % (size / 4) * 4;
        float x[4];
        v.load4(first + row, column, width, x);
        store<4>(staging + row * pitch + column, 4, true, x);
      }
      thread.sync();
      int const terms = v.end - first < depth ? v.end - first : depth;
      for (int k = 0; k < terms; ++k) {
        float l[4], r[4];
        int const own = thread.index() / 16 * 4;
        if constexpr (transposed) {
          MODULEFORMER_UNROLL
          for (int i = 0; i < 4; ++i) l[i] = weights.scores[place(first + k, own + i)];
        } else {
          load<4>(weights.scores + place(own, first + k), 4, true, l);
        }
        load<4>(staging + k * pitch + thread.index() % 16 * 4, 4, true, r);
        add_products(l, r, sums);
      }
    }
  }

 private:
  static MODULEFORMER_DEVICE void add_products(float const (&l)[4], float const (&r)[4], Sums& sums) {
    MODULEFORMER_UNROLL
    for (int i = 0; i < 4; ++i)
      MODULEFORMER_UNROLL
      for (int j = 0; j < 4; ++j) sums.at[i][j] += l[i] * r[j];
  }

  /// Columns [x, x + depth) of 64 rows, column by column; neighbouring lanes have neighbouring rows.
  template <class Thread>
  static MODULEFORMER_DEVICE void stage_turned(Thread const& thread, HeadRows<S> rows, int x, int width, float* to) {
    for (int i = thread.index(); i < size * depth / 4; i += threads) {
      int const row = i % size, column = i / size * 4;
      float four[4];
      rows.load4(row, x + column, width, four);
      MODULEFORMER_UNROLL
      for (int j = 0; j < 4; ++j) to[(column + j) * pitch + row] = four[j];
    }
  }
};

}  // namespace moduleformer::kernels
