// SPDX-License-Identifier: MIT
#pragma once
// Stick-breaking attention, forward (arXiv 2306.04640 section 2.2):
//   y_i = sum_j a_ij v_j (+ r_i v_i),  a_ij = sigmoid(l_ij) prod_{j<m<=i} (1 - sigmoid(l_im)),
//   l_ij = q_i.k_j / sqrt(d)
// A tile of query rows walks over blocks of keys, newest first: scores = K_b Q^T, scan, y += weights V_b, and
// stops when the stick of every row is below stop_below. No buffer is larger than a tile times a block.
// A few rows over many keys go to stick_breaking_decode.hpp.

#include <moduleformer/backend/arguments.hpp>
#include <moduleformer/backend/cpu/block_product.hpp>
#include <moduleformer/backend/cpu/cpu.hpp>
#include <moduleformer/backend/cpu/stick_breaking_decode.hpp>
#include <moduleformer/backend/cpu/stick_breaking_tile.hpp>
#include <moduleformer/core/math.hpp>

#include <algorithm>
#include <cmath>
#include <cstdint>

namespace moduleformer {

namespace detail {

/// One thread's matrices of a forward tile; R rows of a tile, B keys of a block, d padded to vectors.
template <Real S>
struct ForwardScratch {
  S* query;             // (R,d) scaled by 1 / sqrt(d)
  S* query_transposed;  // (d,R)
  S* key;               // (B,d)
  S* value;             // (B,d)
  S* scores;            // (B,R) becomes the weights
  S* output;            // (R,d)
  S* stick;             // (R)
  template <class Memory>
  ForwardScratch(Workspace<Memory>& workspace, Index head_size) {
    Index const rows = AttentionBlocks::rows(head_size), width = padded<S>(head_size);
    query = workspace.template allocate<S>(rows, width).data();
    query_transposed = workspace.template allocate<S>(width, rows).data();
    key = workspace.template allocate<S>(AttentionBlocks::keys, width).data();
    value = workspace.template allocate<S>(AttentionBlocks::keys, width).data();
    scores = workspace.template allocate<S>(AttentionBlocks::keys, rows).data();
    output = workspace.template allocate<S>(rows, width).data();
    stick = workspace.template allocate<S>(rows).data();
  }
};

template <Real S>
void forward_tile(ForwardCall<S> const& call, Sequence const& sequence, Index head, QueryTile const& tile,
                  ForwardScratch<S> const& scratch) {
  Index const d = call.extents.head_size, width = padded<S>(d), stride = call.q.extent(1);
  Index const columns = padded<S>(tile.rows), column = head * d;
  Index const row = sequence.query_begin * tile.rows_per_token + tile.first_row;
  S const scale = static_cast<S>(1.0 / std::sqrt(static_cast<double>(d)));
  copy_padded(tile.rows, d, call.q.data() + row * stride + column, stride, scale, scratch.query, width, columns);
  transpose(columns, width, scratch.query, width, scratch.query_transposed, columns);
  std::fill_n(scratch.output, columns * width, S(0));
  std::fill_n(scratch.stick, columns, S(1));

  S const* const keys = call.k.data() + sequence.key_begin * stride + column;
  S const* const values = call.v.data() + sequence.key_begin * stride + column;
  Index end = tile.visible_end(tile.rows - 1);
  while (end > 0) {
    KeyBlock const block = tile.block_before<S>(end, 0);
    Index const first = block.first, count = columns - first;
    auto const key = block_rows(block, d, keys, stride, scratch.key);
    auto const value = block_rows(block, d, values, stride, scratch.value);
    block_product<Operand::plain, Store::overwrite>(block.count, count, width, key.data, key.stride,
                                                    scratch.query_transposed + first, columns, scratch.scores + first,
                                                    columns);
    mask_scores(tile, block, scratch.scores, columns);
    break_sticks<false>(block.count, first, columns, columns, scratch.scores, scratch.scores, scratch.stick);
    block_product<Operand::transposed, Store::add>(count, width, block.count, scratch.scores + first, columns,
                                                   value.data, value.stride, scratch.output + first * width, width);
    end = block.begin;
    if (used_up(tile.rows, scratch.stick, call.extents.stop_below)) break;
  }

  for (Index i = 0; i < tile.rows; ++i) {
    S* const y = call.y.data() + (row + i) * stride + column;
    S const* const output = scratch.output + i * width;
    S const rest = call.variant.keep_remainder ? scratch.stick[i] : S(0);
    S const* const own = values + tile.position(i) * stride;
    if (call.variant.keep_remainder)
      for (Index x = 0; x < d; ++x) y[x] = output[x] + rest * own[x];
    else
      std::copy_n(output, d, y);
    if (call.log_stick) call.log_stick(row + i, head) = math::log(scratch.stick[i]);
    if (call.stop) call.stop(row + i, head) = static_cast<std::int32_t>(end);
  }
}

/// One tile of work.
struct TileTask {
  Index sequence, head, tile;
};

}  // namespace detail

/// y (P,A) from q (P,A), k and v (rows, A); rows of y in no sequence become 0. log_stick (P,H): ln r_i; stop
/// (P,H): the first key of its sequence that the row visited. A sequence's bits do not depend on the others.
template <Real S>
void stick_breaking_forward(Cpu<S>& backend, StickBreakingVariant variant, AttentionExtents extents,
                            Vector<Sequence const> sequences, Arg<Matrix<S const>> q, Arg<Matrix<S const>> k,
                            Arg<Matrix<S const>> v, Arg<Matrix<S>> y, Arg<Matrix<S>> log_stick,
                            Matrix<std::int32_t> stop) {
  constexpr char const* where = "stick_breaking_forward";
  detail::check_attention<S>(where, extents, sequences, q, k, v);
  detail::expect_extents(where, "y", y, q.extent(0), q.extent(1));
  if (log_stick) detail::expect_extents(where, "log_stick", log_stick, q.extent(0), extents.heads);
  if (stop) detail::expect_extents(where, "stop", stop, q.extent(0), extents.heads);
  if (detail::has_gaps(sequences, extents.rows_per_token, q.extent(0))) {
    std::fill(y.begin(), y.end(), S(0));
    if (log_stick) std::fill(log_stick.begin(), log_stick.end(), S(0));
    if (stop) std::fill(stop.begin(), stop.end(), 0);
  }

  detail::ForwardCall<S> const call{variant, extents, q, k, v, y, log_stick, stop};
  Scope const scope{backend.workspace()};
  auto const is_narrow = [&](Sequence const& s) {
    return s.query_count * extents.rows_per_token <= detail::narrow_tile;
  };
  Index count = 0, narrow = 0;
  for (Sequence const& s : sequences) {
    if (is_narrow(s)) ++narrow;
    else count += extents.heads * detail::query_tiles(extents, s);
  }
  if (count > 0) {
    auto const tasks = backend.workspace().template allocate<detail::TileTask>(count);
    Index next = 0;
    for (Index s = 0; s < sequences.extent(0); ++s) {
      if (is_narrow(sequences[s])) continue;
      for (Index head = 0; head < extents.heads; ++head)  // the longest tiles first
        for (Index tile = detail::query_tiles(extents, sequences[s]); tile-- > 0;) tasks[next++] = {s, head, tile};
    }
    auto const scratch = backend.workspace().template allocate<detail::ForwardScratch<S>>(backend.threads());
    for (auto& part : scratch) part = detail::ForwardScratch<S>(backend.workspace(), extents.head_size);
#pragma omp parallel for num_threads(backend.threads()) schedule(dynamic) if (count > 1)
    for (Index i = 0; i < count; ++i) {
      auto const [s, head, tile] = tasks[i];
      detail::forward_tile(call, sequences[s], head, detail::query_tile(variant, extents, sequences[s], tile),
                           scratch[omp_get_thread_num()]);
    }
  }
  if (narrow > 0) detail::forward_narrow(backend, call, sequences, narrow);
}

}  // namespace moduleformer
