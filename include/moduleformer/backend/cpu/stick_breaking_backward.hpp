// SPDX-License-Identifier: MIT
#pragma once
// Stick-breaking attention, backward. With A_ij = dy_i.v_j (- dy_i.v_i with remainder), G_ij = a_ij A_ij:
//   dl_ij = G_ij - sigmoid(l_ij) sum_{m<=j} G_im = u_ij (G_ij - e_ij sum_{m<j} G_im),  u = 1 / (1 + e)
//   dq_i = s sum_j dl_ij k_j   dk_j += s sum_i dl_ij q_i   dv_j += sum_i a_ij dy_i,  s = 1 / sqrt(d)
// A tile of query rows first repeats forward over the keys it visited and keeps e and a of the tile; then it
// walks from the oldest key to the newest, since the prefix of G must start at exactly 0 (far keys weigh
// almost nothing but have sigmoid ~ 1/2: from the other side they would get the rounding of the whole sum).
// Tiles of one (sequence, head) are dealt to groups with dk, dv of their own, added in ascending order.

#include <moduleformer/backend/arguments.hpp>
#include <moduleformer/backend/cpu/block_product.hpp>
#include <moduleformer/backend/cpu/cpu.hpp>
#include <moduleformer/backend/cpu/stick_breaking_tile.hpp>

#include <algorithm>
#include <cmath>
#include <cstdint>

