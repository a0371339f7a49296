// SPDX-License-Identifier: MIT
#pragma once
// Sums over tokens for routing losses, and the gradient of any function of them and of the gates with respect to
// the logits (formulas in backend/backend.hpp), in double. A block sums a tile of tokens for a chunk of experts:
// a warp some of them, a lane its experts; its warps add up one after the other, the tiles in a second kernel, so
// that the order depends on shapes only. log p = logit - lse, since p may underflow.

#include <moduleformer/backend/arguments.hpp>
#include <moduleformer/backend/cuda/kernels/routing_row.cuh>
#include <moduleformer/backend/cuda/kernels/warp.cuh>
#include <moduleformer/core/platform.hpp>

namespace moduleformer::kernels {

/// p log p, 0 at p = 0 even where log p is -infinity.
MODULEFORMER_HOST_DEVICE inline double entropy_term(double p, double log_p) { return p > 0 ? p * log_p : 0.0; }

/// What SumRouting leaves for AddRoutingTiles.
struct RoutingPartials {
  double* experts = nullptr;  // (tiles, 3, E): probabilities, counts, gates
  double* rows = nullptr;     // (tiles, chunks, 2): p log p, lse^2
  Index tiles = 0;
  Index chunks = 0;  // of experts
};

/// A block for each (tile, chunk of experts).
template <int Items>
struct SumRouting {
  static constexpr int warps = ExpertRow<Items>::warps;
  static constexpr int threads = 32 * warps;
  static constexpr Index tile = 32;                   // tokens of a block
  static constexpr int at_once = Items <= 2 ? 4 : 1;  // tokens of a warp that are under way together
  static constexpr Index chunk = ExpertRow<Items>::chunk;
  static constexpr Index shared_bytes = 8 * (3 * chunk + 2);

  ExpertRow<Items> row;
  float const* logits;
  float const* probs;
  float const* lse;
  float const* gates;
  ExpertId const* ids;
  Index chosen;
  RoutingPartials partials;

  template <class Thread>
  MODULEFORMER_DEVICE void operator()(Thread const& thread) const {
    Index const which_tile = thread.block() / partials.chunks, which_chunk = thread.block() % partials.chunks;
    Index const first = which_chunk * chunk, begin = which_tile * tile;
    Index const end = begin + tile < row.tokens ? begin + tile : row.tokens;
    double probability[Items] = {}, gate[Items] = {}, entropy = 0, squares = 0;
    int count[Items] = {};
    for (Index from = begin + thread.warp(); from < end; from += at_once * warps) {
      float p[at_once][Items] = {}, logit[at_once][Items] = {}, row_lse[at_once] = {}, gate_of[at_once] = {};
      ExpertId id[at_once] = {};  // of the choice with the lane's number
      MODULEFORMER_UNROLL
      for (int k = 0; k < at_once; ++k) {
        Index const t = from + k * warps;
        if (t >= end) continue;
        row_lse[k] = lse[t];
        row.for_experts(thread, first, [&](int i, Index e) {
          p[k][i] = probs[t * row.experts + e];
          logit[k][i] = logits[t * row.experts + e];
        });
        read_choice(thread, t, 0, id[k], gate_of[k]);
      }
      MODULEFORMER_UNROLL
      for (int k = 0; k < at_once; ++k) {
        Index const t = from + k * warps;
        if (t >= end) continue;
        double const of_row = static_cast<double>(row_lse[k]);
        row.for_experts(thread, first, [&](int i, Index) {
          double const probability_here = static_cast<double>(p[k][i]);
          probability[i] += probability_here;
          entropy += entropy_term(probability_here, static_cast<double>(logit[k][i]) - of_row);
        });
        if (which_chunk == 0) squares += of_row * of_row;
        for (Index s = 0; s < chosen; ++s) {
          if (s > 0 && s % 32 == 0) read_choice(thread, t, s, id[k], gate_of[k]);
          Index const mine = thread.shuffle(id[k], static_cast<int>(s % 32)) - first - thread.lane();
          float const value = thread.shuffle(gate_of[k], static_cast<int>(s % 32));
          MODULEFORMER_UNROLL
          for (int i = 0; i < Items; ++i)
            if (mine == 32 * i) {
              gate[i] += static_cast<double>(value);
              ++count[i];
            }
        }
      }
    }
    entropy = warp_sum(thread, entropy);

    auto* const sums = thread.template shared<double>();  // (3, chunk), then p log p and lse^2
    for (int w = 0; w < warps; ++w) {
      if (thread.warp() == w) {
        auto const put = [&](Index place, double value) { sums[place] = w == 0 ? value : sums[place] + value; };
        MODULEFORMER_UNROLL
        for (int i = 0; i < Items; ++i) {
          put(32 * i + thread.lane(), probability[i]);
          put(chunk + 32 * i + thread.lane(), static_cast<double>(count[i]));
          put(2 * chunk + 32 * i + thread.lane(), gate[i]);
        }
        if (thread.lane() == 0) {
          put(3 * chunk, entropy);
          put(3 * chunk + 1, squares);
        }
      }
      thread.sync();
    }
    for (Index i = thread.index(); i < 3 * chunk; i += threads) {
      Index const kind = i / chunk, e = first + i % chunk;
      if (e < row.experts) partials.experts[(which_tile * 3 + kind) * row.experts + e] = sums[i];
    }
    if (thread.index() < 2) partials.rows[2 * thread.block() + thread.index()] = sums[3 * chunk + thread.index()];
  }

