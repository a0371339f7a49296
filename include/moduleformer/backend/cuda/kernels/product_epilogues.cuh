// SPDX-License-Identifier: MIT
#pragma once
// What becomes of the sums of a product: stored with a bias or added, activated and gated, turned into gradients of
// gates and pre-activations, or added to weight gradients (the interface is product.cuh's).

#include <moduleformer/backend/cuda/kernels/expert_schedule.cuh>
#include <moduleformer/backend/cuda/kernels/packs.cuh>
#include <moduleformer/backend/cuda/kernels/product_operand.cuh>
#include <moduleformer/core/platform.hpp>
#include <moduleformer/core/types.hpp>

#include <cstdint>

namespace moduleformer::kernels {

/// y (M,N) = or += sums + bias.
template <class S, class Out>
struct LinearEpilogue {
  static constexpr bool adds = false, row_sums = false;
  S const* bias;  // (N) or null
  Out* y;
  int columns;  // N
  bool add;
  bool packed;

  template <class T>
  [[nodiscard]] MODULEFORMER_DEVICE Out* row(T const& tile, int row) const {
    return y + static_cast<Index>(row) * columns - tile.c_origin;
  }
  template <int W>
  struct Fetched {
    Words<S, W> bias;
    Words<Out, W> before;
  };
  template <int W, class Thread>
  MODULEFORMER_DEVICE Fetched<W> fetch(Thread const&, Out const* row, int column, int left) const {
    Fetched<W> fetched;
    if (bias != nullptr) fetched.bias = load_words<W>(bias + column, left, packed);
    if (add) fetched.before = load_words<W>(row + column, left, packed);
    return fetched;
  }
  template <int W, class Thread>
  MODULEFORMER_DEVICE float put(Thread const& thread, Out* row, Fetched<W> const& fetched, int column, int left,
                                float const (&sums)[W]) const {
    float values[W];
    MODULEFORMER_UNROLL
    for (int i = 0; i < W; ++i) values[i] = sums[i];
    if (bias != nullptr) add_up(fetched.bias, values);
    if (add) add_up(fetched.before, values);
    store(thread, row + column, left, packed, values);
    return 0;
  }
  /// The same where registers are short.
  template <int W, class Thread>
  MODULEFORMER_DEVICE float put_unfetched(Thread const& thread, Out* row, int column, int left, float const (&sums)[W]) const {
    float values[W];
    MODULEFORMER_UNROLL
    for (int i = 0; i < W; ++i) values[i] = sums[i];
    if (bias != nullptr) add_up(load_words<W>(bias + column, left, packed), values);
    if (add) add_up(load_words<W>(row + column, left, packed), values);
    store(thread, row + column, left, packed, values);
    return 0;
  }

 private:
  template <class T, int W>
  static MODULEFORMER_DEVICE void add_up(Words<T, W> const& words, float (&values)[W]) {
    float other[W];
    unpack(words, other);
    MODULEFORMER_UNROLL
    for (int i = 0; i < W; ++i) values[i] += other[i];
  }
};

/// pre[p] = z (or null) ; y[p] = gate[slot] act(z), the sums being z.
template <class S, class Act>
struct ExpertEpilogue {
  static constexpr bool adds = false, row_sums = false;
  struct Row {
    S* pre;
    S* y;
    float gate;
  };
  Act act;
  std::int32_t const* order;
  float const* gate;  // (P) by slot, or null
  S* pre;             // sorted, or null
  S* y;
  RowMap y_row;
  int columns;
  bool packed;