namespace moduleformer {

namespace detail {

/// The arguments of one backward call.
template <Real S>
struct BackwardCall {
  StickBreakingVariant variant;
  AttentionExtents extents;
  Matrix<S const> dy, q, k, v;
  Matrix<std::int32_t const> stop;
  Matrix<S> dq;
};

/// Sums of dk (scaled) and dv of one group of tiles: (keys,d), d padded to vectors.
template <Real S>
struct KeyGradients {
  S* key;
  S* value;
};

/// One thread's matrices: R rows of a tile, B keys of a block, T keys that a tile visits at most.
template <Real S>
struct BackwardScratch {
  S *query, *query_transposed;    // (R,d) scaled by s, (d,R)
  S *output, *output_transposed;  // dy (R,d), (d,R)
  S *key, *value;                 // (B,d)
  S *exponential, *weight;        // (T,R) e and a of the tile
  S* score;                       // (B,R) A, then dl
  S* query_gradient;              // (R,d)
  S *stick, *prefix, *own;        // (R) sticks, sums of G, dy_i.v_i
  KeyBlock* blocks;               // as visited
  template <class Memory>
  BackwardScratch(Workspace<Memory>& workspace, AttentionExtents const& extents, Index keys) {
    Index const rows = AttentionBlocks::rows(extents.head_size), width = padded<S>(extents.head_size);
    auto const matrix = [&](Index m, Index n) { return workspace.template allocate<S>(m, n).data(); };
    query = matrix(rows, width), query_transposed = matrix(width, rows);
    output = matrix(rows, width), output_transposed = matrix(width, rows);
    key = matrix(AttentionBlocks::keys, width), value = matrix(AttentionBlocks::keys, width);
    exponential = matrix(keys, rows), weight = matrix(keys, rows);
    score = matrix(AttentionBlocks::keys, rows);
    query_gradient = matrix(rows, width);
    stick = matrix(1, rows), prefix = matrix(1, rows), own = matrix(1, rows);
    // Every block but the last of each kind has its full size; a diagonal block has at least one key.
    blocks = workspace.template allocate<KeyBlock>(rows + keys / AttentionBlocks::keys + 2).data();
  }
};

/// dl of a block from e, a and A = dy.v, oldest key first, for rows [first, last); the prefix moves along.
template <Real S>
void score_gradients(Index keys, Index first, Index last, Index stride, S const* exponential, S const* weight,
                     S const* own, S* score, S* prefix) {
  for (Index j = 0; j < keys; ++j) {
    S const* const e = exponential + j * stride;
    S const* const a = weight + j * stride;
    S* const s = score + j * stride;
#pragma omp simd
    for (Index i = first; i < last; ++i) {
      S const g = a[i] * (s[i] - own[i]);
      s[i] = (g - e[i] * prefix[i]) / (S(1) + e[i]);
      prefix[i] += g;
    }
  }
}

template <Real S>
void backward_tile(BackwardCall<S> const& call, Sequence const& sequence, Index head, QueryTile const& tile,
                   BackwardScratch<S> const& scratch, KeyGradients<S> const& gradients) {
  Index const d = call.extents.head_size, width = padded<S>(d), stride = call.q.extent(1);
  Index const columns = padded<S>(tile.rows), column = head * d;
  Index const row = sequence.query_begin * tile.rows_per_token + tile.first_row;
  S const scale = static_cast<S>(1.0 / std::sqrt(static_cast<double>(d)));
  S const* const keys = call.k.data() + sequence.key_begin * stride + column;
  S const* const values = call.v.data() + sequence.key_begin * stride + column;
  copy_padded(tile.rows, d, call.q.data() + row * stride + column, stride, scale, scratch.query, width, columns);
  transpose(columns, width, scratch.query, width, scratch.query_transposed, columns);
  copy_padded(tile.rows, d, call.dy.data() + row * stride + column, stride, S(1), scratch.output, width, columns);
  transpose(columns, width, scratch.output, width, scratch.output_transposed, columns);
  std::fill_n(scratch.query_gradient, columns * width, S(0));
  std::fill_n(scratch.stick, columns, S(1));
  std::fill_n(scratch.prefix, columns, S(0));
  std::fill_n(scratch.own, columns, S(0));
  if (call.variant.keep_remainder)
    for (Index i = 0; i < tile.rows; ++i) {
      S const* const own = values + tile.position(i) * stride;
      S sum = 0;
      for (Index x = 0; x < d; ++x) sum += scratch.output[i * width + x] * own[x];
      scratch.own[i] = sum;
    }
  Index lowest = sequence.key_count;
  for (Index i = 0; i < tile.rows; ++i) lowest = std::min<Index>(lowest, call.stop(row + i, head));

  Index count = 0;
  for (Index end = tile.visible_end(tile.rows - 1); end > lowest; end = scratch.blocks[count++].begin) {
    KeyBlock const block = tile.block_before<S>(end, lowest);
    scratch.blocks[count] = block;
    S* const exponential = scratch.exponential + (block.begin - lowest) * columns;
    auto const key = block_rows(block, d, keys, stride, scratch.key);
    block_product<Operand::plain, Store::overwrite>(block.count, columns - block.first, width, key.data, key.stride,
                                                    scratch.query_transposed + block.first, columns,
                                                    exponential + block.first, columns);
    mask_scores(tile, block, exponential, columns);
    break_sticks<true>(block.count, block.first, columns, columns, exponential,
                       scratch.weight + (block.begin - lowest) * columns, scratch.stick);
  }

  while (count-- > 0) {
    KeyBlock const block = scratch.blocks[count];
    auto const [begin, size, first] = block;
    S const* const weight = scratch.weight + (begin - lowest) * columns;
    Index const rows = columns - first;
    auto const key = block_rows(block, d, keys, stride, scratch.key);
    auto const value = block_rows(block, d, values, stride, scratch.value);
    block_product<Operand::plain, Store::overwrite>(size, rows, width, value.data, value.stride,
                                                    scratch.output_transposed + first, columns, scratch.score + first,
                                                    columns);
    score_gradients(size, first, columns, columns, scratch.exponential + (begin - lowest) * columns, weight,
                    scratch.own, scratch.score, scratch.prefix);
    block_product<Operand::transposed, Store::add>(rows, width, size, scratch.score + first, columns, key.data,
                                                   key.stride, scratch.query_gradient + first * width, width);
    block_product<Operand::plain, Store::add>(size, width, rows, scratch.score + first, columns,
                                              scratch.query + first * width, width, gradients.key + begin * width,
                                              width);
    block_product<Operand::plain, Store::add>(size, width, rows, weight + first, columns,
                                              scratch.output + first * width, width, gradients.value + begin * width,
                                              width);
  }

  for (Index i = 0; i < tile.rows; ++i) {
    S* const dq = call.dq.data() + (row + i) * stride + column;
    for (Index x = 0; x < d; ++x) dq[x] = scale * scratch.query_gradient[i * width + x];
    if (!call.variant.keep_remainder) continue;
    S* const own = gradients.value + tile.position(i) * width;  // y_i += r_i v_i
    for (Index x = 0; x < width; ++x) own[x] += scratch.stick[i] * scratch.output[i * width + x];
  }
}

/// Groups of tiles of one (sequence, head): enough for several cores where there are few heads, as long as a
/// group has some tiles and all sums stay within 64 MiB. A function of shapes only.
template <Real S>
Index gradient_groups(AttentionExtents const& extents, Sequence const& sequence) {
  Index const bytes = 2 * sequence.key_count * padded<S>(extents.head_size) * static_cast<Index>(sizeof(S));
  Index const affordable = (Index{64} << 20) / std::max<Index>(1, bytes);
  return std::max<Index>(1, std::min({8 / extents.heads, affordable, query_tiles(extents, sequence) / 4}));
}

/// Adds a unit's sums to the rows [row, row + block) of dk and dv that are its keys, group after group.
template <Real S>
void add_sums(Sequence const& sequence, Index row, Index column, Index head_size, Index groups, S const* sums,
              Index stride, Matrix<S> dk, Matrix<S> dv) {
  Index const width = padded<S>(head_size), end = sequence.key_begin + sequence.key_count;
  for (Index r = std::max(row, sequence.key_begin); r < std::min(end, row + AttentionBlocks::keys); ++r)
    for (Index part = 0; part < 2; ++part) {
      S* const to = (part == 0 ? dk : dv).slice(r).data() + column;
      for (Index group = 0; group < groups; ++group) {
        S const* const from = sums + group * stride + part * stride / 2 + (r - sequence.key_begin) * width;
        for (Index x = 0; x < head_size; ++x) to[x] += from[x];
      }
    }
}

}  // namespace detail

/// dq (P,A) =, dk and dv (rows,A) += from dy (P,A), forward's inputs and its `stop`; dk and dv may be one matrix.
/// Rows of dq in no sequence become 0. log_stick is not needed: the sticks are computed again, which keeps
/// their precision where their logarithms are large.
template <Real S>
void stick_breaking_backward(Cpu<S>& backend, StickBreakingVariant variant, AttentionExtents extents,
                             Vector<Sequence const> sequences, Arg<Matrix<S const>> dy, Arg<Matrix<S const>> q,
                             Arg<Matrix<S const>> k, Arg<Matrix<S const>> v, Arg<Matrix<S const>>,
                             Matrix<std::int32_t const> stop, Arg<Matrix<S>> dq, Arg<Matrix<S>> dk,
                             Arg<Matrix<S>> dv) {
  constexpr char const* where = "stick_breaking_backward";
  detail::check_attention<S>(where, extents, sequences, q, k, v);
  detail::expect_extents(where, "dy", dy, q.extent(0), q.extent(1));
  detail::expect_extents(where, "stop", stop, q.extent(0), extents.heads);
  detail::expect_extents(where, "dq", dq, q.extent(0), q.extent(1));
  detail::expect_extents(where, "dk", dk, k.extent(0), k.extent(1));
  detail::expect_extents(where, "dv", dv, v.extent(0), v.extent(1));
  if (detail::has_gaps(sequences, extents.rows_per_token, q.extent(0))) std::fill(dq.begin(), dq.end(), S(0));

  Index longest = 0;
  for (Sequence const& s : sequences) longest = std::max(longest, s.key_count);
  Index const heads = extents.heads, d = extents.head_size, width = detail::padded<S>(d);
  Index const units = sequences.extent(0) * heads;  // (sequence, head)
  Index groups = 1;
  for (Sequence const& s : sequences) groups = std::max(groups, detail::gradient_groups<S>(extents, s));
  // Units whose sums are in memory together: some megabytes, and work for every thread.
  Index const bytes = 2 * longest * width * groups * static_cast<Index>(sizeof(S));
  Index const wanted =
      std::max((Index{16} << 20) / std::max<Index>(1, bytes), (2 * backend.threads() + groups - 1) / groups);
  Index const wave = std::max<Index>(1, std::min(units, wanted));

  detail::BackwardCall<S> const call{variant, extents, dy, q, k, v, stop, dq};
  Scope const scope{backend.workspace()};
  auto const scratch = backend.workspace().template allocate<detail::BackwardScratch<S>>(backend.threads());
  for (auto& part : scratch) part = detail::BackwardScratch<S>(backend.workspace(), extents, longest);
  auto const sums = backend.workspace().template allocate<S>(wave * groups, 2, longest * width);
  auto const groups_of = [&](Sequence const& s) {
    return s.query_count > 0 ? detail::gradient_groups<S>(extents, s) : 0;
  };

  for (Index base = 0; base < units; base += wave) {
    Index const in_wave = std::min(wave, units - base);
#pragma omp parallel for num_threads(backend.threads()) schedule(dynamic)
    for (Index task = 0; task < in_wave * groups; ++task) {
      Index const unit = base + task / groups, group = task % groups;
      Sequence const& s = sequences[unit / heads];
      Index const own_groups = groups_of(s);
      if (group >= own_groups) continue;
      detail::KeyGradients<S> const gradients{&sums(task, 0, 0), &sums(task, 1, 0)};
      std::fill_n(gradients.key, s.key_count * width, S(0));
      std::fill_n(gradients.value, s.key_count * width, S(0));
      for (Index tile = group; tile < detail::query_tiles(extents, s); tile += own_groups)
        detail::backward_tile(call, s, unit % heads, detail::query_tile(variant, extents, s, tile),
                              scratch[omp_get_thread_num()], gradients);
    }
    // A thread owns rows of dk and dv, so that sequences may share keys.
#pragma omp parallel for num_threads(backend.threads())
    for (Index row = 0; row < k.extent(0); row += detail::AttentionBlocks::keys)
      for (Index unit = base; unit < base + in_wave; ++unit)
        detail::add_sums(sequences[unit / heads], row, unit % heads * d, d, groups_of(sequences[unit / heads]),
                         &sums((unit - base) * groups, 0, 0), 2 * longest * width, dk, dv);
  }
}

}  // namespace moduleformer
