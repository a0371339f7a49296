// SPDX-License-Identifier: MIT
#pragma once
// Config: a model's sizes at run time, every value known; expert counts may differ between layers.
// A static Shape makes its own Config; a dynamic one takes what it lacks from it.

#include <moduleformer/core/shape.hpp>

#include <initializer_list>
#include <limits>
#include <utility>
#include <vector>

namespace moduleformer {

/// Experts per layer: one number for all, or one for each.
class ExpertCounts {
 public:
  constexpr ExpertCounts(Index all = 0) : all_(all) {}
  ExpertCounts(std::vector<Index> each) : each_(std::move(each)) {}

  [[nodiscard]] Index operator[](Index layer) const {
    return each_.empty() ? all_ : each_[static_cast<std::size_t>(layer)];
  }
  /// One for each layer, or empty if all have the same.
  [[nodiscard]] std::vector<Index> const& each() const { return each_; }
  [[nodiscard]] Index smallest() const {
    Index least = each_.empty() ? all_ : each_.front();
    for (Index const n : each_) least = n < least ? n : least;
    return least;
  }
  [[nodiscard]] Index largest() const {
    Index most = each_.empty() ? all_ : each_.front();
    for (Index const n : each_) most = n > most ? n : most;
    return most;
  }
  [[nodiscard]] bool uniform() const { return smallest() == largest(); }
  friend bool operator==(ExpertCounts const& a, ExpertCounts const& b) {
    return a.uniform() && b.uniform() ? a.smallest() == b.smallest() : a.each_ == b.each_;
  }

 private:
  Index all_ = 0;
  std::vector<Index> each_;
};

/// Experts of a layer that take part, of Config::Attention or Config::FeedForward.
template <class Kind>
Index active_experts(Kind const& kind, Index layer) {
  return kind.experts[layer] - kind.dormant[layer];
}

/// Sizes of a model; letters in core/types.hpp.
struct Config {
  struct Attention {
    ExpertCounts experts;
    Index top_k = 0;
    Index heads = 0;
    Index hidden_size = 0;
    ExpertCounts dormant{};  // of the experts, the last so many
    ExpertCounts removed{};  // rows of the router without an expert
    friend bool operator==(Attention const&, Attention const&) = default;
  };
  struct FeedForward {
    ExpertCounts experts;
    Index top_k = 0;
    Index hidden_size = 0;
    ExpertCounts dormant{};  // of the experts, the last so many
    ExpertCounts removed{};  // rows of the router without an expert
    friend bool operator==(FeedForward const&, FeedForward const&) = default;
  };

  Index vocab_size = 0;
  Index hidden_size = 0;
  Index layers = 0;
  Index router_hidden_size = 0;
  Attention attention{};
  FeedForward feed_forward{};
  Index labels = 0;  // of a classifier

  // Ids with a meaning, -1 for none. The pad id serves the classifier's pooling only.
  Index pad_token_id = -1;
  Index bos_token_id = -1;
  Index eos_token_id = -1;

  friend bool operator==(Config const&, Config const&) = default;

  /// The Config of a shape; what is dynamic is 0 and must be filled in.
  static Config of(Shape const& shape) {
    auto known = [](Index n) { return n == dynamic ? 0 : n; };
    Config config;
    config.vocab_size = known(shape.vocab_size);
    config.hidden_size = known(shape.hidden_size);
    config.layers = known(shape.layers);
    config.router_hidden_size = known(shape.router_hidden_size);
    config.attention = {known(shape.attention.experts), known(shape.attention.top_k), known(shape.attention.heads),
                        known(shape.attention.hidden_size)};
    config.feed_forward = {known(shape.feed_forward.experts), known(shape.feed_forward.top_k),
                           known(shape.feed_forward.hidden_size)};
    config.labels = known(shape.labels);
    return config;
  }

