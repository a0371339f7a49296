// SPDX-License-Identifier: MIT
#pragma once
// Gradients of ragged experts y[p] = gate[slot] act(z[p]) W[e] with respect to gate and z, fused with the
// product, and of their weights, dW[e] += sum_p x[p]^T dy[p]. Sums over slots run in sorted order, cut
// into parts by shapes; every element of dW belongs to one tile.

#include <moduleformer/backend/cpu/activation.hpp>
#include <moduleformer/backend/cpu/expert_tiles.hpp>
#include <moduleformer/backend/cpu/gemm.hpp>
#include <moduleformer/backend/cpu/parallel.hpp>
#include <moduleformer/backend/primitive_checks.hpp>
#include <moduleformer/core/error.hpp>

#include <algorithm>

namespace moduleformer {

namespace detail {

/// Rows of one expert that enter a weight gradient's product at a time.
inline constexpr Index gathered_rows = 256;

}  // namespace detail

/// g = dy[p] W[e]^T, h = act(z[p]), W (E,K,N): dgate[slot] = <g, h> ; dz[p] = gate[slot] g act'(z[p]) ;
/// scaled[p] = gate[slot] h. z, dz and scaled (P,K) share one row map; gate null: 1; dgate, dz, scaled null: not
/// wanted.
template <Real S, class Act>
void expert_backward(Cpu<S>& backend, RoutingPlan const& plan, Act const& act, Arg<Matrix<S const>> dy, Rows dy_rows,
                     Arg<TensorView<S const, 3>> weight, Arg<Vector<S const>> gate, Arg<Matrix<S const>> z, Rows z_rows,
                     Arg<Vector<S>> dgate, Arg<Matrix<S>> dz, Arg<Matrix<S>> scaled) {
  Index const k = weight.extent(1), n = weight.extent(2);
  detail::check_expert_backward(plan, dy, dy_rows, weight, gate, z, z_rows, dgate, dz, scaled);

  // A tile has all columns, since dgate sums over them; it makes them in blocks that stay in the cache.
  Scope const scope{backend.workspace()};
  Index const wanted = detail::ceil_divide(plan.slots(), detail::wanted_tiles);
  detail::TileGrid const grid{std::clamp<Index>(detail::round_up(wanted, 8), 16, detail::largest_row_tile), k};
  auto const tiles = detail::expert_tiles(backend, plan, grid, k, 0, plan.experts);
  Index const rows = grid.rows, block = detail::even_block(k, detail::largest_column_tile, 16);
  auto const sums = detail::thread_scratch<double>(backend, rows);
  auto const scratch = detail::thread_scratch<S>(
      backend, detail::round_up(rows * n, 16) + detail::round_up(rows * block, 16) + gemm_scratch<S>(rows, block, n));
#pragma omp parallel for num_threads(backend.threads()) schedule(dynamic) if (tiles.size() > 1)
  for (Index t = 0; t < tiles.size(); ++t) {
    detail::ExpertTile const tile = tiles[t];
    S* const gathered = scratch.slice(omp_get_thread_num()).data();
    S* const g = gathered + detail::round_up(rows * n, 16);
    S* const packing = g + detail::round_up(rows * block, 16);
    double* const sum = sums.slice(omp_get_thread_num()).data();
    std::fill_n(sum, tile.rows(), 0.0);
    auto const from = detail::gather<S>(plan, dy, dy_rows, tile.begin, tile.end, 0, n, gathered);
    for (Index c = 0; c < k; c += block) {
      Index const columns = std::min(block, k - c);
      gemm<S>(Trans::no, Trans::yes, tile.rows(), columns, n, S(1), from.data, from.stride,
              weight.slice(tile.expert).data() + c * n, n, S(0), g, columns, packing);
      for (Index p = tile.begin; p < tile.end; ++p) {
        Index const at = detail::row_of(plan, z_rows, p) * k + c;
        sum[p - tile.begin] += static_cast<double>(detail::activation_gradients(
            act, gate ? gate[plan.order[p]] : S(1), g + (p - tile.begin) * columns, z.data() + at,
            dz ? dz.data() + at : nullptr, scaled ? scaled.data() + at : nullptr, columns));
      }
    }
    if (dgate)
      for (Index p = tile.begin; p < tile.end; ++p) dgate[plan.order[p]] = static_cast<S>(sum[p - tile.begin]);
  }
}

/// dW[e - first] += sum over p of e of x[p]^T dy[p], for the experts [first, first + dW.extent(0)).
/// x has K columns, dy N, dW is (n,K,N).
template <Real S>
void expert_weight_gradient(Cpu<S>& backend, RoutingPlan const& plan, Arg<Matrix<S const>> x, Rows x_rows,
                            Arg<Matrix<S const>> dy, Rows dy_rows, Index first, Arg<TensorView<S, 3>> dweight) {
  Index const count = dweight.extent(0), k = dweight.extent(1), n = dweight.extent(2);
  detail::check_expert_weight_gradient(plan, x, x_rows, dy, dy_rows, first, dweight);

  Scope const scope{backend.workspace()};
  detail::TileGrid const tile = detail::choose_tiles(k, n, plan.slots(), 4, {64, 128});
  Index const across = detail::ceil_divide(n, tile.columns), per_expert = detail::ceil_divide(k, tile.rows) * across;
  // Experts with the most rows first, so that no thread begins one when the others are done.
  auto const experts = backend.workspace().template allocate<Index>(count);
  auto const rows_of = [&](Index e) { return plan.offsets[e + 1] - plan.offsets[e]; };
  Index used = 0;
  for (Index e = first; e < first + count; ++e)
    if (rows_of(e) > 0) experts[used++] = e;
  std::sort(experts.data(), experts.data() + used,
            [&](Index a, Index b) { return rows_of(a) != rows_of(b) ? rows_of(a) > rows_of(b) : a < b; });
  Index const depth = std::min(detail::gathered_rows, std::max<Index>(plan.slots(), 1));
  Index const x_size = detail::round_up(depth * tile.rows, 16), dy_size = detail::round_up(depth * tile.columns, 16);
  auto const scratch =
      detail::thread_scratch<S>(backend, x_size + dy_size + gemm_scratch<S>(tile.rows, tile.columns, depth));
#pragma omp parallel for num_threads(backend.threads()) schedule(dynamic) if (used * per_expert > 1)
  for (Index t = 0; t < used * per_expert; ++t) {
    Index const e = experts[t / per_expert];
    Index const i = t % per_expert / across * tile.rows, j = t % across * tile.columns;
    Index const rows = std::min(tile.rows, k - i), columns = std::min(tile.columns, n - j);
    S* const mine = scratch.slice(omp_get_thread_num()).data();
    S* const out = dweight.slice(e - first).data() + i * n + j;
    Index const step = std::max<Index>(1, detail::even_block(rows_of(e), depth, 8));
    for (Index p = plan.offsets[e]; p < plan.offsets[e + 1]; p += step) {
      Index const end = std::min(plan.offsets[e + 1], p + step);
      auto const a = detail::gather<S>(plan, x, x_rows, p, end, i, rows, mine);
      auto const b = detail::gather<S>(plan, dy, dy_rows, p, end, j, columns, mine + x_size);
      gemm<S>(Trans::yes, Trans::no, rows, columns, end - p, S(1), a.data, a.stride, b.data, b.stride, S(1), out, n,
              mine + x_size + dy_size);
    }
  }
}

}  // namespace moduleformer
