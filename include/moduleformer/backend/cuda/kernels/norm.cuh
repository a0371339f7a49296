// SPDX-License-Identifier: MIT
#pragma once
// Layer norm over rows (formulas: backend/cpu/norm.hpp) by teams: a warp or a block per row, a thread having packs of
// columns. A row that fits stays in registers, longer ones are read again. Statistics in float: the mean, corrected
// by the mean of the differences to it, and the variance from these differences. Rows of forward, and of dy in
// backward, may be sums over slots, which are added up as they are read.

#include <moduleformer/backend/cuda/kernels/elementwise.cuh>
#include <moduleformer/backend/cuda/kernels/packs.cuh>
#include <moduleformer/backend/cuda/kernels/reduction.cuh>
#include <moduleformer/core/platform.hpp>
#include <moduleformer/core/types.hpp>

#include <cmath>
#include <cstddef>

namespace moduleformer::kernels {

/// y = (x - mean) inverse weight + bias; mean and inverse may be null. Team: 32 threads, or all of the block.
/// With slots, x becomes x + dropout(their sum), which is kept in h.
template <class S, int Team>
struct LayerNorm {
  static constexpr int threads = Team == 32 ? 128 : Team;
  static constexpr int rows_at_once = threads / Team;
  static constexpr int blocks_at_once = 768 / threads;
  static constexpr int pack = pack_size<S>;
  static constexpr int packs = 32 / pack;                     // of a thread, in registers
  static constexpr Index chunk = Index{Team} * packs * pack;  // columns that a team holds
  static constexpr std::size_t shared_bytes = Team == 32 ? 0 : 3 * threads / 32 * sizeof(float);
  S const* x;
  Index slots;      // 0: none
  S const* branch;  // (rows*slots, width)
  Dropout drop;     // of their sum; if any, every row begins at a multiple of 4
  float kept;
  S* h;  // null without slots
  S const* weight;
  S const* bias;
  float epsilon;
  S* y;
  float* mean;
  float* inverse;
  Index rows;
  Index width;
  bool packed;  // the tensors at every row, weight and bias

  template <class Thread>
  MODULEFORMER_DEVICE void operator()(Thread const& thread) const {
    Index const row = thread.block() * rows_at_once + thread.index() / Team;
    if (row >= rows) return;
    float values[packs][pack];
    float const count = static_cast<float>(width);
    bool const held = width <= chunk;
    auto* const room = thread.template shared<float>();

    float sum[1] = {0.0f};
    for (Index at = 0; at < width; at += chunk) {
      if (slots > 0) add_up(thread, row, at, values);
      else read(x, thread, row, at, values);
      for_each(thread, at, [&](int p, int i) { sum[0] += values[p][i]; });
    }
    team_sums(thread, sum, room);
    float centre = sum[0] / count;
    float moments[2] = {0.0f, 0.0f};  // sums of differences to the centre and of their squares
    for (Index at = 0; at < width; at += chunk) {
      if (!held) read(slots > 0 ? h : x, thread, row, at, values);
      for_each(thread, at, [&](int p, int i) {
        float const difference = values[p][i] - centre;
        moments[0] += difference;
        moments[1] += difference * difference;
      });
    }
    team_sums(thread, moments, room + threads / 32);
    float const correction = moments[0] / count;
    float const variance = moments[1] / count - correction * correction;
    float const scale = 1.0f / std::sqrt((variance > 0.0f ? variance : 0.0f) + epsilon);
    // The difference to the corrected mean, in two steps: the mean itself may not hold the correction's digits.
    for (Index at = 0; at < width; at += chunk) {
      if (!held) read(slots > 0 ? h : x, thread, row, at, values);
      MODULEFORMER_UNROLL
      for (int p = 0; p < packs; ++p) {
        Index const column = first_column(thread, at, p), left = width - column;
        if (left <= 0) continue;
        float w[pack], b[pack];
        load(weight + column, left, packed, w);
        load(bias + column, left, packed, b);
        MODULEFORMER_UNROLL
        for (int i = 0; i < pack; ++i) b[i] += (values[p][i] - centre - correction) * scale * w[i];
        store(thread, y + row * width + column, left, packed, b);
      }
    }
    if (thread.index() % Team != 0) return;
    if (mean != nullptr) mean[row] = centre + correction;
    if (inverse != nullptr) inverse[row] = scale;
  }

