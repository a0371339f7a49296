// SPDX-License-Identifier: MIT
#pragma once
// Observation: what a forward saw, copied to host memory on request. Rows are the batch's positions
// b*T + t; those of masked tokens are 0 (experts: -1).

#include <moduleformer/model/batch.hpp>
#include <moduleformer/model/block.hpp>

#include <algorithm>
#include <cstdint>
#include <numeric>
#include <string>
#include <type_traits>
#include <vector>

namespace moduleformer {

/// Names of a layer's routers, as in checkpoints.
inline std::string attention_router_name(Index layer) { return "transformer.h." + std::to_string(layer) + ".attn.q_proj.gate"; }
inline std::string feed_forward_router_name(Index layer) { return "transformer.h." + std::to_string(layer) + ".mlpf.gate"; }

/// What one router did.
template <class A>
struct RouterObservation {
  std::string name;                  // as in checkpoints
  Index expert_count = 0;            // E
  Index top_k = 0;                   // K
  std::vector<ExpertId> experts{};     // (B*T,K)
  std::vector<A> gates{};              // (B*T,K)
  std::vector<A> probabilities{};      // (B*T,E) the router's, 0 for shared experts
  std::vector<double> load{};          // (E) tokens that chose each expert
  std::vector<double> mean_probability{};  // (E) sums to 1, with those of removed experts' rows, which are not here
  double conditional_entropy = 0;    // H(e|x), nats
  double loss = 0;                   // unweighted
  Index tokens = 0;                  // N, without masked ones
  Index shared_experts = 0;          // S: experts 0..S-1 serve every token and are not routed
};

/// Set what is wanted, pass it to a forward, read it afterwards. A: the backend's Accumulator.
template <class A>
struct Observation {
  bool want_hidden_states = false;
  bool want_routing = true;
  bool want_attention = false;  // slow: whole attention matrices, by a primitive of its own

  Index rows = 0;                                // B
  Index tokens = 0;                              // T
  std::vector<std::vector<A>> hidden_states{};   // L+1 of (B*T,D): each block's input, the final norm's output
  std::vector<RouterObservation<A>> routers{};   // 2L: attention, feed-forward of each layer
  std::vector<std::vector<A>> attentions{};      // L of (B,K,H,T,T)

  void begin(Batch const& batch) {
    rows = batch.rows;
    tokens = batch.tokens;
    hidden_states.clear();
    routers.clear();
    attentions.clear();
  }

  /// x (N,D) of packed tokens.
  template <Backend B>
  void add_hidden_state(B& backend, PackedTokens const& packed, Matrix<typename B::Scalar const> x) {
    if (want_hidden_states) hidden_states.push_back(spread<A>(backend, packed, x, A(0)));
  }

  template <Backend B, class BlockType>
  void add_block(B& backend, PackedTokens const& packed, Index layer, BlockType const& block,
                 typename BlockType::Context const& context) {
    if (want_routing) {
      add_router(backend, packed, attention_router_name(layer), context.attention.router);
      add_router(backend, packed, feed_forward_router_name(layer), context.feed_forward.router);
    }
    if (want_attention) add_attention(backend, packed, block.attention(), context.attention);
  }

 private:
  template <class T, Backend B, class Stored>
  static std::vector<T> spread(B& backend, PackedTokens const& packed, Matrix<Stored> x, T absent) {
    Index const width = x.extent(1);
    std::vector<std::remove_const_t<Stored>> host(static_cast<std::size_t>(x.size()));
    std::vector<T> result(static_cast<std::size_t>(packed.batch_size * width), absent);
    to_host(backend, Vector<Stored const>(x.reshape(x.size())), host.data());
    for (Index i = 0; i < packed.tokens(); ++i)
      std::transform(host.begin() + i * width, host.begin() + (i + 1) * width,
                     result.begin() + packed.positions[static_cast<std::size_t>(i)] * width,
                     [](auto value) { return static_cast<T>(value); });
    return result;
  }

