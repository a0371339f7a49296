// SPDX-License-Identifier: MIT
#pragma once
// The transformer below the head (arXiv 2306.04640): embedding without positions, L pre-norm blocks,
// a final norm. Forward keeps contexts, or each block's input and routes (recomputation), or nothing.

#include <moduleformer/core/platform.hpp>
#include <moduleformer/model/config.hpp>
#include <moduleformer/model/observation.hpp>
#include <moduleformer/routing/policies.hpp>

#include <algorithm>
#include <cstddef>
#include <string>
#include <string_view>
#include <type_traits>
#include <vector>

namespace moduleformer {

namespace detail {

/// *sum = x[0] + x[1] + ...
struct SumUp {
  Vector<double const> x;
  double* sum;
  MODULEFORMER_HOST_DEVICE void operator()() const {
    *sum = 0;
    for (Index i = 0; i < x.size(); ++i) *sum += x[i];
  }
};

}  // namespace detail

namespace detail {

template <class Selection>
inline constexpr bool chooses_by_logits = requires { requires Selection::chooses_by_logits; };

/// Throws Error for a selection that would choose rows of removed experts.
template <class Selection>
void check_chooses_by_logits(Selection const& selection) {
  with_policy(selection, []<class Concrete>(Concrete const&) {
    expects(chooses_by_logits<Concrete>, "selection: ", Concrete::name,
            " does not know rows of removed experts, which stay in this model's routers");
  });
}

}  // namespace detail

/// Throws Error for policies that do not go together, or not with the sizes.
template <class PolicySet>
void check_policies(Config const& config, PolicySet const& policies) {
  check_policies(policies);
  with_policy(policies.router, [&]<class Router>(Router const&) {
    if constexpr (detail::has_hidden_layer<Router>)
      expects(config.router_hidden_size > 0, "gating_size: expected a positive number, the hidden size of gate_type ",
              Router::name, ", found ", config.router_hidden_size);
  });
  SharedCounts const shared = shared_counts(policies.shared_experts);
  shared.check(config.attention.top_k, config.feed_forward.top_k);
  auto const check_routers = [&](std::string_view key, auto const& sizes, Index shared_experts) {
    Index const top_k = sizes.top_k - shared_experts;
    for (Index i = 0; i < config.layers; ++i) {
      Index const routed = active_experts(sizes, i) - shared_experts;
      check_gates(policies, key, top_k, routed);
      policies.selection.check(top_k, routed);
      if (sizes.removed[i] > 0) detail::check_chooses_by_logits(policies.selection);
    }
  };
  check_routers("k_att", config.attention, shared.attention);
  check_routers("k_mlp", config.feed_forward, shared.feed_forward);
}

/// Experts that each router chooses among, attention and feed-forward of each layer in turn.
template <class PolicySet>
std::vector<Index> routed_experts(Config const& config, PolicySet const& policies) {
  SharedCounts const shared = shared_counts(policies.shared_experts);
  std::vector<Index> experts;
  for (Index i = 0; i < config.layers; ++i) {
    experts.push_back(active_experts(config.attention, i) - shared.attention);
    experts.push_back(active_experts(config.feed_forward, i) - shared.feed_forward);
  }
  return experts;
}

/// Throws Error for settings out of range, and for sampled slots that the selection would not sample.
template <class PolicySet>
void check_settings(Config const& config, PolicySet const& policies, Settings const& settings) {
  SharedCounts const shared = shared_counts(policies.shared_experts);
  settings.check(std::min(config.attention.top_k - shared.attention, config.feed_forward.top_k - shared.feed_forward));
  detail::check_sampled_slots(policies.selection, settings);
  expects(settings.sampled_slots == 0 ||
              (config.attention.removed.largest() == 0 && config.feed_forward.removed.largest() == 0),
          "sample_topk: expected 0 where routers have rows of removed experts, found ", settings.sampled_slots);
}

template <Shape shape, class PolicySet, Backend B>
class Transformer {
 public:
  using S = typename B::Scalar;
  using A = typename B::Accumulator;
  using BlockType = Block<PolicySet, B>;
  using Norm = typename PolicySet::Norm;

  template <class Access>
  struct Parameters {
    typename Access::template View<2> embedding;  // (V,D)
    std::vector<typename BlockType::template Parameters<Access>> blocks;
    typename Norm::template Parameters<Access> norm;
  };

  /// What a forward reads, in backend memory except the caches and routes (L each, or empty).
  struct Input {
    Vector<TokenId const> ids;             // (N)
    Vector<Sequence const> sequences;
    KeyValueCache<S> const* caches = nullptr;
    BlockRoutes const* routes = nullptr;   // given experts
    PackedTokens const* packed = nullptr;  // the same tokens on the host, for an observation
    std::vector<std::byte>* kept = nullptr;  // host memory for a forward that keeps; it must outlive the context
  };
  struct KeptBlock {
    typename BlockType::Context context;  // unless recomputed
    Matrix<S> x;                          // the block's input, if recomputed
    Matrix<ExpertId> attention_experts, feed_forward_experts;
  };
  struct Context {
    Vector<KeptBlock> blocks;  // (L), if kept; in host memory
    Vector<double> losses;     // (2L) each router's loss, unweighted
    Matrix<S> slots;           // what each layer left in turn; backward's too
    Matrix<S> last;            // input of the final norm (N,D)
    typename Norm::template Context<B> norm;
    Matrix<S> hidden;          // its output (N,D)
  };

