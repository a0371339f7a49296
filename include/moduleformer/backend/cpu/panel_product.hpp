// SPDX-License-Identifier: MIT
#pragma once
// C = alpha op(A) op(B) + beta C on one thread by panels of B: a panel two vectors wide and at most 256
// terms deep is copied to scratch (transposed if need be), all rows of A pass over it in register tiles, and
// meanwhile the next panel is prefetched. With a few dozen rows, as experts have, reading B from memory
// takes about as long as multiplying; here the one hides behind the other.

#include <moduleformer/backend/cpu/narrow_product.hpp>
#include <moduleformer/backend/cpu/parallel.hpp>
#include <moduleformer/backend/cpu/vectors.hpp>
#include <moduleformer/core/types.hpp>

#include <algorithm>

namespace moduleformer::detail {

/// Terms of a panel.
inline constexpr Index panel_depth = 256;
template <Real S>
inline constexpr Index panel_width = 2 * lanes<S>;
/// Rows of the register tile: with two vectors a row, the sums take three quarters of the registers.
inline constexpr int panel_rows = 3 * vector_registers / 8;

/// Products of fewer terms are shallow: they spend their time on C, and walk along its rows.
inline constexpr Index shallow_depth = 96;
inline constexpr Index shallow_columns = 512;

/// Elements of scratch for a product of at most n columns and k terms.
template <Real S>
constexpr Index panel_scratch(Index n, Index k) {
  return std::max(std::min(k, panel_depth) * panel_width<S>,
                  std::min(k, shallow_depth) * round_up(std::min(n, shallow_columns), panel_width<S>));
}

/// op(A) and how its product with a panel is stored.
template <Real S>
struct PanelCall {
  Index depth;
  Index row, step;  // of op(A): distance of rows and of terms
  S alpha;
  bool add;
  Index columns;  // of this panel, at most panel_width
  S const* panel;
  S* c;
  Index ldc;
};

/// Cache lines of one column of a panel in B^T, and the number of terms between two outer steps of prefetching.
template <Real S>
inline constexpr Index panel_lines = panel_depth * static_cast<Index>(sizeof(S)) / 64;

/// Half of a panel, one cache line for each term: line i is at from + i / panel_lines * outer + i % panel_lines *
/// inner.
template <Real S>
struct HalfPanel {
  S const* from;
  Index inner = 0, outer = 0;
};

template <int M, Real S>
inline void panel_tile(PanelCall<S> const& call, S const* a, S* c, HalfPanel<S> const& first,
                       HalfPanel<S> const& second) {
  constexpr Index n = lanes<S>;
  for (int m = 0; m < M; ++m) {  // C of a weight gradient comes from memory
    __builtin_prefetch(c + m * call.ldc, 1);
    __builtin_prefetch(c + m * call.ldc + call.columns - 1, 1);
  }
  Lanes<S> sum[M][2] = {};
  Index const row = call.row, step = call.step;
  S const* b = call.panel;
  S const *ask = first.from, *ask_too = second.from;
  for (Index begin = 0; begin < call.depth; begin += panel_lines<S>) {
    Index const end = std::min(call.depth, begin + panel_lines<S>);
    S const *line = ask, *other_line = ask_too;
    for (Index k = begin; k < end; ++k, b += 2 * n, a += step) {
      Lanes<S> const x = load(b), y = load(b + n);
      __builtin_prefetch(line);
      __builtin_prefetch(other_line);
      line += first.inner;
      other_line += second.inner;
#pragma GCC unroll 16
      for (int m = 0; m < M; ++m) {
        S const factor = a[m * row];
        sum[m][0] += factor * x;
        sum[m][1] += factor * y;
      }
    }
    ask += first.outer;
    ask_too += second.outer;
  }
  // Each loop over the sums is unrolled, since registers cannot be indexed.
  if (call.columns == 2 * n) {
#pragma GCC unroll 16
    for (int m = 0; m < M; ++m) {
      S* const to = c + m * call.ldc;
      Lanes<S> const left = call.alpha * sum[m][0], right = call.alpha * sum[m][1];
      store<S>(call.add ? load(to) + left : left, to);
      store<S>(call.add ? load(to + n) + right : right, to + n);
    }
    return;
  }
  S rest[M][2 * n];
#pragma GCC unroll 16
  for (int m = 0; m < M; ++m) {
    store<S>(call.alpha * sum[m][0], rest[m]);
    store<S>(call.alpha * sum[m][1], rest[m] + n);
  }
  for (int m = 0; m < M; ++m)
    for (Index i = 0; i < call.columns; ++i) {
      S& to = c[m * call.ldc + i];
      to = call.add ? to + rest[m][i] : rest[m][i];
    }
}

/// The rows of A over one panel: tiles of M rows, what is left in smaller ones. The first tile, or the first two,
/// prefetch the halves of the next panel; the others ask for what they have.
template <int M, Real S>
inline void panel_tiles(PanelCall<S> const& call, Index row, Index rows, S const* a, HalfPanel<S> const (&next)[2]) {
  HalfPanel<S> const nothing{call.panel};
  for (; rows - row >= M; row += M) {
    bool const only = row == 0 && rows < 2 * M;
    panel_tile<M>(call, a + row * call.row, call.c + row * call.ldc,
                  row < M       ? next[0]
                  : row < 2 * M ? next[1]
                                : nothing,
                  only ? next[1] : nothing);
  }
  if constexpr (M > 1)
    if (row < rows) panel_tiles<(M == 12 ? 8 : M == 6 ? 4 : M / 2)>(call, row, rows, a, next);
}

/// panel[k][j] = op(B)[k][j], with zeros beyond the last column.
template <Real S>
void copy_panel(Trans trans, S const* b, Index ldb, Index depth, Index columns, S* panel) {
  constexpr Index n = lanes<S>, width = panel_width<S>;
  if (trans == Trans::no) {
    for (Index k = 0; k < depth; ++k, b += ldb, panel += width) {
      if (columns == width) {
        store<S>(load(b), panel);
        store<S>(load(b + n), panel + n);
      } else {
        std::copy_n(b, columns, panel);
        std::fill_n(panel + columns, width - columns, S(0));
      }
    }
    return;
  }
  Index k = 0;
  if (columns == width)
    for (; k + n <= depth; k += n) {
      transpose_square(b + k, ldb, panel + k * width, width);
      transpose_square(b + n * ldb + k, ldb, panel + k * width + n, width);
    }
  for (; k < depth; ++k)
    for (Index j = 0; j < width; ++j) panel[k * width + j] = j < columns ? b[j * ldb + k] : S(0);
}

/// Where the halves of the panel at (term k, column j) lie.
template <Real S>
void locate_halves(Trans trans, S const* b, Index ldb, Index k, Index j, HalfPanel<S> (&halves)[2]) {
  constexpr Index line = 64 / static_cast<Index>(sizeof(S));
  for (Index half = 0; half < 2; ++half, j += lanes<S>)
    halves[half] = trans == Trans::no ? HalfPanel<S>{b + k * ldb + j, ldb, panel_lines<S> * ldb}
                                      : HalfPanel<S>{b + j * ldb + k, line, ldb};
}

/// Rows of A over consecutive panels of one block of columns.
template <int M, Real S>
inline void shallow_tiles(PanelCall<S>& call, Index row, Index rows, Index columns, S const* a, S const* panels, S* c) {
  constexpr Index width = panel_width<S>;
  for (; rows - row >= M; row += M) {
    call.panel = panels;
    for (Index j = 0; j < columns; j += width, call.panel += call.depth * width) {
      call.columns = std::min(width, columns - j);
      HalfPanel<S> const nothing{call.panel};
      panel_tile<M>(call, a + row * call.row, c + row * call.ldc + j, nothing, nothing);
    }
  }
  if constexpr (M > 1)
    if (row < rows) shallow_tiles<(M == 12 ? 8 : M == 6 ? 4 : M / 2)>(call, row, rows, columns, a, panels, c);
}

/// The product of gemm.hpp; A's rows should fit the second-level cache with 256 terms each.
template <Real S>
void panel_product(Trans trans_a, Trans trans_b, Index m, Index n, Index k, S alpha, S const* a, Index lda, S const* b,
                   Index ldb, S beta, S* c, Index ldc, S* panel) {
  constexpr Index width = panel_width<S>;
  PanelCall<S> call{k, trans_a == Trans::no ? lda : 1, trans_a == Trans::no ? 1 : lda, alpha, beta != S(0), 0, panel,
                    c, ldc};
  if (k <= shallow_depth) {
    for (Index j = 0; j < n; j += shallow_columns) {
      Index const columns = std::min(shallow_columns, n - j);
      for (Index i = 0; i < columns; i += width)
        copy_panel(trans_b, trans_b == Trans::no ? b + j + i : b + (j + i) * ldb, ldb, k, std::min(width, columns - i),
                   panel + i * k);
      shallow_tiles<panel_rows>(call, 0, m, columns, a, panel, c + j);
    }
    return;
  }
  Index const depth = even_block(k, panel_depth, lanes<S>);
  for (Index first = 0; first < k; first += depth, call.add = true) {
    call.depth = std::min(depth, k - first);
    for (Index j = 0; j < n; j += width) {
      call.columns = std::min(width, n - j);
      call.c = c + j;
      copy_panel(trans_b, trans_b == Trans::no ? b + first * ldb + j : b + j * ldb + first, ldb, call.depth,
                 call.columns, panel);
      HalfPanel<S> next[2] = {{panel}, {panel}};
      if (j + width < n) locate_halves(trans_b, b, ldb, first, j + width, next);
      else if (first + depth < k) locate_halves(trans_b, b, ldb, first + depth, 0, next);
      panel_tiles<panel_rows>(call, 0, m, a + first * call.step, next);
    }
  }
}

}  // namespace moduleformer::detail