  template <Backend B, class Context>
  void add_router(B& backend, PackedTokens const& packed, std::string name, Context const& context) {
    RoutingPlan const& plan = context.plan;
    RoutingStatistics const& sums = context.statistics;  // of the routed experts
    auto const experts = static_cast<std::size_t>(plan.experts), rows = static_cast<std::size_t>(sums.experts());
    // The expert of each row of the router.
    std::vector<std::int32_t> number(rows);
    if (context.removed) to_host(backend, Vector<std::int32_t const>(context.removed.expert_of_row), number.data());
    else std::iota(number.begin(), number.end(), 0);
    auto const shared = experts - static_cast<std::size_t>(std::count_if(number.begin(), number.end(), [](auto e) { return e >= 0; }));
    auto const place = [&](auto const& of_rows, auto* of_experts) {
      for (std::size_t r = 0; r < rows; ++r)
        if (number[r] >= 0) of_experts[shared + static_cast<std::size_t>(number[r])] = of_rows[r];
    };
    RouterObservation<A> seen{std::move(name), plan.experts, plan.top_k};
    seen.experts = spread<ExpertId>(backend, packed, context.experts, -1);
    seen.gates = spread<A>(backend, packed, context.gates, A(0));
    auto const routed = spread<A>(backend, packed, context.choice.probabilities, A(0));
    seen.probabilities.resize(routed.size() / rows * experts);
    for (std::size_t from = 0, to = 0; from < routed.size(); from += rows, to += experts)
      place(routed.data() + from, seen.probabilities.data() + to);
    seen.shared_experts = static_cast<Index>(shared);
    seen.load.assign(experts, static_cast<double>(plan.tokens));
    seen.mean_probability.resize(experts);
    std::vector<double> of_rows(rows);
    to_host(backend, Vector<double const>(sums.count), of_rows.data());
    place(of_rows, seen.load.data());
    to_host(backend, Vector<double const>(sums.probability_sum), of_rows.data());
    place(of_rows, seen.mean_probability.data());
    seen.tokens = plan.tokens;
    double const n = static_cast<double>(plan.tokens);
    for (double& p : seen.mean_probability) p /= n;
    to_host(backend, Vector<double const>{sums.negative_entropy_sum, {1}}, &seen.conditional_entropy);
    seen.conditional_entropy /= -n;
    to_host(backend, Vector<double const>{context.loss, {1}}, &seen.loss);
    routers.push_back(std::move(seen));
  }

  template <Backend B, class Layer>
  void add_attention(B& backend, PackedTokens const& packed, Layer const& layer, typename Layer::Context const& context) {
    AttentionExtents const extents = layer.extents(context.router.plan.top_k);
    Index const maps = extents.rows_per_token * extents.heads;  // (K,H)
    std::vector<A> all(static_cast<std::size_t>(rows * maps * tokens * tokens), A(0));
    for (Sequence const& sequence : packed.sequences) {
      Index const n = sequence.query_count;
      if (n == 0) continue;
      Scope<typename B::Memory> const scratch(backend.workspace());
      auto const weights = backend.workspace().template allocate<A>(extents.rows_per_token, extents.heads, n, n);
      stick_breaking_weights(backend, layer.variant(), extents, sequence, context.q, context.k, weights);
      std::vector<A> host(static_cast<std::size_t>(weights.size()));
      to_host(backend, Vector<A const>(weights.reshape(weights.size())), host.data());
      auto place = [&](Index i) { return packed.positions[static_cast<std::size_t>(sequence.query_begin + i)]; };
      for (Index m = 0; m < maps; ++m)
        for (Index i = 0; i < n; ++i)
          for (Index j = 0; j < n; ++j) {
            Index const row = place(i) / tokens, t = place(i) % tokens, s = place(j) % tokens;
            all[static_cast<std::size_t>(((row * maps + m) * tokens + t) * tokens + s)] =
                host[static_cast<std::size_t>((m * n + i) * n + j)];
          }
    }
    attentions.push_back(std::move(all));
  }
};

}  // namespace moduleformer
