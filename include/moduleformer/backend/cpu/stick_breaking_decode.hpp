// SPDX-License-Identifier: MIT
#pragma once
// Stick-breaking attention of a few query rows over many keys (one new token): inner products and sums of
// rows that stream over keys and values, newest first. Long caches are cut into segments that threads share;
// a segment maps to (o, r), and (o, r)_old then (o, r)_new is (o_new + r_new o_old, r_new r_old). The older
// segments are visited only if the newest leaves any stick.

#include <moduleformer/backend/arguments.hpp>
#include <moduleformer/backend/cpu/block_product.hpp>
#include <moduleformer/backend/cpu/cpu.hpp>
#include <moduleformer/backend/cpu/stick_breaking_tile.hpp>
#include <moduleformer/core/math.hpp>

#include <algorithm>
#include <cmath>
#include <cstdint>

namespace moduleformer::detail {

/// Sequences of at most this many query rows are narrow.
inline constexpr Index narrow_tile = 8;
inline constexpr Index narrow_block = 64;      // keys scored at a time
inline constexpr Index narrow_segment = 2048;  // keys that one thread takes

/// One thread's buffers; d is padded to vectors.
template <Real S>
struct NarrowScratch {
  S* query;    // (rows,d) scaled
  S* key;      // (block,d), used where d is not a multiple of the vector length
  S* value;    // (block,d)
  S* weights;  // (rows,block)
};

/// What a segment leaves: output (rows,d) contiguous, stick (rows), the oldest key visited.
template <Real S>
struct Segment {
  S* output;
  S* stick;
  Index oldest;
};

/// out[j] = q . k_j for j < keys; writes up to the next multiple of the vector length.
template <Real S>
void inner_products_of_rows(Index keys, Index width, S const* q, S const* k, Index stride, S* out) {
  constexpr Index n = lanes<S>;
  for (Index first = 0; first < keys; first += n) {
    S parts[n * n], turned[n * n];
    for (Index j = 0; j < n; ++j) {
      S const* const row = k + std::min(first + j, keys - 1) * stride;
      Lanes<S> even{}, odd{};
      Index x = 0;
      for (; x + 2 * n <= width; x += 2 * n) {
        even += load(q + x) * load(row + x);
        odd += load(q + x + n) * load(row + x + n);
      }
      if (x < width) even += load(q + x) * load(row + x);
      store<S>(even + odd, parts + j * n);
    }
    transpose_square(parts, n, turned, n);
    Lanes<S> sum{};
    for (Index i = 0; i < n; ++i) sum += load(turned + i * n);
    store<S>(sum, out + first);
  }
}

/// Scores of one row to weights, newest key first; keys from `visible` on get none.
template <Real S>
void break_stick(Index visible, Index keys, S* scores, S& stick) {
  S rest[narrow_block];
#pragma omp simd
  for (Index j = 0; j < keys; ++j) {
    scores[j] = bounded_exp(scores[j]);
    rest[j] = S(1) / (S(1) + scores[j]);
  }
  std::fill(scores + visible, scores + keys, S(0));
  for (Index j = visible; j-- > 0;) {
    stick *= rest[j];
    scores[j] *= stick;
  }
}

/// Keys [lowest, end) of a sequence's head.
template <Real S>
void visit_segment(ForwardCall<S> const& call, Sequence const& sequence, Index head, Index lowest, Index end,
                   NarrowScratch<S> const& scratch, Segment<S>& segment) {
  Index const d = call.extents.head_size, width = padded<S>(d), stride = call.q.extent(1), column = head * d;
  Index const slots = call.extents.rows_per_token, rows = sequence.query_count * slots;
  QueryTile const tile{0, rows, slots, sequence.key_count - sequence.query_count, call.variant.inclusive};
  S const scale = static_cast<S>(1.0 / std::sqrt(static_cast<double>(d)));
  copy_padded(rows, d, call.q.data() + sequence.query_begin * slots * stride + column, stride, scale, scratch.query,
              width, rows);
  std::fill_n(segment.output, rows * width, S(0));
  std::fill_n(segment.stick, rows, S(1));
  S const* const keys = call.k.data() + sequence.key_begin * stride + column;
  S const* const values = call.v.data() + sequence.key_begin * stride + column;
  end = std::min(end, tile.visible_end(rows - 1));
  while (end > lowest) {
    Index const begin = std::max(lowest, end - narrow_block), count = end - begin;
    auto const key = block_rows({begin, count, 0}, d, keys, stride, scratch.key);
    auto const value = block_rows({begin, count, 0}, d, values, stride, scratch.value);
    for (Index i = 0; i < rows; ++i) {
      S* const weights = scratch.weights + i * narrow_block;
      inner_products_of_rows(count, width, scratch.query + i * width, key.data, key.stride, weights);
      break_stick(std::clamp<Index>(tile.visible_end(i) - begin, 0, count), count, weights, segment.stick[i]);
    }
    block_product<Operand::plain, Store::add>(rows, width, count, scratch.weights, narrow_block, value.data,
                                              value.stride, segment.output, width);
    end = begin;
    if (used_up(rows, segment.stick, call.extents.stop_below)) break;
  }
  segment.oldest = std::max<Index>(end, 0);
}

/// Appends an older segment to what newer ones gave.
template <Real S>
void append_older(Index rows, Index width, Segment<S> const& older, Segment<S>& newer) {
  for (Index i = 0; i < rows; ++i) {
    for (Index x = 0; x < width; ++x) newer.output[i * width + x] += newer.stick[i] * older.output[i * width + x];
    newer.stick[i] *= older.stick[i];
  }
  newer.oldest = older.oldest;
}

template <Real S>
void write_narrow(ForwardCall<S> const& call, Sequence const& sequence, Index head, Segment<S> const& result) {
  Index const d = call.extents.head_size, width = padded<S>(d), slots = call.extents.rows_per_token;
  Index const first = sequence.query_begin * slots, offset = sequence.key_count - sequence.query_count;
  for (Index i = 0; i < sequence.query_count * slots; ++i) {
    S* const y = call.y.slice(first + i).data() + head * d;
    S const* const own = call.v.slice(sequence.key_begin + offset + i / slots).data() + head * d;
    S const rest = call.variant.keep_remainder ? result.stick[i] : S(0);
    for (Index x = 0; x < d; ++x)
      y[x] = result.output[i * width + x] + (call.variant.keep_remainder ? rest * own[x] : S(0));
    if (call.log_stick) call.log_stick(first + i, head) = math::log(result.stick[i]);
    if (call.stop) call.stop(first + i, head) = static_cast<std::int32_t>(result.oldest);
  }
}

/// The narrow ones among the sequences; `count` of them.
template <Real S>
void forward_narrow(Cpu<S>& backend, ForwardCall<S> const& call, Vector<Sequence const> sequences, Index count) {
  struct Task {
    Index sequence, head, index;  // segment `index`, 0 the newest
    Segment<S> segment;
  };
  Index const heads = call.extents.heads, width = padded<S>(call.extents.head_size);
  auto& workspace = backend.workspace();
  auto const segments = [](Sequence const& s) {
    return std::max<Index>(1, (s.key_count + narrow_segment - 1) / narrow_segment);
  };
  auto const segment_of = [&](Index s, Index head, Index index) {
    return Task{s, head, index, {workspace.template allocate<S>(narrow_tile, width).data(),
                                 workspace.template allocate<S>(narrow_tile).data(), 0}};
  };
  auto const scratch = workspace.template allocate<NarrowScratch<S>>(backend.threads());
  for (NarrowScratch<S>& part : scratch)
    part = {workspace.template allocate<S>(narrow_tile, width).data(),
            workspace.template allocate<S>(narrow_block, width).data(),
            workspace.template allocate<S>(narrow_block, width).data(),
            workspace.template allocate<S>(narrow_tile, narrow_block).data()};
  auto const visit = [&](Vector<Task> tasks, Index size) {
    bool const worth_sharing = size > 1 && call.k.size() > 16384;
#pragma omp parallel for num_threads(backend.threads()) schedule(dynamic) if (worth_sharing)
    for (Index i = 0; i < size; ++i) {
      Task& task = tasks[i];
      Sequence const& s = sequences[task.sequence];
      Index const end = s.key_count - task.index * narrow_segment;
      visit_segment(call, s, task.head, std::max<Index>(0, end - narrow_segment), end,
                    scratch[omp_get_thread_num()], task.segment);
    }
  };

  Vector<Task> const newest = workspace.template allocate<Task>(count * heads);
  Index units = 0, older_count = 0;
  for (Index s = 0; s < sequences.extent(0); ++s) {
    Index const rows = sequences[s].query_count * call.extents.rows_per_token;
    if (rows == 0 || rows > narrow_tile) continue;
    for (Index head = 0; head < heads; ++head) newest[units++] = segment_of(s, head, 0);
  }
  visit(newest, units);
  auto const goes_on = [&](Task const& task) {
    Sequence const& s = sequences[task.sequence];
    return segments(s) > 1 && !used_up(s.query_count * call.extents.rows_per_token, task.segment.stick,
                                       call.extents.stop_below);
  };
  for (Index i = 0; i < units; ++i)
    if (goes_on(newest[i])) older_count += segments(sequences[newest[i].sequence]) - 1;
  Vector<Task> const older = workspace.template allocate<Task>(older_count);
  Index next = 0;
  for (Index i = 0; i < units; ++i)
    if (goes_on(newest[i]))
      for (Index index = 1; index < segments(sequences[newest[i].sequence]); ++index)
        older[next++] = segment_of(newest[i].sequence, newest[i].head, index);
  visit(older, older_count);

  next = 0;
  for (Index i = 0; i < units; ++i) {
    Task& task = newest[i];
    Sequence const& s = sequences[task.sequence];
    Index const rows = s.query_count * call.extents.rows_per_token;
    bool open = goes_on(task);
    for (; next < older_count && older[next].sequence == task.sequence && older[next].head == task.head; ++next) {
      if (open) append_older(rows, width, older[next].segment, task.segment);
      open = open && !used_up(rows, task.segment.stick, call.extents.stop_below);
    }
    write_narrow(call, s, task.head, task.segment);
  }
}

}  // namespace moduleformer::detail
