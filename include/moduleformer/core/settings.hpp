// SPDX-License-Identifier: MIT
#pragma once
// Numbers of a model that may change between runs without changing its type or its parameters'
// shapes. A model holds them and writes them to config.json: under the published keys those that these know.

#include <moduleformer/core/error.hpp>
#include <moduleformer/core/types.hpp>

namespace moduleformer {

struct Settings {
  double aux_loss_weight = 0;      // of the sum of the routing losses in the total loss
  double embedding_dropout = 0;    // probability, after the embedding
  double residual_dropout = 0;     // probability, on both residual branches
  double router_dropout = 0;       // probability, inside the mlp router
  double router_jitter = 0;        // in training a router reads x times U(1 - this, 1 + this) (arXiv 2101.03961)
  Index sampled_slots = 0;         // of the top-k slots, how many are drawn at random in training
  double initializer_range = 0.02; // standard deviation of linear and embedding weights

  /// Calls visit("published key", member) for each.
  template <class Self, class Visitor>
  static constexpr void visit(Self& self, Visitor&& visit) {
    visit("aux_loss_weight", self.aux_loss_weight);
    visit("embd_pdrop", self.embedding_dropout);
    visit("resid_pdrop", self.residual_dropout);
    visit("moe_pdrop", self.router_dropout);
    visit("sample_topk", self.sampled_slots);
    visit("initializer_range", self.initializer_range);
  }
  /// The same for those that the published keys do not know.
  template <class Self, class Visitor>
  static constexpr void visit_own(Self& self, Visitor&& visit) {
    visit("router_jitter", self.router_jitter);
  }

  /// Throws Error naming the first value out of range.
  void check(Index smallest_top_k) const {
    auto probability = [](char const* name, double p) {
      expects(p >= 0 && p < 1, name, ": expected a probability in [0, 1), found ", p);
    };
    probability("embd_pdrop", embedding_dropout);
    probability("resid_pdrop", residual_dropout);
    probability("moe_pdrop", router_dropout);
    expects(router_jitter >= 0 && router_jitter < 1, "router_jitter: expected a number in [0, 1), found ", router_jitter);
    expects(sampled_slots >= 0 && sampled_slots <= smallest_top_k, "sample_topk: expected 0 to top-k ", smallest_top_k,
            ", found ", sampled_slots);
    expects(initializer_range >= 0 && initializer_range < 1e6, "initializer_range: expected a number from 0 to below 1e6, found ",
            initializer_range);
    expects(aux_loss_weight >= 0 && aux_loss_weight < 1e12, "aux_loss_weight: expected a number from 0 to below 1e12, found ",
            aux_loss_weight);
  }

  friend bool operator==(Settings const&, Settings const&) = default;
};

}  // namespace moduleformer
