// SPDX-License-Identifier: MIT
#pragma once
// Gates that depend on the chosen experts' logits alone, and scores that experts are chosen by, on the CPU. Formulas:
// backend/gate_rows.hpp, backend/backend.hpp.

#include <moduleformer/backend/cpu/cpu.hpp>
#include <moduleformer/backend/gate_rows.hpp>
#include <moduleformer/backend/primitive_checks.hpp>
#include <moduleformer/core/math.hpp>
#include <moduleformer/core/random.hpp>

namespace moduleformer {

/// gates (N,K) =, of the experts ids (N,K), from logits (N,E).
template <Real S>
void chosen_gates(Cpu<S>& backend, GateFunction function, Arg<Matrix<S const>> logits, Matrix<ExpertId const> ids,
                  Arg<Matrix<S>> gates) {
  detail::check_chosen_gates("chosen_gates", logits, ids, Matrix<S const>(gates));
#pragma omp parallel for num_threads(backend.threads()) if (logits.extent(0) > 256)
  for (Index t = 0; t < logits.extent(0); ++t)
    detail::row_gates(function, logits.slice(t).data(), ids.slice(t).data(), ids.extent(1), gates.slice(t).data());
}

/// dlogits (N,E) += the gradient of gates (N,K), from theirs, dgates (N,K) or null, and that of their sums over tokens,
/// gate_sum (E) or null.
template <Real S>
void chosen_gates_backward(Cpu<S>& backend, GateFunction function, Arg<Matrix<S const>> logits, Matrix<ExpertId const> ids,
                           Arg<Matrix<S const>> gates, Arg<Matrix<S const>> dgates, Vector<double const> gate_sum,
                           Arg<Matrix<S>> dlogits) {
  detail::check_chosen_gates_backward(logits, ids, gates, dgates, gate_sum, dlogits);
#pragma omp parallel for num_threads(backend.threads()) if (logits.extent(0) > 256)
  for (Index t = 0; t < logits.extent(0); ++t)
    detail::add_row_gates_gradient(function, logits.slice(t).data(), ids.slice(t).data(), gates.slice(t).data(),
                                   dgates ? dgates.slice(t).data() : static_cast<S const*>(nullptr), gate_sum.data(), ids.extent(1),
                                   dlogits.slice(t).data());
}

/// scores (N,E) = logits + scale * Gumbel noise.
template <Real S>
void gumbel_scores(Cpu<S>& backend, double scale, RandomSource random, Arg<Matrix<S const>> logits, Arg<Matrix<S>> scores) {
  detail::expect_same("gumbel_scores", "scores", scores, logits);
  RandomKey const key = random.key();
#pragma omp parallel for num_threads(backend.threads()) if (logits.size() > 4096)
  for (Index i = 0; i < logits.size(); ++i) {
    S const wait = -math::log(static_cast<S>(to_unit(random_words(key, static_cast<std::uint64_t>(i))[0])));
    scores[i] = logits[i] - static_cast<S>(scale) * math::log(wait);
  }
}

/// scores (N,E) = sigmoid(logits) + bias (E).
template <Real S>
void biased_scores(Cpu<S>& backend, Arg<Matrix<S const>> logits, Arg<Vector<S const>> bias, Arg<Matrix<S>> scores) {
  detail::expect_same("biased_scores", "scores", scores, logits);
  detail::expect_extents("biased_scores", "bias", bias, logits.extent(1));
#pragma omp parallel for num_threads(backend.threads()) if (logits.size() > 4096)
  for (Index t = 0; t < logits.extent(0); ++t)
    for (Index e = 0; e < logits.extent(1); ++e) scores(t, e) = math::sigmoid(logits(t, e)) + bias[e];
}

}  // namespace moduleformer