  using Selection = typename PolicySet::Selection;
  using Gating = typename PolicySet::Gating;
  static constexpr SharedCounts known_shared = detail::known_shared_counts<typename PolicySet::SharedExperts>();
  static_assert(!detail::gate_is_constant<Selection, Gating>(detail::routed(shape.attention.top_k, known_shared.attention),
                                                             detail::routed(shape.attention.experts, known_shared.attention)) &&
                    !detail::gate_is_constant<Selection, Gating>(
                        detail::routed(shape.feed_forward.top_k, known_shared.feed_forward),
                        detail::routed(shape.feed_forward.experts, known_shared.feed_forward)),
                "moduleformer: gates that sum to 1 are constant where top_k is 1, the task would teach the router nothing");

  /// Throws Error for policies that do not go together, or not with the sizes.
  Transformer(Config const& config, PolicySet const& policies) : extents_(config), policies_(&policies) {
    check_shape<shape>();
    check_shared_experts<shape, typename PolicySet::SharedExperts>();
    check_policies(config, policies);
    for (Index i = 0; i < extents_.layers; ++i) {
      auto const router = [&](auto const& kind) -> RouterExtents {
        return {extents_.hidden_size, extents_.router_hidden_size, active_experts(kind, i) + kind.removed[i],
                kind.dormant[i], kind.removed[i]};
      };
      typename BlockType::AttentionLayer attention(router(config.attention), extents_.attention_top_k, extents_.attention_heads,
                                                   extents_.attention_hidden_size, policies);
      typename BlockType::FeedForwardLayer feed_forward(router(config.feed_forward), extents_.feed_forward_top_k,
                                                        extents_.feed_forward_hidden_size, policies);
      blocks_.emplace_back(attention, feed_forward, extents_.hidden_size);
    }
  }

  [[nodiscard]] Extents<shape> const& extents() const { return extents_; }
  [[nodiscard]] SharedCounts shared_experts() const { return shared_counts(policies_->shared_experts); }
  [[nodiscard]] std::vector<BlockType> const& blocks() const { return blocks_; }

  template <class Views, class Visitor>
  void visit_parameters(Views& p, Visitor& visit) const {
    p.blocks.resize(blocks_.size());
    visit.inside("transformer.", [&] {
      visit("wte.weight", p.embedding, Initial::normal, Index{extents_.vocab_size}, Index{extents_.hidden_size});
      for (std::size_t i = 0; i < blocks_.size(); ++i)
        visit.inside("h." + std::to_string(i) + ".", [&] { blocks_[i].visit_parameters(p.blocks[i], visit); });
      visit.inside("ln_f.", [&] { Norm::visit_parameters(extents_.hidden_size, p.norm, visit); });
    });
  }

  Context forward(Pass<B>& pass, Parameters<Values<S>> const& p, Input const& input, Observation<A>* observation) const {
    B& backend = pass.backend;
    Index const n = input.ids.size(), d = extents_.hidden_size, layers = extents_.layers;
    bool const keep = pass.keep, recompute = keep && policies_->checkpointing.recompute();
    Context context{};
    context.losses = pass.template allocate<double>(2 * layers);
    if (keep) {
      static_assert(std::is_trivially_copyable_v<KeptBlock> && alignof(KeptBlock) <= alignof(std::max_align_t));
      input.kept->resize(static_cast<std::size_t>(layers) * sizeof(KeptBlock));
      context.blocks = {reinterpret_cast<KeptBlock*>(input.kept->data()), {layers}};
    }
    context.hidden = pass.template allocate<S>(n, d);
    context.slots = pass.template allocate<S>(n * most_slots(pass.training), d);

    // x and h of a block are kept where backward reads them, else written again by the next block.
    Matrix<S> x = pass.template allocate<S>(n, d), h = pass.template allocate<S>(n, d);
    pass.layer = 0;
    embedding(backend, p.embedding, input.ids, x);
    if (auto const drop = embedding_dropout(pass); drop.probability > 0) apply_dropout(backend, drop, x, x);
    Combination<S> sum{x};  // what the next norm adds up

    pass.keep = keep && !recompute;
    for (Index i = 0; i < layers; ++i) {
      pass.layer = i;
      if (keep && i > 0) x = pass.template allocate<S>(n, d);
      if (pass.keep && i > 0) h = pass.template allocate<S>(n, d);
      if (keep) context.blocks[i] = recompute ? kept_routes(pass, block_at(i), n, x) : KeptBlock{};
      auto const mark = backend.workspace().mark();
      auto const routes = input.routes != nullptr ? input.routes[i] : BlockRoutes{};
      auto const block = forward_block(pass, p, input, i, sum, {x, h, context.slots}, routes, &sum);
      if (pass.losses) {
        copy(backend, Vector<double const>{block.attention.router.loss, {1}}, context.losses.rows(2 * i, 1));
        copy(backend, Vector<double const>{block.feed_forward.router.loss, {1}}, context.losses.rows(2 * i + 1, 1));
      }
      if (observation != nullptr) {
        observation->add_hidden_state(backend, *input.packed, x);
        observation->add_block(backend, *input.packed, i, block_at(i), block);
      }
      if (pass.keep) {
        context.blocks[i].context = block;
      } else {
        if (recompute) keep_routes(backend, block, context.blocks[i]);
        backend.workspace().release(mark);
      }
    }
    pass.keep = keep;
    context.last = keep ? pass.template allocate<S>(n, d) : x;
    context.norm = combine_and_norm<Norm>(pass, p.norm, sum, context.last, context.hidden);
    if (observation != nullptr) observation->add_hidden_state(backend, *input.packed, context.hidden);
    return context;
  }

