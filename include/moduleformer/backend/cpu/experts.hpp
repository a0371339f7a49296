// SPDX-License-Identifier: MIT
#pragma once
// Products of ragged experts: z = x[p] W[e], y[p] = gate[slot] act(z), and the input gradient
// dx[p] = dy[p] W[e]^T, for sorted slots p with their experts e. A tile gathers its rows once, makes one
// matrix product, and applies activation, gate and scatter while the result is in the cache.

#include <moduleformer/backend/cpu/activation.hpp>
#include <moduleformer/backend/cpu/expert_tiles.hpp>
#include <moduleformer/backend/cpu/gemm.hpp>
#include <moduleformer/backend/cpu/parallel.hpp>
#include <moduleformer/backend/primitive_checks.hpp>
#include <moduleformer/core/error.hpp>
#include <moduleformer/core/functors.hpp>

#include <algorithm>

namespace moduleformer {

namespace detail {

/// What one tile of a grouped product reads and writes; W[e] is (k,n), or (n,k) if transposed.
template <Real S>
struct GroupedProduct {
  RoutingPlan plan;
  Matrix<S const> x;
  Rows x_rows;
  TensorView<S const, 3> weight;
  Trans trans_weight;
  Matrix<S> z;  // sorted, or null
  Matrix<S> y;
  Rows y_rows;
  [[nodiscard]] Index n() const { return y.extent(1); }
  [[nodiscard]] Index k() const { return x.extent(1); }
};

/// z of one tile, and its rows; scratch holds gathered rows, z if it is nowhere else, packing.
template <Real S>
RowBlock<S> multiply_tile(GroupedProduct<S> const& g, ExpertTile const& tile, Index largest_rows, S* scratch) {
  Index const n = g.n(), k = g.k(), rows = tile.rows();
  auto const x = gather(g.plan, g.x, g.x_rows, tile.begin, tile.end, 0, k, scratch);
  scratch += round_up(largest_rows * k, 16);
  S* z = scratch;
  Index stride = tile.columns;
  if (g.z || g.y_rows == Rows::sorted) {
    z = (g.z ? g.z : g.y).data() + tile.begin * n + tile.first_column;
    stride = n;
  } else {
    scratch += round_up(largest_rows * tile.columns, 16);
  }
  S const* const w = g.weight.data() + tile.expert * n * k;
  bool const transposed = g.trans_weight == Trans::yes;
  gemm<S>(Trans::no, g.trans_weight, rows, tile.columns, k, S(1), x.data, x.stride,
          w + (transposed ? tile.first_column * k : tile.first_column), transposed ? k : n, S(0), z, stride, scratch);
  return {z, stride};
}

/// The product over all experts; finish(p, z, y, count) for each tile's row of a sorted slot.
template <Real S, class Finish>
void grouped_product(Cpu<S>& backend, GroupedProduct<S> const& g, Finish const& finish) {
  Index const n = g.n(), k = g.k();
  Scope const scope{backend.workspace()};
  TileGrid const grid = expert_grid(g.plan, n, k);
  auto const tiles = expert_tiles(backend, g.plan, grid, n, 0, g.plan.experts);
  Index const rows = std::min(grid.rows, g.plan.slots());
  auto const scratch = thread_scratch<S>(backend, round_up(rows * k, 16) + round_up(rows * grid.columns, 16) +
                                                      gemm_scratch<S>(rows, grid.columns, k));
#pragma omp parallel for num_threads(backend.threads()) schedule(dynamic) if (tiles.size() > 1)
  for (Index t = 0; t < tiles.size(); ++t) {
    ExpertTile const tile = tiles[t];
    auto const z = multiply_tile(g, tile, rows, scratch.slice(omp_get_thread_num()).data());
    for (Index p = tile.begin; p < tile.end; ++p)
      finish(p, z.data + (p - tile.begin) * z.stride,
             g.y.data() + row_of(g.plan, g.y_rows, p) * n + tile.first_column, tile.columns);
  }
}

}  // namespace detail

/// z = x[p] W[e] with W (E,K,N); pre[p sorted] = z (P,N) or null; y[p] = gate[slot] act(z), gate (P) or null for 1.
template <Real S, class Act>
void expert_forward(Cpu<S>& backend, RoutingPlan const& plan, Act const& act, Arg<Matrix<S const>> x, Rows x_rows,
                    Arg<TensorView<S const, 3>> weight, Arg<Vector<S const>> gate, Arg<Matrix<S>> pre,
                    Arg<Matrix<S>> y, Rows y_rows) {
  detail::check_expert_forward(plan, x, x_rows, weight, gate, pre, y, y_rows);
  detail::grouped_product<S>(backend, {plan, x, x_rows, weight, Trans::no, pre, y, y_rows},
                             [&](Index p, S const* z, S* out, Index count) {
                               detail::activate(act, gate ? gate[plan.order[p]] : S(1), z, out, count);
                             });
}

/// dx[p] = dy[p] W[e]^T with W (E,K,N), dy of N columns, dx of K.
template <Real S>
void expert_input_gradient(Cpu<S>& backend, RoutingPlan const& plan, Arg<Matrix<S const>> dy, Rows dy_rows,
                           Arg<TensorView<S const, 3>> weight, Arg<Matrix<S>> dx, Rows dx_rows) {
  detail::check_expert_input_gradient(plan, dy, dy_rows, weight, dx, dx_rows);
  detail::grouped_product<S>(backend, {plan, dy, dy_rows, weight, Trans::yes, {}, dx, dx_rows},
                             [](Index, S const* z, S* out, Index count) {
                               detail::activate(Identity{}, S(1), z, out, count);
                             });
}

}  // namespace moduleformer
