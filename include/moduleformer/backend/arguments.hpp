// SPDX-License-Identifier: MIT
#pragma once
// Plain structs that backend primitives take: which rows a product reads, which tokens form a
// sequence, what a router chose. Views of backend memory; trivially copyable.

#include <moduleformer/core/random.hpp>
#include <moduleformer/core/tensor_view.hpp>

#include <cstdint>

namespace moduleformer {

using ExpertId = std::int32_t;

/// A router's choice for N tokens. A slot is one (token, s-th choice) pair: slot = token*K + s. It may be empty: then its
/// expert is -1, and it does not stand in `order`, of which offsets[E] entries count.
struct RoutingPlan {
  Index tokens = 0;                      // N
  Index top_k = 0;                       // K
  Index experts = 0;                     // E
  Vector<ExpertId const> expert;         // (P) chosen expert of each slot, -1: none
  Vector<std::int32_t const> order;      // (P) slots sorted by expert, stable
  Vector<Index const> offsets;           // (E+1) where each expert's slots begin in `order`
  [[nodiscard]] constexpr Index slots() const { return tokens * top_k; }
};

/// Gates as functions of the chosen experts' logits alone; formulas in backend/gate_rows.hpp.
enum class GateFunction { chosen_softmax, sigmoid, chosen_sigmoid };

/// How a matrix's rows belong to the sorted slots p = 0..P-1: row p, row order[p], row order[p]/K.
enum class Rows { sorted, slot, token };

/// One sequence: its queries are consecutive rows (tokens) of q, its keys consecutive rows of k and
/// v. The last query stands at the last key; query i stands at key key_count - query_count + i.
struct Sequence {
  Index query_begin = 0;
  Index query_count = 0;
  Index key_begin = 0;
  Index key_count = 0;
};

/// Sizes of one stick-breaking attention call. Rows of q, y are slots (token*rows_per_token + s); the
/// slots of a token share its keys and values. Head h is columns [h*d, (h+1)*d).
struct AttentionExtents {
  Index heads = 1;           // H
  Index head_size = 1;       // d
  Index rows_per_token = 1;  // K
  double stop_below = 0;     // stop a row when the stick left is below this; 0 is exact
  Index most_keys = 0;       // that a sequence has, where the caller knows a bound; 0: none known
};

/// A family of random numbers whose seed and step lie in backend memory: what changes from step to step is read there,
/// so that the work of a step can be repeated as it is.
struct RandomSource {
  RandomKey const* base = nullptr;
  std::uint32_t stream = 0;
  /// To be called where the backend's memory can be read.
  [[nodiscard]] constexpr RandomKey key() const { return base->at(stream); }
};

/// Drops elements with the given probability and scales the others by 1 / (1 - probability).
/// Element i of a tensor takes word i%4 of random_words(key, i/4); kept iff to_unit(word) >= probability.
struct Dropout {
  RandomSource random{};
  float probability = 0;
};

/// Multiplies elements by draws from U(1 - width, 1 + width); they come from the words that dropout would take.
struct Jitter {
  RandomSource random{};
  float width = 0;
  [[nodiscard]] MODULEFORMER_HOST_DEVICE constexpr float factor(std::uint32_t word) const {
    return 1 + width * (2 * to_unit(word) - 1);
  }
};

/// What a router did, summed over N tokens; everything that a routing loss may depend on.
struct RoutingStatistics {
  Index tokens = 0;                      // N
  Index top_k = 0;                       // K
  Vector<double> probability_sum;        // (E) sum_t p_te
  Vector<double> count;                  // (E) tokens that chose e
  Vector<double> gate_sum;               // (E) sum of the gates of e
  double* negative_entropy_sum = nullptr;  // sum_t sum_e p_te log p_te
  double* squared_lse_sum = nullptr;       // sum_t logsumexp(logits_t)^2
  [[nodiscard]] constexpr Index experts() const { return probability_sum.extent(0); }
};

/// A loss's derivatives with respect to the sums of RoutingStatistics (counts have none).
struct RoutingGradient {
  Vector<double> probability_sum;           // (E)
  Vector<double> gate_sum;                  // (E)
  double* negative_entropy_sum = nullptr;
  double* squared_lse_sum = nullptr;
};

/// One AdamW update of a range of elements (Loshchilov and Hutter, arXiv 1711.05101), c the clip factor:
///   m = b1 m + (1-b1) c g ;  v = b2 v + (1-b2) (c g)^2
///   w = w - rate (m / (1-b1^t) / (sqrt(v / (1-b2^t)) + eps) + decay w)
struct AdamWConstants {
  double beta1 = 0;
  double beta2 = 0;
  double epsilon = 0;
  double weight_decay = 0;
};

/// What changes from update to update; it lies in backend memory.
struct AdamWStep {
  double learning_rate = 0;
  double first_correction = 1;   // 1 - b1^t, t counted from 1
  double second_correction = 1;  // 1 - b2^t
  double clip = 1;               // c; where it is not finite, nothing changes
};

}  // namespace moduleformer