  /// dhidden (N,D) is the gradient of context.hidden; accumulates into the gradients.
  void backward(Pass<B>& pass, Parameters<Values<S>> const& p, Parameters<Gradients<A>> const& gradients,
                Context const& context, Input const& input, Matrix<S const> dhidden) const {
    auto const scratch = pass.scope();
    B& backend = pass.backend;
    bool const recompute = policies_->checkpointing.recompute();
    pass.adds_to_totals = false;  // what is computed again was counted
    Index const n = dhidden.extent(0), size = extents_.hidden_size;
    Matrix<S> const d = pass.template allocate<S>(n, size);
    fill(backend, d.reshape(n * size), S(0));
    Norm::backward(pass, p.norm, gradients.norm, context.norm, Matrix<S const>(context.last), dhidden, d);
    for (Index i = extents_.layers - 1; i >= 0; --i) {
      auto const inner = pass.scope();
      pass.layer = i;
      KeptBlock const& kept = context.blocks[i];
      auto const at = static_cast<std::size_t>(i);
      typename BlockType::Context block = kept.context;
      if (recompute) {
        Matrix<S> const h = pass.template allocate<S>(n, size);
        block = forward_block(pass, p, input, i, {kept.x}, {kept.x, h, context.slots},
                              {kept.attention_experts, kept.feed_forward_experts}, nullptr);
      }
      blocks_[at].backward(pass, p.blocks[at], gradients.blocks[at], block, input.sequences, context.slots, d);
    }
    pass.layer = 0;
    if (auto const drop = embedding_dropout(pass); drop.probability > 0) apply_dropout(backend, drop, d, d);
    if (gradients.embedding) {
      expects(gradients.embedding.first == 0 && gradients.embedding.extent(0) == extents_.vocab_size,
              "transformer.wte.weight: expected all rows trainable or none");
      embedding_backward(backend, input.ids, d, gradients.embedding);
    }
  }

 private:
  BlockType const& block_at(Index i) const { return blocks_[static_cast<std::size_t>(i)]; }

  typename BlockType::Context forward_block(Pass<B>& pass, Parameters<Values<S>> const& p, Input const& input, Index i,
                                            Combination<S> in, typename BlockType::Places const& places,
                                            BlockRoutes routes, Combination<S>* out) const {
    KeyValueCache<S> const cache = input.caches != nullptr ? input.caches[i] : KeyValueCache<S>{};
    return block_at(i).forward(pass, p.blocks[static_cast<std::size_t>(i)], in, places, input.sequences, cache, routes,
                               out);
  }

  /// Of a token, of any layer.
  [[nodiscard]] Index most_slots(bool training) const {
    Index most = 0;
    for (BlockType const& block : blocks_)
      most = std::max({most, block.attention().router().slots(training), block.feed_forward().router().slots(training)});
    return most;
  }
  static KeptBlock kept_routes(Pass<B>& pass, BlockType const& block, Index n, Matrix<S> x) {
    KeptBlock kept{};
    kept.x = x;
    kept.attention_experts = pass.template allocate<ExpertId>(n, block.attention().router().slots(pass.training));
    kept.feed_forward_experts = pass.template allocate<ExpertId>(n, block.feed_forward().router().slots(pass.training));
    return kept;
  }
  static void keep_routes(B& backend, typename BlockType::Context const& block, KeptBlock& kept) {
    auto keep = [&](Matrix<ExpertId> from, Matrix<ExpertId> to) {
      copy(backend, from.reshape(from.size()), to.reshape(to.size()));
    };
    keep(block.attention.router.experts, kept.attention_experts);
    keep(block.feed_forward.router.experts, kept.feed_forward_experts);
  }
  static Dropout embedding_dropout(Pass<B> const& pass) {
    return pass.dropout(RandomSite::embedding, pass.settings.embedding_dropout);
  }

  Extents<shape> extents_;
  PolicySet const* policies_;
  std::vector<BlockType> blocks_;
};

}  // namespace moduleformer
