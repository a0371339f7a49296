// SPDX-License-Identifier: MIT
#pragma once
// Gates of the chosen experts' logits alone, a token a thread, and scores that experts are chosen by, a number a thread.
// Formulas: backend/gate_rows.hpp, backend/backend.hpp.

#include <moduleformer/backend/gate_rows.hpp>
#include <moduleformer/core/math.hpp>
#include <moduleformer/core/platform.hpp>
#include <moduleformer/core/random.hpp>

#include <cstdint>

namespace moduleformer::kernels {

/// gates (N,K) = of logits (N,E) and ids (N,K).
struct ChosenGates {
  static constexpr int threads = 128;
  GateFunction function;
  float const* logits;
  ExpertId const* ids;
  float* gates;
  Index tokens;
  Index experts;
  Index chosen;

  template <class Thread>
  MODULEFORMER_DEVICE void operator()(Thread const& thread) const {
    Index const t = thread.block() * threads + thread.index();
    if (t < tokens) detail::row_gates(function, logits + t * experts, ids + t * chosen, chosen, gates + t * chosen);
  }
};

/// dlogits (N,E) += the gradient of the gates, of which dgates and gate_sum may be null.
struct ChosenGatesBackward {
  static constexpr int threads = 128;
  GateFunction function;
  float const* logits;
  ExpertId const* ids;
  float const* gates;
  float const* dgates;
  double const* gate_sum;
  float* dlogits;
  Index tokens;
  Index experts;
  Index chosen;

  template <class Thread>
  MODULEFORMER_DEVICE void operator()(Thread const& thread) const {
    Index const t = thread.block() * threads + thread.index();
    if (t < tokens)
      detail::add_row_gates_gradient(function, logits + t * experts, ids + t * chosen, gates + t * chosen,
                                     dgates == nullptr ? nullptr : dgates + t * chosen, gate_sum, chosen, dlogits + t * experts);
  }
};

/// scores = logits - scale log(-log u).
struct GumbelScores {
  static constexpr int threads = 256;
  float const* logits;
  float* scores;
  Index size;
  float scale;
  RandomSource random;

  template <class Thread>
  MODULEFORMER_DEVICE void operator()(Thread const& thread) const {
    Index const i = thread.block() * threads + thread.index();
    if (i >= size) return;
    float const wait = -math::log(to_unit(random_words(random.key(), static_cast<std::uint64_t>(i))[0]));
    scores[i] = logits[i] - scale * math::log(wait);
  }
};

/// scores = sigmoid(logits) + bias of the expert.
struct BiasedScores {
  static constexpr int threads = 256;
  float const* logits;
  float const* bias;
  float* scores;
  Index size;
  Index experts;

  template <class Thread>
  MODULEFORMER_DEVICE void operator()(Thread const& thread) const {
    Index const i = thread.block() * threads + thread.index();
    if (i < size) scores[i] = math::sigmoid(logits[i]) + bias[i % experts];
  }
};

}  // namespace moduleformer::kernels
