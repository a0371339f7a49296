// SPDX-License-Identifier: MIT
#pragma once
// DocumentPool (arXiv 2605.06663): all tokens of a document choose within one pool of experts, those with the largest
// probabilities summed over its tokens; experts outside count as if their logits were -infinity, for gates and losses too.
// In training the pool's size is drawn for each document from smallest ... largest, so that the model learns to do with
// few. A document is one sequence of the batch: a row, or a packed sequence. The pool depends on later tokens. So generation,
// and evaluation unless evaluation_size says otherwise, choose among all experts; a loss evaluated with pools is no
// likelihood that a generating model could reach. A replay has the pools that the run
// itself would have: an expert outside them has gate 0. The sizes are those of attention and feed-forward layers alike, and
// must fit both; the defaults are of each.

#include <moduleformer/core/error.hpp>
#include <moduleformer/routing/selection.hpp>

namespace moduleformer {

struct DocumentPool : FixedSlots {
  using Role = role::Selection;
  static constexpr std::string_view name = "document_pool";
  Index smallest = 0;         // of a document's pool in training; 0: half of the experts
  Index largest = 0;          // 0: all experts
  Index evaluation_size = 0;  // 0: no pool

  template <class Access>
  struct Parameters {};

  template <class Self, class Visitor>
  static void visit(Self& self, Visitor&& visit) {
    visit("smallest", self.smallest);
    visit("largest", self.largest);
    visit("evaluation_size", self.evaluation_size);
  }
  template <class Views, class Visitor>
  constexpr void visit_parameters(Index /*experts*/, Views&, Visitor&) const {}

  /// Throws Error for pools that do not hold K experts, or more than there are.
  void check(Index top_k, Index experts) const {
    auto const size = [&](char const* what, Index n) {
      expects(n == 0 || (n >= top_k && n <= experts), "document_pool: ", what, ": expected ", top_k, " to ", experts,
              " experts, or 0, found ", n);
    };
    size("smallest", smallest);
    size("largest", largest);
    size("evaluation_size", evaluation_size);
    expects(smallest_of(top_k, experts) <= largest_of(experts), "document_pool: smallest: expected at most largest, ",
            largest_of(experts), ", found ", smallest_of(top_k, experts));
  }

  /// logits (N,E) outside the pools become -infinity, where the pass knows its documents.
  template <Backend B, class A = typename B::Accumulator>
  void restrict(Pass<B>& pass, Index top_k, RandomSite site, Matrix<A> logits) const {
    Index const n = logits.extent(0), experts = logits.extent(1);
    if (pass.documents.size() == 0 || (!pass.training && evaluation_size == 0)) return;
    auto const scratch = pass.scope();
    Matrix<A> const probabilities = pass.template allocate<A>(n, experts);
    softmax(pass.backend, Matrix<A const>(logits), probabilities, Vector<A>{});
    Index const first = pass.training ? smallest_of(top_k, experts) : evaluation_size;
    Index const last = pass.training ? largest_of(experts) : evaluation_size;
    restrict_to_pools(pass.backend, pass.documents, first, last, pass.random(site), Matrix<A const>(probabilities),
                      logits);
  }

  template <Backend B, class S = typename B::Scalar, class A = typename B::Accumulator>
  void select(Pass<B>& pass, Index /*top_k*/, Parameters<Values<S>> const&, RandomSite, Matrix<A const> logits,
              Matrix<A const>, Matrix<ExpertId> experts) const {
    top_k(pass.backend, logits, experts);
  }

 private:
  [[nodiscard]] Index smallest_of(Index top_k, Index experts) const {
    return smallest > 0 ? smallest : top_k > experts / 2 ? top_k : experts / 2;
  }
  [[nodiscard]] Index largest_of(Index experts) const { return largest > 0 ? largest : experts; }
};

}  // namespace moduleformer
