// SPDX-License-Identifier: MIT
#pragma once
// Heads: what stands on the final norm's output h (N,D).
//   LanguageModelHead      logits = h W^T (N,V); loss = mean over counted targets of -log softmax
//   ClassificationHead     logits = pooled h W^T (B,labels), pooled at each row's last non-pad token
// Losses come as sums over what is counted; the model divides.

#include <moduleformer/model/batch.hpp>
#include <moduleformer/model/config.hpp>
#include <moduleformer/nn/parameters.hpp>
#include <moduleformer/nn/pass.hpp>

#include <vector>

namespace moduleformer {

/// What a head reads of a batch, in backend memory.
struct HeadInput {
  Vector<TokenId const> targets;        // (N) or (B); null without labels
  Vector<std::int32_t const> rows{};    // rows of h that the head reads; null: all
};

namespace detail {

/// The dense output layer that both heads are.
template <class Access>
struct HeadParameters {
  typename Access::template View<2> weight;  // (V,D) or (labels,D)
};

/// Rows of h that the head reads: gathered, or h itself.
template <Backend B, class S = typename B::Scalar>
Matrix<S const> head_rows(Pass<B>& pass, Matrix<S const> h, HeadInput const& input) {
  if (!input.rows) return h;
  Matrix<S> const picked = pass.template allocate<S>(input.rows.size(), h.extent(1));
  gather_rows(pass.backend, h, input.rows, picked);
  return picked;
}

/// logits (rows, outputs) of the rows that the head reads.
template <Backend B, class S = typename B::Scalar, class A = typename B::Accumulator>
void write_logits(Pass<B>& pass, HeadParameters<Values<S>> const& p, Matrix<S const> h, HeadInput const& input, Matrix<A> logits) {
  auto const scratch = pass.scope();
  linear(pass.backend, head_rows(pass, h, input), p.weight, {}, logits);
}

/// The same in fresh memory.
template <Backend B, class S = typename B::Scalar, class A = typename B::Accumulator>
Matrix<A> head_logits(Pass<B>& pass, HeadParameters<Values<S>> const& p, Matrix<S const> h, HeadInput const& input) {
  Index const rows = input.rows ? input.rows.size() : h.extent(0);
  Matrix<A> const logits = pass.template allocate<A>(rows, p.weight.extent(0));
  write_logits(pass, p, h, input, logits);
  return logits;
}

/// sum[0] = the counted cross-entropies' sum. With gradients: those of loss_scale * sum, dh (N,D) overwritten.
template <Backend B, class S = typename B::Scalar, class A = typename B::Accumulator>
void head_loss(Pass<B>& pass, HeadParameters<Values<S>> const& p, HeadParameters<Gradients<A>> const* gradients,
               Matrix<S const> h, HeadInput const& input, Matrix<S> dh, Vector<double> sum) {
  auto const scratch = pass.scope();
  if (gradients != nullptr && gradients->weight)
    expects(gradients->weight.first == 0 && gradients->weight.extent(0) == p.weight.extent(0),
            "the head's weight: expected all rows trainable or none");
  Matrix<A> const dweight = gradients != nullptr ? Matrix<A>(gradients->weight) : Matrix<A>{};
  Vector<double const> const scale{&pass.numbers->loss_scale, {1}};
  Matrix<S const> const x = head_rows(pass, h, input);
  if (!input.rows) return cross_entropy(pass.backend, x, p.weight, input.targets, scale, dh, dweight, sum);
  Matrix<S> const dx = dh ? pass.template allocate<S>(x.extent(0), x.extent(1)) : Matrix<S>{};
  cross_entropy(pass.backend, x, p.weight, input.targets, scale, dx, dweight, sum);
  if (dh) {
    fill(pass.backend, dh.reshape(dh.size()), S(0));
    scatter_rows(pass.backend, dx, input.rows, dh);
  }
}

}  // namespace detail

struct LanguageModelHead {
  static constexpr bool classifies = false;
  static constexpr std::string_view architecture = "ModuleFormerForCausalLM";
  /// The total loss includes aux_loss_weight * the routing losses.
  static constexpr bool adds_routing_loss = true;

  static Index outputs(Config const& config) { return config.vocab_size; }
  template <class Views, class Visitor>
  static constexpr void visit_parameters(Index outputs, Index hidden_size, Views& p, Visitor& visit) {
    visit("lm_head.weight", p.weight, Initial::normal, outputs, hidden_size);
  }
};

struct ClassificationHead {
  static constexpr bool classifies = true;
  static constexpr std::string_view architecture = "ModuleFormerForSequenceClassification";
  /// As published: the classifier's loss is the cross-entropy alone.
  static constexpr bool adds_routing_loss = false;

  static Index outputs(Config const& config) {
    expects(config.labels > 1, "num_labels: expected at least 2 (one label is regression, which is not offered), found ",
            config.labels);
    return config.labels;
  }
  template <class Views, class Visitor>
  static constexpr void visit_parameters(Index outputs, Index hidden_size, Views& p, Visitor& visit) {
    visit("score.weight", p.weight, Initial::normal, outputs, hidden_size);
  }

  /// Rows of the packed tokens that are pooled: of each sequence position (ids that are not pad) - 1, as
  /// published. Throws Error where that is not the last real token, or there is none.
  static void pool(Batch const& batch, PackedTokens const& packed, Index pad, std::vector<std::int32_t>& rows) {
    rows.clear();
    for (Index s = 0; s < batch.sequences(); ++s) {
      Index const begin = batch.sequence_begin(s), end = batch.sequence_begin(s + 1);
      Index count = 0, last = -1;
      for (Index i = begin; i < end; ++i) {
        if (pad >= 0 && batch.id(i) == pad) continue;
        ++count;
        if (batch.is_real(i)) last = i - begin;
      }
      expects(last >= 0, "classification: row ", s, " holds no token but padding");
      expects(last == count - 1, "classification: row ", s, ": expected its last real token at position ", count - 1,
              " (number of ids other than pad_token_id ", pad, ", minus 1), found it at ", last, "; pad on the right");
      Sequence const& sequence = packed.sequences[static_cast<std::size_t>(s)];
      Index row = sequence.query_begin;
      while (packed.positions[static_cast<std::size_t>(row)] != begin + last) ++row;
      rows.push_back(static_cast<std::int32_t>(row));
    }
  }
};

}  // namespace moduleformer
