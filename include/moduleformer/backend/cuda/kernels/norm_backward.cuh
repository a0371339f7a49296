// SPDX-License-Identifier: MIT
#pragma once
// The gradient of layer norm over rows (formulas: backend/cpu/norm.hpp). xh = (x - mean) inverse, g = dy weight:
//   dx += inverse (g - mean(g) - xh mean(g xh)) ;  dweight += sum over rows of dy xh ;  dbias += sum over rows of dy
// A block has some consecutive rows, one at a time, and a thread the same columns of all of them. Their sums are a
// part; a second kernel adds the parts. dy may be a sum over slots, which is added up as it is read.

#include <moduleformer/backend/cuda/kernels/column_sums.cuh>
#include <moduleformer/backend/cuda/kernels/elementwise.cuh>
#include <moduleformer/backend/cuda/kernels/packs.cuh>
#include <moduleformer/backend/cuda/kernels/reduction.cuh>
#include <moduleformer/core/platform.hpp>
#include <moduleformer/core/types.hpp>

#include <cstddef>

namespace moduleformer::kernels {

/// What both kernels take. A thread's i-th columns lie beside the other threads' i-th columns in a part, for shared
/// memory's banks.
template <class S>
struct NormGradient {
  static constexpr int threads = 128;
  static constexpr int warps = threads / 32;
  static constexpr int pack = pack_size<S>;
  static constexpr Index chunk = Index{threads} * pack;
  static constexpr Index room = 2 * 2 * warps;  // two rooms for sums of rows in turn
  S const* dy;
  Index slots;      // whose sum is added to dy; 0: none
  S const* branch;  // (rows*slots, width)
  S const* x;
  S const* weight;
  float const* mean;
  float const* inverse;
  S* dx;         // or null
  float* parts;  // (blocks, 2, places) or null
  Index rows;
  Index width;
  Index rows_of_block;
  bool packed;

  static constexpr Index places(Index width) { return (width + chunk - 1) / chunk * chunk; }
  static constexpr Index column_at(Index place) {
    return place / chunk * chunk + place % threads * pack + place % chunk / threads;
  }
  static constexpr std::size_t bytes(Index floats) { return static_cast<std::size_t>(floats) * sizeof(float); }

  /// The block's part, and f(row) for its rows.
  template <class Thread, class F>
  MODULEFORMER_DEVICE void for_rows(Thread const& thread, F f) const {
    Index const first = thread.block() * rows_of_block;
    Index const last = first + rows_of_block < rows ? first + rows_of_block : rows;
    for (Index row = first; row < last; ++row) f(row, row == first, row + 1 < last);
  }
  template <class Thread>
  [[nodiscard]] MODULEFORMER_DEVICE float* part(Thread const& thread) const {
    return parts == nullptr ? nullptr : parts + thread.block() * 2 * places(width);
  }

  /// dx of a pack of columns += the formula.
  template <class Thread>
  MODULEFORMER_DEVICE void add_gradient(Thread const& thread, S* to, Index left, float scale, float const (&g)[pack],
                                        float const (&xh)[pack], float const (&means)[2], float (&sum)[pack]) const {
    MODULEFORMER_UNROLL
    for (int i = 0; i < pack; ++i) sum[i] += scale * (g[i] - means[0] - xh[i] * means[1]);
    store(thread, to, left, packed, sum);
  }
  template <class Thread>
  MODULEFORMER_DEVICE void take_means(Thread const& thread, float (&sums)[2], float* shared) const {
    block_sums<threads>(thread, sums, shared);
    sums[0] /= static_cast<float>(width);
    sums[1] /= static_cast<float>(width);
  }
};

/// Of rows that a block's threads hold, a pack each: sums stay in registers, and a row is read while the one before it
/// is computed.
template <class S>
struct LayerNormBackward : NormGradient<S> {
  using Base = NormGradient<S>;
  using Base::pack, Base::threads;
  static constexpr int blocks_at_once = 5;
  static constexpr int slots_ahead = 2;
  [[nodiscard]] static std::size_t shared_bytes() { return Base::bytes(Base::room); }