 private:
  template <class Thread>
  MODULEFORMER_DEVICE static Index first_column(Thread const& thread, Index at, int p) {
    return at + (p * Team + thread.index() % Team) * pack;
  }
  template <class Thread>
  MODULEFORMER_DEVICE void read(S const* from, Thread const& thread, Index row, Index at,
                                float (&values)[packs][pack]) const {
    MODULEFORMER_UNROLL
    for (int p = 0; p < packs; ++p) {
      Index const column = first_column(thread, at, p);
      load(from + row * width + column, width - column, packed, values[p]);
    }
  }
  /// Into h as well, where a thread reads again only what it wrote itself.
  template <class Thread>
  MODULEFORMER_DEVICE void add_up(Thread const& thread, Index row, Index at, float (&values)[packs][pack]) const {
    MODULEFORMER_UNROLL
    for (int p = 0; p < packs; ++p) {
      Index const column = first_column(thread, at, p), left = width - column;
      float base[pack];
      load(x + row * width + column, left, packed, base);
      sum_slots(slots, branch + row * slots * width + column, width, left, packed, values[p]);
      if (drop.probability > 0) drop_out(drop, kept, row * width + column, values[p]);
      MODULEFORMER_UNROLL
      for (int i = 0; i < pack; ++i) values[p][i] += base[i];
      round_to<S>(thread, values[p]);
      store(thread, h + row * width + column, left, packed, values[p]);
    }
  }
  /// f(pack, element) for the thread's columns that exist.
  template <class Thread, class F>
  MODULEFORMER_DEVICE void for_each(Thread const& thread, Index at, F f) const {
    MODULEFORMER_UNROLL
    for (int p = 0; p < packs; ++p) {
      Index const left = width - first_column(thread, at, p);
      MODULEFORMER_UNROLL
      for (int i = 0; i < pack; ++i)
        if (i < left) f(p, i);
    }
  }
  template <int Count, class Thread>
  MODULEFORMER_DEVICE static void team_sums(Thread const& thread, float (&sums)[Count], float* room) {
    block_sums<Team>(thread, sums, room);
  }
};

/// dx += inverse (g - mean(g) - xh mean(g xh)), and what a block's consecutive rows give dweight and dbias:
/// parts (blocks, 2, places). A block has a row at a time, and a thread the same columns of all rows; its i-th columns
/// lie beside the other threads' i-th columns, for shared memory's banks.
template <class S>
struct LayerNormBackward {
  static constexpr int threads = 128;
  static constexpr int blocks_at_once = 7;
  static constexpr int pack = pack_size<S>;
  static constexpr Index chunk = Index{threads} * pack;
  static constexpr int warps = threads / 32;
  S const* dy;
  Index slots;      // whose sum is added to dy; 0: none
  S const* branch;  // (rows*slots, width)
  S const* x;
  S const* weight;
  float const* mean;
  float const* inverse;
  S* dx;         // or null
  float* parts;  // or null
  Index rows;
  Index width;
  Index rows_of_block;
  bool packed;
  bool shared_parts;  // while they are added to they lie in shared memory, else in `parts` itself

  /// Two rooms for sums of rows in turn, then the parts.
  static constexpr Index room = 2 * 2 * warps;
  static constexpr Index places(Index width) { return (width + chunk - 1) / chunk * chunk; }
  static constexpr Index column_at(Index place) {
    return place / chunk * chunk + place % threads * pack + place % chunk / threads;
  }
  static constexpr std::size_t bytes(Index floats) { return static_cast<std::size_t>(floats) * sizeof(float); }
  [[nodiscard]] std::size_t shared_bytes() const { return bytes(room + (shared_parts ? 2 * places(width) : 0)); }

  template <class Thread>
  MODULEFORMER_DEVICE void operator()(Thread const& thread) const {
    auto* const sums = thread.template shared<float>();
    Index const size = 2 * places(width);
    float* const own = parts == nullptr ? nullptr : parts + thread.block() * size;
    float* const added = shared_parts ? sums + room : own;
    Index const first = thread.block() * rows_of_block;
    Index const last = first + rows_of_block < rows ? first + rows_of_block : rows;
    for (Index row = first; row < last; ++row) add_row(thread, row, row == first, sums + row % 2 * (room / 2), added);
    if (shared_parts)  // places that this thread wrote: no barrier
      for (Index place = thread.index(); place < size; place += threads) own[place] = added[place];
  }