  /// Throws Error naming the first size, by its key in config.json, that no model can have.
  void check() const {
    auto positive = [](char const* key, Index value) {
      constexpr Index largest = Index{1} << 31;
      expects(value > 0 && value < largest, key, ": expected 1 to ", largest - 1, ", found ", value);
    };
    positive("vocab_size", vocab_size);
    positive("n_embd", hidden_size);
    positive("n_layer", layers);
    positive("k_att", attention.top_k);
    positive("n_head", attention.heads);
    positive("att_hidden", attention.hidden_size);
    positive("k_mlp", feed_forward.top_k);
    positive("ffd_hidden", feed_forward.hidden_size);
    check_experts("n_att_experts", "k_att", attention);
    check_experts("n_mlp_experts", "k_mlp", feed_forward);
    expects(attention.hidden_size % attention.heads == 0, "n_head: ", attention.heads, " does not divide att_hidden ",
            attention.hidden_size);
    constexpr Index largest = (Index{1} << 31) - 1;
    expects(router_hidden_size >= 0 && router_hidden_size <= largest, "gating_size: expected 0 to ", largest, ", found ",
            router_hidden_size);
    expects(labels >= 0 && labels <= largest, "num_labels: expected 0 to ", largest, ", found ", labels);
    for (auto const& [key, id] : {std::pair{"pad_token_id", pad_token_id}, {"bos_token_id", bos_token_id},
                                  {"eos_token_id", eos_token_id}})
      expects(id >= -1 && id < vocab_size, key, ": expected an id below vocab_size ", vocab_size, ", found ", id);
  }

 private:
  template <class Kind>
  void check_experts(char const* key, char const* k_key, Kind const& kind) const {
    ExpertCounts const& experts = kind.experts;
    for (auto const& [counts, what] : {std::pair{&experts, ""}, {&kind.dormant, ", dormant"}, {&kind.removed, ", removed"}})
      expects(counts->each().empty() || static_cast<Index>(counts->each().size()) == layers, key, what,
              ": expected one count per layer, ", layers, ", found ", counts->each().size());
    constexpr Index largest = Index{1} << 20;
    expects(experts.smallest() > 0 && experts.largest() <= largest, key, ": expected 1 to ", largest, ", found ",
            experts.smallest() > 0 ? experts.largest() : experts.smallest());
    expects(kind.top_k <= experts.smallest(), k_key, ": ", kind.top_k, " exceeds ", key, " ", experts.smallest());
    expects(kind.removed.smallest() >= 0 && kind.removed.largest() <= largest, key, ", removed: expected 0 to ", largest,
            ", found ", kind.removed.smallest() < 0 ? kind.removed.smallest() : kind.removed.largest());
    if (kind.dormant == ExpertCounts{}) return;
    for (Index i = 0; i < layers; ++i)
      expects(kind.dormant[i] >= 0 && kind.top_k <= active_experts(kind, i), k_key, ": ", kind.top_k, " exceeds ", key,
              " ", experts[i], " less ", kind.dormant[i], " dormant ones in layer ", i);
  }
};

/// A shape's extents, static or taken from a Config.
template <Shape shape>
struct Extents {
  explicit Extents(Config const& c)
      : vocab_size("vocab_size", c.vocab_size),
        hidden_size("n_embd", c.hidden_size),
        layers("n_layer", c.layers),
        router_hidden_size("gating_size", c.router_hidden_size),
        attention_top_k("k_att", c.attention.top_k),
        attention_heads("n_head", c.attention.heads),
        attention_hidden_size("att_hidden", c.attention.hidden_size),
        feed_forward_top_k("k_mlp", c.feed_forward.top_k),
        feed_forward_hidden_size("ffd_hidden", c.feed_forward.hidden_size),
        labels("num_labels", c.labels) {
    for (Index i = 0; i < layers; ++i) {
      (void)Extent<shape.attention.experts>("n_att_experts", c.attention.experts[i]);
      (void)Extent<shape.feed_forward.experts>("n_mlp_experts", c.feed_forward.experts[i]);
    }
  }

  [[no_unique_address]] Extent<shape.vocab_size> vocab_size;
  [[no_unique_address]] Extent<shape.hidden_size> hidden_size;
  [[no_unique_address]] Extent<shape.layers> layers;
  [[no_unique_address]] Extent<shape.router_hidden_size> router_hidden_size;
  [[no_unique_address]] Extent<shape.attention.top_k> attention_top_k;
  [[no_unique_address]] Extent<shape.attention.heads> attention_heads;
  [[no_unique_address]] Extent<shape.attention.hidden_size> attention_hidden_size;
  [[no_unique_address]] Extent<shape.feed_forward.top_k> feed_forward_top_k;
  [[no_unique_address]] Extent<shape.feed_forward.hidden_size> feed_forward_hidden_size;
  [[no_unique_address]] Extent<shape.labels> labels;
};

}  // namespace moduleformer