  template <class Thread>
  MODULEFORMER_DEVICE void operator()(Thread const& thread) const {
    Index const column = thread.index() * pack, left = this->width - column;
    float w[pack], dweight[pack] = {}, dbias[pack] = {};
    load(this->weight + column, left, this->packed, w);
    Row next = read(thread.block() * this->rows_of_block, column, left);
    this->for_rows(thread, [&](Index row, bool, bool is_followed) {
      Row const now = next;
      if (is_followed) next = read(row + 1, column, left);
      float g[pack], xh[pack], means[2] = {0.0f, 0.0f};
      add_slots(now, row, column, left, g);
      unpack(now.x, xh);
      MODULEFORMER_UNROLL
      for (int i = 0; i < pack; ++i) {
        xh[i] = (xh[i] - now.centre) * now.scale;
        dweight[i] += g[i] * xh[i];
        dbias[i] += g[i];
        g[i] *= w[i];
        means[0] += g[i];
        means[1] += g[i] * xh[i];
      }
      if (this->dx == nullptr) return;
      this->take_means(thread, means, thread.template shared<float>() + row % 2 * (Base::room / 2));
      float sum[pack];
      unpack(now.dx, sum);
      this->add_gradient(thread, this->dx + row * this->width + column, left, now.scale, g, xh, means, sum);
    });
    float* const part = this->part(thread);
    if (part == nullptr) return;
    MODULEFORMER_UNROLL
    for (int i = 0; i < pack; ++i) {
      part[i * threads + thread.index()] = dweight[i];
      part[Base::chunk + i * threads + thread.index()] = dbias[i];
    }
  }

 private:
  struct Row {
    Words<S, pack> x, dy, dx, branch[slots_ahead];
    float centre, scale;
  };

  [[nodiscard]] MODULEFORMER_DEVICE Row read(Index row, Index column, Index left) const {
    Index const at = row * this->width + column;
    Row of{};
    of.x = load_words<pack>(this->x + at, left, this->packed);
    of.dy = load_words<pack>(this->dy + at, left, this->packed);
    MODULEFORMER_UNROLL
    for (int s = 0; s < slots_ahead; ++s)
      if (s < this->slots)
        of.branch[s] =
            load_words<pack>(this->branch + (row * this->slots + s) * this->width + column, left, this->packed);
    if (this->dx != nullptr) of.dx = load_words<pack>(this->dx + at, left, this->packed);
    of.centre = this->mean[row];
    of.scale = this->inverse[row];
    return of;
  }

  /// dy with its slots' sum.
  MODULEFORMER_DEVICE void add_slots(Row const& of, Index row, Index column, Index left, float (&dy)[pack]) const {
    unpack(of.dy, dy);
    if (this->slots == 0) return;
    float sum[pack], more[pack];
    unpack(of.branch[0], sum);
    for (Index s = 1; s < this->slots; ++s) {
      if (s < slots_ahead) unpack(of.branch[1], more);
      else load(this->branch + (row * this->slots + s) * this->width + column, left, this->packed, more);
      MODULEFORMER_UNROLL
      for (int i = 0; i < pack; ++i) sum[i] += more[i];
    }
    MODULEFORMER_UNROLL
    for (int i = 0; i < pack; ++i) dy[i] += sum[i];
  }
};

/// Of longer rows, which are read twice.
template <class S>
struct LongNormBackward : NormGradient<S> {
  using Base = NormGradient<S>;
  using Base::chunk, Base::pack, Base::threads;
  static constexpr int blocks_at_once = 7;
  bool shared_parts;  // while they are added to they lie in shared memory, else in `parts` itself

  [[nodiscard]] std::size_t shared_bytes() const {
    return Base::bytes(Base::room + (shared_parts ? 2 * Base::places(this->width) : 0));
  }

  template <class Thread>
  MODULEFORMER_DEVICE void operator()(Thread const& thread) const {
    auto* const sums = thread.template shared<float>();
    float* const own = this->part(thread);
    float* const added = shared_parts ? sums + Base::room : own;
    this->for_rows(thread, [&](Index row, bool is_first, bool) {
      add_row(thread, row, is_first, sums + row % 2 * (Base::room / 2), added);
    });
    if (shared_parts)  // places that this thread wrote: no barrier
      for (Index place = thread.index(); place < 2 * Base::places(this->width); place += threads)
        own[place] = added[place];
  }

