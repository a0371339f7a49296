// SPDX-License-Identifier: MIT
#pragma once
// The least time of a whole model's forward, training step and decoding step: the sum over pieces, each at its own
// bound, with what may be fused with its neighbour counted as fused. A backward is taken as twice its forward.

#include "floors.hpp"

#include <array>

namespace bench {

struct ModelSizes {
  Index tokens, length;  // N and T
  Index hidden, layers, router, vocabulary;
  Index heads, attention, attention_experts, attention_top_k;
  Index ffn, ffn_experts, ffn_top_k;
  /// Keys and values are the layer's input, without projections.
  [[nodiscard]] constexpr bool shared() const { return heads == 1 && attention == hidden; }
};

struct Piece {
  char const* name;
  Cost cost;
};

/// One layer's forward.
constexpr std::array<Piece, 9> layer_pieces(ModelSizes const& m) {
  using cost::real, cost::scalar, cost::sum;
  double const x = scalar * real(m.tokens) * real(m.hidden);
  auto const router = [&](Index experts) {
    double const weights = real(m.hidden) * real(m.router) + real(m.router) * real(experts);
    return Cost{2 * real(m.tokens) * weights,
                x + scalar * (real(m.tokens) * real(m.router) + weights) + 2 * sum * real(m.tokens) * real(experts)};
  };
  auto const q = cost::experts(m.tokens, m.attention_top_k, m.attention_experts, m.hidden, m.attention);
  auto const o = cost::experts(m.tokens, m.attention_top_k, m.attention_experts, m.attention, m.hidden);
  auto const up = cost::experts(m.tokens, m.ffn_top_k, m.ffn_experts, m.hidden, m.ffn);
  auto const down = cost::experts(m.tokens, m.ffn_top_k, m.ffn_experts, m.ffn, m.hidden);
  cost::Attention const a{m.tokens, m.length, m.heads, m.attention / m.heads, m.attention_top_k, m.shared()};
  double const slots = real(m.tokens) * real(m.attention_top_k + m.ffn_top_k);
  return {Piece{"two routers, softmax, top-k", router(m.attention_experts) + router(m.ffn_experts)},
          Piece{"sorting by expert", cost::moved(5 * sum * slots)},
          Piece{"keys and values", m.shared() ? Cost{} : cost::product(m.tokens, m.hidden, 2 * m.attention)},
          Piece{"query experts", cost::expert_forward(q, true, false)},
          Piece{"stick-breaking attention", cost::attention_forward(a, a.logits())},
          Piece{"output experts, gate", cost::expert_forward(o, false, false)},
          Piece{"feed-forward up", cost::expert_forward(up, true, false)},
          Piece{"feed-forward down, gate", cost::expert_forward(down, false, false)},
          // Each reads its slots and the residual, and writes their sum and the norm of that.
          Piece{"two norms of a sum of slots and residual",
                cost::moved((real(m.attention_top_k + m.ffn_top_k) + 2 * 3) * x)}};
}

constexpr Cost head_cost(ModelSizes const& m) { return cost::cross_entropy(m.tokens, m.hidden, m.vocabulary, false); }

constexpr double layer_floor(Machine const& machine, ModelSizes const& m) {
  double seconds = 0;
  for (Piece const& piece : layer_pieces(m)) seconds += floor_of(machine, piece.cost).seconds;
  return seconds;
}
constexpr double forward_floor(Machine const& machine, ModelSizes const& m) {
  return cost::real(m.layers) * layer_floor(machine, m) + floor_of(machine, head_cost(m)).seconds;
}
constexpr double update_floor(Machine const& machine, double parameters) {
  return floor_of(machine, cost::adamw(parameters)).seconds;
}
constexpr double step_floor(Machine const& machine, ModelSizes const& m, double parameters) {
  return 3 * forward_floor(machine, m) + update_floor(machine, parameters);
}

/// One token for each of B sequences that hold `keys` keys: every weight that they need, and the cache, once.
constexpr Cost decode_cost(ModelSizes const& m, Index sequences, Index keys) {
  using cost::real, cost::scalar, cost::touched_experts;
  double const d = real(m.hidden), a = real(m.attention);
  double const attention = touched_experts(sequences, m.attention_top_k, m.attention_experts) * 2 * d * a;
  double const ffn = touched_experts(sequences, m.ffn_top_k, m.ffn_experts) * 2 * d * real(m.ffn);
  double const routers = 2 * d * real(m.router) + real(m.router) * real(m.attention_experts + m.ffn_experts);
  double const projections = m.shared() ? 0 : 2 * d * a;
  double const cache = real(sequences) * real(keys) * a * (m.shared() ? 1 : 2);
  double const head = d * real(m.vocabulary);
  double const each =
      2 * (2 * d * (a * real(m.attention_top_k) + real(m.ffn) * real(m.ffn_top_k)) + routers + projections) +
      4 * real(m.attention_top_k) * a * real(keys);
  return {real(sequences) * (real(m.layers) * each + 2 * head),
          scalar * (real(m.layers) * (attention + ffn + routers + projections + cache) + head)};
}

// The published code's default shape: 609 us a layer, 16.8 ms forward, 0.16 ms a token.
inline constexpr ModelSizes default_sizes{16384, 512, 1024, 24, 256, 50295, 8, 512, 32, 2, 2048, 32, 2};
static_assert(layer_floor({}, default_sizes) > 605e-6 && layer_floor({}, default_sizes) < 613e-6);
static_assert(forward_floor({}, default_sizes) > 16.6e-3 && forward_floor({}, default_sizes) < 16.9e-3);
static_assert(floor_of({}, decode_cost(default_sizes, 1, 0)).seconds > 0.155e-3 &&
              floor_of({}, decode_cost(default_sizes, 1, 0)).seconds < 0.165e-3);

}  // namespace bench
