// SPDX-License-Identifier: MIT
#pragma once
// Rows by number: the embedding table and its gradient, and gathering and scattering chosen rows.

#include <moduleformer/backend/arguments.hpp>
#include <moduleformer/backend/cpu/linear.hpp>
#include <moduleformer/backend/cpu/parallel.hpp>
#include <moduleformer/core/error.hpp>

#include <algorithm>
#include <cstdint>

namespace moduleformer {

namespace detail {

template <class Id>
void expect_row_numbers(char const* where, char const* what, Vector<Id const> ids, Index rows) {
  for (Index t = 0; t < ids.extent(0); ++t)
    expects(ids[t] >= 0 && ids[t] < rows, where, ": ", what, " at position ", t, ": expected 0 to ", rows - 1,
            ", found ", ids[t]);
}

}  // namespace detail

/// out[t] = table[ids[t]]; table (V,D), out (N,D). Throws Error for an id outside the table.
template <Real S>
void embedding(Cpu<S>& backend, Arg<Matrix<S const>> table, Arg<Vector<TokenId const>> ids, Arg<Matrix<S>> out) {
  Index const width = table.extent(1);
  detail::expect_extents("embedding", "out", out, ids.extent(0), width);
  detail::expect_row_numbers("embedding", "token id", ids, table.extent(0));
  detail::parallel_blocks(backend, ids.extent(0), detail::row_block(width), [&](Index begin, Index end) {
    for (Index t = begin; t < end; ++t) std::copy_n(table.data() + ids[t] * width, width, out.data() + t * width);
  });
}

/// dtable[ids[t]] += dout[t], t ascending: a thread has some columns of all tokens.
template <Real S>
void embedding_backward(Cpu<S>& backend, Arg<Vector<TokenId const>> ids, Arg<Matrix<S const>> dout,
                        Arg<Matrix<S>> dtable) {
  Index const width = dtable.extent(1), tokens = ids.extent(0);
  detail::expect_extents("embedding_backward", "dout", dout, tokens, width);
  detail::expect_row_numbers("embedding_backward", "token id", ids, dtable.extent(0));
  detail::parallel_blocks(backend, width, Index{64}, [&](Index begin, Index end) {
    for (Index t = 0; t < tokens; ++t) {
      S const* const from = dout.data() + t * width;
      S* const to = dtable.data() + ids[t] * width;
#pragma omp simd
      for (Index i = begin; i < end; ++i) to[i] += from[i];
    }
  });
}

/// out[i] = x[rows[i]].
template <Real S>
void gather_rows(Cpu<S>& backend, Arg<Matrix<S const>> x, Arg<Vector<std::int32_t const>> rows, Arg<Matrix<S>> out) {
  Index const width = x.extent(1);
  detail::expect_extents("gather_rows", "out", out, rows.extent(0), width);
  detail::expect_row_numbers("gather_rows", "row", rows, x.extent(0));
  detail::parallel_blocks(backend, rows.extent(0), detail::row_block(width), [&](Index begin, Index end) {
    for (Index i = begin; i < end; ++i) std::copy_n(x.data() + rows[i] * width, width, out.data() + i * width);
  });
}

/// out[rows[i]] += x[i]; the rows are distinct.
template <Real S>
void scatter_rows(Cpu<S>& backend, Arg<Matrix<S const>> x, Arg<Vector<std::int32_t const>> rows, Arg<Matrix<S>> out) {
  Index const width = x.extent(1);
  detail::expect_extents("scatter_rows", "x", x, rows.extent(0), out.extent(1));
  detail::expect_row_numbers("scatter_rows", "row", rows, out.extent(0));
  detail::parallel_blocks(backend, rows.extent(0), detail::row_block(width), [&](Index begin, Index end) {
    for (Index i = begin; i < end; ++i) {
      S const* const from = x.data() + i * width;
      S* const to = out.data() + rows[i] * width;
#pragma omp simd
      for (Index c = 0; c < width; ++c) to[c] += from[c];
    }
  });
}

/// Each sequence's new rows, x[query_begin, ...), to the end of its rows of a cache. Rows have one width.
template <Real S>
void append_rows(Cpu<S>&, Arg<Vector<Sequence const>> sequences, Arg<Matrix<S const>> x, Arg<Matrix<S>> cache) {
  Index const width = x.extent(1);
  expects(cache.extent(1) == width, "append_rows: expected a cache of width ", width, ", found ", cache.extent(1));
  for (Sequence const& s : sequences) {
    expects(s.query_begin + s.query_count <= x.extent(0) && s.key_begin + s.key_count <= cache.extent(0) &&
                s.query_count <= s.key_count,
            "append_rows: a sequence lies outside of its ", x.extent(0), " new rows or the cache's ", cache.extent(0));
    std::copy_n(x.data() + s.query_begin * width, s.query_count * width,
                cache.data() + (s.key_begin + s.key_count - s.query_count) * width);
  }
}

}  // namespace moduleformer