 private:
  template <class Thread>
  MODULEFORMER_DEVICE void add_row(Thread const& thread, Index row, bool is_first, float* sums, float* added) const {
    float g[pack], xh[pack], w[pack], means[2] = {0.0f, 0.0f};
    float const centre = this->mean[row], scale = this->inverse[row];
    for (Index at = 0; at < this->width; at += chunk) {
      Index const column = at + thread.index() * pack, left = this->width - column;
      if (left <= 0) continue;
      load(this->weight + column, left, this->packed, w);
      read(row, column, centre, scale, g, xh);
      if (added != nullptr) add_columns(added + at + thread.index(), is_first, g, xh);
      MODULEFORMER_UNROLL
      for (int i = 0; i < pack; ++i) {
        g[i] *= w[i];
        means[0] += g[i];
        means[1] += g[i] * xh[i];
      }
    }
    if (this->dx == nullptr) return;
    this->take_means(thread, means, sums);
    for (Index at = 0; at < this->width; at += chunk) {
      Index const column = at + thread.index() * pack, left = this->width - column;
      if (left <= 0) continue;
      load(this->weight + column, left, this->packed, w);
      read(row, column, centre, scale, g, xh);
      MODULEFORMER_UNROLL
      for (int i = 0; i < pack; ++i) g[i] *= w[i];
      S* const to = this->dx + row * this->width + column;
      float sum[pack];
      load(to, left, this->packed, sum);
      this->add_gradient(thread, to, left, scale, g, xh, means, sum);
    }
  }

  /// dy with its slots' sum, and xh.
  MODULEFORMER_DEVICE void read(Index row, Index column, float centre, float scale, float (&dy_row)[pack],
                                float (&xh)[pack]) const {
    Index const left = this->width - column;
    load(this->x + row * this->width + column, left, this->packed, xh);
    load(this->dy + row * this->width + column, left, this->packed, dy_row);
    if (this->slots > 0) {
      float sum[pack];
      sum_slots(this->slots, this->branch + row * this->slots * this->width + column, this->width, left, this->packed,
                sum);
      MODULEFORMER_UNROLL
      for (int i = 0; i < pack; ++i) dy_row[i] += sum[i];
    }
    MODULEFORMER_UNROLL
    for (int i = 0; i < pack; ++i) xh[i] = (xh[i] - centre) * scale;
  }

  /// Columns that do not exist have zeros in dy, or are never read.
  MODULEFORMER_DEVICE void add_columns(float* to, bool is_first, float const (&dy_row)[pack],
                                       float const (&xh)[pack]) const {
    Index const bias = Base::places(this->width);
    MODULEFORMER_UNROLL
    for (int i = 0; i < pack; ++i) {
      float* const place = to + i * threads;
      place[0] = is_first ? dy_row[i] * xh[i] : place[0] + dy_row[i] * xh[i];
      place[bias] = is_first ? dy_row[i] : place[bias] + dy_row[i];
    }
  }
};

/// sums[column] += the parts' sum at its place, in double, for dweight and then dbias.
template <class Layout>
struct AddNormParts : PartSums {
  float const* parts;
  Index count;
  Index width;
  float* dweight;  // or null
  float* dbias;    // or null

  [[nodiscard]] static Index blocks(Index width) { return 2 * Layout::places(width) / 32; }

  template <class Thread>
  MODULEFORMER_DEVICE void operator()(Thread const& thread) const {
    Index const places = Layout::places(width), place = thread.block() * 32 + thread.lane();
    float* const sums = place < places ? dweight : dbias;
    Index const column = Layout::column_at(place % places);
    if (sums == nullptr) return;
    double const sum = of(thread, parts + place, column < width ? count : 0, 2 * places);
    if (thread.warp() == 0 && column < width) sums[column] += static_cast<float>(sum);
  }
};

}  // namespace moduleformer::kernels