 private:
  /// Choice first_choice + lane of a token, if there is one.
  template <class Thread>
  MODULEFORMER_DEVICE void read_choice(Thread const& thread, Index t, Index first_choice, ExpertId& id,
                                       float& gate) const {
    Index const s = first_choice + thread.lane();
    if (s >= chosen) return;
    id = ids[t * chosen + s];
    gate = gates[t * chosen + s];
  }
};

/// Every sum of the statistics that is not null: a block has 32 of the 3 E + 2 columns of the partial sums, a warp
/// every 32nd tile of them; then a warp adds what the warps have of one column.
struct AddRoutingTiles {
  static constexpr int warps = 32;
  static constexpr int threads = 32 * warps;
  static constexpr int at_once = 8;  // partial sums under way together
  static constexpr Index shared_bytes = 8 * warps * 33;

  RoutingPartials partials;
  RoutingStatistics stats;
  Index experts;

  template <class Thread>
  MODULEFORMER_DEVICE void operator()(Thread const& thread) const {
    Index const first = thread.block() * 32, sums = 3 * experts, column = first + thread.lane();
    double total = 0;
    if (column < sums) total = sum_of(thread, partials.experts + column, partials.tiles, sums);
    else if (column < sums + 2)
      total = sum_of(thread, partials.rows + column - sums, partials.tiles * partials.chunks, 2);
    auto* const of_warps = thread.template shared<double>();  // (warps, 32), a row a bank further
    of_warps[thread.warp() * 33 + thread.lane()] = total;
    thread.sync();
    total = warp_sum(thread, of_warps[thread.lane() * 33 + thread.warp()]);
    if (thread.lane() == 0) store(first + thread.warp(), total);
  }

 private:
  /// Of every 32nd of `count` numbers, `stride` apart, from the warp's on.
  template <class Thread>
  static MODULEFORMER_DEVICE double sum_of(Thread const& thread, double const* from, Index count, Index stride) {
    double total = 0;
    for (Index first = thread.warp(); first < count; first += at_once * warps) {
      double some[at_once];
      MODULEFORMER_UNROLL
      for (int k = 0; k < at_once; ++k) some[k] = first + k * warps < count ? from[(first + k * warps) * stride] : 0.0;
      MODULEFORMER_UNROLL
      for (int k = 0; k < at_once; ++k) total += some[k];
    }
    return total;
  }
  MODULEFORMER_DEVICE void store(Index column, double total) const {
    Index const kind = column / experts, e = column % experts;
    double* place = nullptr;
    if (column >= 3 * experts + 2) return;
    if (column == 3 * experts) place = stats.negative_entropy_sum;
    else if (column == 3 * experts + 1) place = stats.squared_lse_sum;
    else if (kind == 0 && stats.probability_sum) place = stats.probability_sum.data() + e;
    else if (kind == 1 && stats.count) place = stats.count.data() + e;
    else if (kind == 2 && stats.gate_sum) place = stats.gate_sum.data() + e;
    if (place != nullptr) *place = total;
  }
};

/// dlogits (N,E), a warp per token. dlogits may be probs or logits where the row is not long.
template <int Items>
struct RoutingBackward {
  static constexpr int threads = 32 * ExpertRow<Items>::warps;
  ExpertRow<Items> row;
  float const* logits;
  float const* probs;
  float const* lse;
  ExpertId const* ids;
  float const* dgates;
  RoutingGradient grad;
  float* dlogits;
  Index chosen;

  template <class Thread>
  MODULEFORMER_DEVICE void operator()(Thread const& thread) const {
    Index const t = row.token(thread);
    if (t >= row.tokens) return;
    double const row_lse = static_cast<double>(lse[t]);
    double const d_entropy = grad.negative_entropy_sum != nullptr ? *grad.negative_entropy_sum : 0.0;
    double const d_lse = grad.squared_lse_sum != nullptr ? 2.0 * *grad.squared_lse_sum : 0.0;
    float p[Items] = {};
    double pv[Items] = {};  // p_e v_e
    double dot = 0;
    row.for_chunks([&](Index first) {
      load(thread, t, first, row_lse, d_entropy, p, pv);
      MODULEFORMER_UNROLL
      for (int i = 0; i < Items; ++i) dot += pv[i];
    });
    double const rest = d_lse * row_lse - warp_sum(thread, dot);
    row.for_chunks([&](Index first) {
      if (row.is_long()) load(thread, t, first, row_lse, d_entropy, p, pv);
      row.for_experts(thread, first, [&](int i, Index e) {
        dlogits[t * row.experts + e] = static_cast<float>(pv[i] + static_cast<double>(p[i]) * rest);
      });
    });
  }

 private:
  template <class Thread>
  MODULEFORMER_DEVICE void load(Thread const& thread, Index t, Index first, double row_lse, double d_entropy,
                                float (&p)[Items], double (&pv)[Items]) const {
    MODULEFORMER_UNROLL
    for (int i = 0; i < Items; ++i) pv[i] = 0;
    row.for_experts(thread, first, [&](int i, Index e) {
      p[i] = probs[t * row.experts + e];
      double const pe = static_cast<double>(p[i]);
      double const from_sum = grad.probability_sum ? pe * grad.probability_sum[e] : 0.0;
      pv[i] = from_sum + d_entropy * entropy_term(pe, static_cast<double>(logits[t * row.experts + e]) - row_lse);
    });
    for (Index s = 0; s < chosen; ++s) {
      ExpertId const e = ids[t * chosen + s];
      double const dgate = dgates != nullptr ? static_cast<double>(dgates[t * chosen + s]) : 0.0;
      double const v = dgate + (grad.gate_sum && e >= 0 ? grad.gate_sum[e] : 0.0);
      Index const mine = e - first - thread.lane();
      MODULEFORMER_UNROLL
      for (int i = 0; i < Items; ++i)
        if (mine == 32 * i) pv[i] += static_cast<double>(p[i]) * v;
    }
  }
};

}  // namespace moduleformer::kernels