  [[nodiscard]] MODULEFORMER_DEVICE Row row(ProductTile const&, int p) const {
    return {pre == nullptr ? nullptr : pre + static_cast<Index>(p) * columns,
            y + static_cast<Index>(y_row(p)) * columns, gate == nullptr ? 1.0f : gate[order[p]]};
  }
  struct Fetched {};
  template <int W, class Thread>
  MODULEFORMER_DEVICE Fetched fetch(Thread const&, Row const&, int, int) const {
    return {};
  }
  template <int W, class Thread>
  MODULEFORMER_DEVICE float put(Thread const& thread, Row const& row, Fetched, int column, int left, float const (&z)[W]) const {
    if (row.pre != nullptr) store(thread, row.pre + column, left, packed, z);
    float values[W];
    MODULEFORMER_UNROLL
    for (int i = 0; i < W; ++i) values[i] = row.gate * act(z[i]).value;
    store(thread, row.y + column, left, packed, values);
    return 0;
  }
};

/// dgate[slot] = <g, h>, dz[p] = gate g act'(z[p]), scaled[p] = gate h, h = act(z[p]), the sums being g. The sum over
/// a tile's columns goes to partial[column tile][p].
template <class S, class Act>
struct ExpertGradientEpilogue {
  static constexpr bool adds = false, row_sums = true;
  struct Row {
    Index place;
    float gate;
  };
  Act act;
  std::int32_t const* order;
  float const* gate;  // (P) by slot, or null
  S const* z;
  S* dz;      // or null
  S* scaled;  // or null
  RowMap z_row;
  float* partial;  // (column tiles, P) or null
  int slots;
  int columns;
  bool packed;

  [[nodiscard]] MODULEFORMER_DEVICE Row row(ProductTile const&, int p) const {
    return {static_cast<Index>(z_row(p)) * columns, gate == nullptr ? 1.0f : gate[order[p]]};
  }
  template <int W, class Thread>
  MODULEFORMER_DEVICE Words<S, W> fetch(Thread const&, Row const& row, int column, int left) const {
    return load_words<W>(z + row.place + column, left, packed);
  }
  template <int W, class Thread>
  MODULEFORMER_DEVICE float put(Thread const& thread, Row const& row, Words<S, W> const& fetched, int column, int left,
                                float const (&g)[W]) const {
    float before[W], slope[W], value[W];
    float sum = 0;
    unpack(fetched, before);
    MODULEFORMER_UNROLL
    for (int i = 0; i < W; ++i) {
      auto const a = act(before[i]);
      sum += g[i] * a.value;  // beyond `left`, g is 0
      slope[i] = row.gate * g[i] * a.derivative;
      value[i] = row.gate * a.value;
    }
    if (dz != nullptr) store(thread, dz + row.place + column, left, packed, slope);
    if (scaled != nullptr) store(thread, scaled + row.place + column, left, packed, value);
    return sum;
  }
  MODULEFORMER_DEVICE void row_sum(int p, int column_tile, float sum) const {
    if (partial != nullptr) partial[static_cast<Index>(column_tile) * slots + p] = sum;
  }
};

/// out[batch] (rows, columns) += sums, or = sums.
template <bool Add>
struct WeightEpilogue {
  static constexpr bool adds = Add, row_sums = false;
  float* out;
  int rows;
  int columns;
  bool packed;

  [[nodiscard]] MODULEFORMER_DEVICE float* row(ProductTile const& tile, int row) const {
    return out + (static_cast<Index>(tile.batch) * rows + row) * columns;
  }
  struct Nothing {};
  // Each element has one adder, so that a device which adds in memory still gives the same bits.
  template <int W, class Thread>
  MODULEFORMER_DEVICE auto fetch(Thread const&, float const* row, int column, int left) const {
    if constexpr (Add && !Thread::adds_in_memory) return load_words<W>(row + column, left, packed);
    else return Nothing{};
  }
  template <int W, class Thread>
  MODULEFORMER_DEVICE float put(Thread const& thread, float* row, Words<float, W> const& before, int column, int left,
                                float const (&sums)[W]) const {
    float values[W];
    unpack(before, values);
    MODULEFORMER_UNROLL
    for (int i = 0; i < W; ++i) values[i] += sums[i];
    store(thread, row + column, left, packed, values);
    return 0;
  }
  template <int W, class Thread>
  MODULEFORMER_DEVICE float put(Thread const& thread, float* row, Nothing, int column, int left, float const (&sums)[W]) const {
    if constexpr (!Add) {
      store(thread, row + column, left, packed, sums);
    } else if (packed && left >= W) {
      MODULEFORMER_UNROLL
      for (int i = 0; i < W; i += 4) thread.add_to_memory(row + column + i, sums[i], sums[i + 1], sums[i + 2], sums[i + 3]);
    } else {
      put(thread, row, load_words<W>(row + column, left, packed), column, left, sums);
    }
    return 0;
  }
};

}  // namespace moduleformer::kernels
