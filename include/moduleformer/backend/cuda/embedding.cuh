// SPDX-License-Identifier: MIT
#pragma once
// Rows by number on the CUDA backend: the embedding table and its gradient, gathering and scattering chosen rows, and
// a cache's new rows. Ids and row numbers were checked where they lay in host memory.

#include <moduleformer/backend/arguments.hpp>
#include <moduleformer/backend/checks.hpp>
#include <moduleformer/backend/cuda/counting_sort.cuh>
#include <moduleformer/backend/cuda/cuda.cuh>
#include <moduleformer/backend/cuda/kernels/embedding.cuh>
#include <moduleformer/backend/workspace.hpp>
#include <moduleformer/core/error.hpp>

#include <algorithm>
#include <cstdint>
#include <limits>

namespace moduleformer {

namespace detail {

/// Whether rows of `width` elements at these addresses consist of whole aligned packs.
template <int N, class... T>
bool rows_may_pack(Index width, T const*... data) {
  return width % N == 0 && kernels::may_pack<N>(data...);
}

template <CudaScalar S, class P>
void launch_gather(CudaBackend<S, P>& backend, Matrix<S const> x, Vector<std::int32_t const> rows, Matrix<S> out) {
  using Kernel = kernels::GatherRows<S>;
  Index const count = rows.extent(0), width = x.extent(1);
  bool const packed = rows_may_pack<kernels::pack_size<S>>(width, x.data(), out.data());
  backend.launch(Kernel{x.data(), rows.data(), out.data(), count, width, packed}, ceil_divide(count, Kernel::warps));
}

}  // namespace detail

/// out[t] = table[ids[t]]; table (V,D), out (N,D).
template <CudaScalar S, class P>
void embedding(CudaBackend<S, P>& backend, Arg<Matrix<S const>> table, Vector<TokenId const> ids, Arg<Matrix<S>> out) {
  detail::expect_extents("embedding", "out", out, ids.extent(0), table.extent(1));
  detail::launch_gather(backend, table, ids, out);
}

/// dtable[ids[t]] += dout[t]: the positions are sorted by id, then each id's rows are added in order; frequent ids' in
/// parts (kernels::RowsById).
template <CudaScalar S, class P>
void embedding_backward(CudaBackend<S, P>& backend, Vector<TokenId const> ids, Arg<Matrix<S const>> dout,
                        Matrix<float> dtable) {
  Index const count = ids.extent(0), width = dtable.extent(1);
  detail::expect_extents("embedding_backward", "dout", dout, count, width);
  expects(count <= std::numeric_limits<std::int32_t>::max(), "embedding_backward: too many tokens: ", count);
  if (count == 0 || width == 0) return;
  Scope const scope{backend.workspace()};
  auto const order = backend.workspace().template allocate<std::int32_t>(count);
  detail::sort_by_key(backend, ids, dtable.extent(0), order, {});
  kernels::RowsById rows{ids.data(), order.data(), dtable.data(), nullptr, count, width, false};
  rows.packed = detail::rows_may_pack<rows.pack>(width, dout.data(), dtable.data());
  rows.parts = backend.workspace().template allocate<float>(rows.chunks(), 2, width).data();
  backend.launch(kernels::AddRowsById<S>{rows, dout.data()}, rows.blocks());
  if (rows.chunks() > 1) backend.launch(kernels::JoinRowsById{rows}, rows.blocks());
}

/// out[i] = x[rows[i]].
template <CudaScalar S, class P>
void gather_rows(CudaBackend<S, P>& backend, Arg<Matrix<S const>> x, Vector<std::int32_t const> rows,
                 Arg<Matrix<S>> out) {
  detail::expect_extents("gather_rows", "out", out, rows.extent(0), x.extent(1));
  detail::launch_gather(backend, x, rows, out);
}

/// out[rows[i]] += x[i]; the rows are distinct.
template <CudaScalar S, class P>
void scatter_rows(CudaBackend<S, P>& backend, Arg<Matrix<S const>> x, Vector<std::int32_t const> rows,
                  Arg<Matrix<S>> out) {
  using Kernel = kernels::ScatterRows<S>;
  Index const count = rows.extent(0), width = out.extent(1);
  detail::expect_extents("scatter_rows", "x", x, count, width);
  bool const packed = detail::rows_may_pack<Kernel::pack>(width, x.data(), out.data());
  backend.launch(Kernel{x.data(), rows.data(), out.data(), count, width, packed},
                 detail::ceil_divide(count, Kernel::warps));
}

/// Each sequence's new rows, x[query_begin, ...), to the end of its rows of a cache. Rows have one width.
template <CudaScalar S, class P>
void append_rows(CudaBackend<S, P>& backend, Vector<Sequence const> sequences, Arg<Matrix<S const>> x,
                 Arg<Matrix<S>> cache) {
  using Kernel = kernels::AppendRows<S>;
  Index const width = x.extent(1), count = sequences.extent(0);
  expects(cache.extent(1) == width, "append_rows: expected a cache of width ", width, ", found ", cache.extent(1));
  if (count == 0) return;
  bool const packed = detail::rows_may_pack<kernels::pack_size<S>>(width, x.data(), cache.data());
  // Sequences' lengths lie on the device: a warp for each row if they are equal.
  Index const pieces = std::max<Index>(1, detail::ceil_divide(x.extent(0), count * Kernel::warps));
  backend.launch(Kernel{sequences.data(), x.data(), cache.data(), pieces, width, packed}, count * pieces);
}

}  // namespace moduleformer