 private:
  template <class Thread>
  MODULEFORMER_DEVICE void add_row(Thread const& thread, Index row, bool is_first, float* sums, float* added) const {
    float g[pack], xh[pack];
    float const centre = mean[row], scale = inverse[row];
    float means[2] = {0.0f, 0.0f};  // of g and of g xh
    for (Index at = 0; at < width; at += chunk) {
      Index const column = at + thread.index() * pack, left = width - column;
      if (left <= 0) continue;
      float w[pack];
      load(weight + column, left, packed, w);
      read(row, column, centre, scale, g, xh);
      if (added != nullptr) add_columns(added + at + thread.index(), is_first, g, xh);
      MODULEFORMER_UNROLL
      for (int i = 0; i < pack; ++i) {
        g[i] *= w[i];
        means[0] += g[i];
        means[1] += g[i] * xh[i];
      }
    }
    if (dx == nullptr) return;
    block_sums<threads>(thread, means, sums);
    means[0] /= static_cast<float>(width);
    means[1] /= static_cast<float>(width);
    for (Index at = 0; at < width; at += chunk) {
      Index const column = at + thread.index() * pack, left = width - column;
      if (left <= 0) continue;
      if (width > chunk) {
        float w[pack];
        load(weight + column, left, packed, w);
        read(row, column, centre, scale, g, xh);
        MODULEFORMER_UNROLL
        for (int i = 0; i < pack; ++i) g[i] *= w[i];
      }
      float sum[pack];
      load(dx + row * width + column, left, packed, sum);
      MODULEFORMER_UNROLL
      for (int i = 0; i < pack; ++i) sum[i] += scale * (g[i] - means[0] - xh[i] * means[1]);
      store(thread, dx + row * width + column, left, packed, sum);
    }
  }

  /// dy with its slots' sum, and xh = (x - centre) scale.
  MODULEFORMER_DEVICE void read(Index row, Index column, float centre, float scale, float (&dy_row)[pack],
                                float (&xh)[pack]) const {
    Index const left = width - column;
    load(x + row * width + column, left, packed, xh);
    load(dy + row * width + column, left, packed, dy_row);
    if (slots > 0) {
      float sum[pack];
      sum_slots(slots, branch + row * slots * width + column, width, left, packed, sum);
      MODULEFORMER_UNROLL
      for (int i = 0; i < pack; ++i) dy_row[i] += sum[i];
    }
    MODULEFORMER_UNROLL
    for (int i = 0; i < pack; ++i) xh[i] = (xh[i] - centre) * scale;
  }

  /// Columns that do not exist have zeros in dy, or are never read.
  MODULEFORMER_DEVICE void add_columns(float* to, bool is_first, float const (&dy_row)[pack],
                                       float const (&xh)[pack]) const {
    Index const bias = places(width);
    MODULEFORMER_UNROLL
    for (int i = 0; i < pack; ++i) {
      float* const place = to + i * threads;
      place[0] = is_first ? dy_row[i] * xh[i] : place[0] + dy_row[i] * xh[i];
      place[bias] = is_first ? dy_row[i] : place[bias] + dy_row[i];
    }
  }
};

/// sums[column] += the parts' sum at its place, in double: a warp adds every 16th part at 32 places, the warps' sums
/// are added in order.
template <class Layout>
struct AddNormParts {
  static constexpr int threads = 512;
  static constexpr int warps = threads / 32;
  static constexpr std::size_t shared_bytes = threads * sizeof(double);
  float const* parts;  // the first one's places
  Index count;
  Index stride;  // from a part to the next
  Index width;
  float* sums;

  template <class Thread>
  MODULEFORMER_DEVICE void operator()(Thread const& thread) const {
    Index const place = thread.block() * 32 + thread.lane(), column = Layout::column_at(place);
    auto* const of_warps = thread.template shared<double>();
    double sum = 0;
    if (column < width)
      for (Index part = thread.warp(); part < count; part += warps)
        sum += static_cast<double>(parts[part * stride + place]);
    of_warps[thread.index()] = sum;
    thread.sync();
    if (thread.warp() != 0 || column >= width) return;
    for (int w = 1; w < warps; ++w) sum += of_warps[w * 32 + thread.lane()];
    sums[column] += static_cast<float>(sum);
  }
};

}  // namespace moduleformer::kernels
