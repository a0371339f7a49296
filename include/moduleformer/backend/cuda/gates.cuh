// SPDX-License-Identifier: MIT
#pragma once
// Gates that depend on the chosen experts' logits alone, and scores that experts are chosen by, on the CUDA backend; the
// same as the CPU's (backend/cpu/gates.hpp).

#include <moduleformer/backend/checks.hpp>
#include <moduleformer/backend/cuda/cuda.cuh>
#include <moduleformer/backend/cuda/kernels/gates.cuh>
#include <moduleformer/backend/primitive_checks.hpp>

namespace moduleformer {

/// gates (N,K) =, of the experts ids (N,K), from logits (N,E).
template <CudaScalar S, class P>
void chosen_gates(CudaBackend<S, P>& backend, GateFunction function, Arg<Matrix<float const>> logits, Matrix<ExpertId const> ids,
                  Arg<Matrix<float>> gates) {
  detail::check_chosen_gates("chosen_gates", logits, ids, Matrix<float const>(gates));
  using Kernel = kernels::ChosenGates;
  Index const tokens = logits.extent(0);
  backend.launch(Kernel{function, logits.data(), ids.data(), gates.data(), tokens, logits.extent(1), ids.extent(1)},
                 detail::ceil_divide(tokens, Kernel::threads));
}

/// dlogits (N,E) += the gradient of gates (N,K), from theirs, dgates (N,K) or null, and that of their sums over tokens,
/// gate_sum (E) or null.
template <CudaScalar S, class P>
void chosen_gates_backward(CudaBackend<S, P>& backend, GateFunction function, Arg<Matrix<float const>> logits,
                           Matrix<ExpertId const> ids, Arg<Matrix<float const>> gates, Arg<Matrix<float const>> dgates,
                           Vector<double const> gate_sum, Arg<Matrix<float>> dlogits) {
  detail::check_chosen_gates_backward(logits, ids, gates, dgates, gate_sum, dlogits);
  using Kernel = kernels::ChosenGatesBackward;
  Index const tokens = logits.extent(0);
  backend.launch(Kernel{function, logits.data(), ids.data(), gates.data(), dgates.data(), gate_sum.data(), dlogits.data(), tokens,
                        logits.extent(1), ids.extent(1)},
                 detail::ceil_divide(tokens, Kernel::threads));
}

/// scores (N,E) = logits + scale * Gumbel noise.
template <CudaScalar S, class P>
void gumbel_scores(CudaBackend<S, P>& backend, double scale, RandomSource random, Arg<Matrix<float const>> logits,
                   Arg<Matrix<float>> scores) {
  detail::expect_same("gumbel_scores", "scores", scores, logits);
  using Kernel = kernels::GumbelScores;
  backend.launch(Kernel{logits.data(), scores.data(), logits.size(), static_cast<float>(scale), random},
                 detail::ceil_divide(logits.size(), Kernel::threads));
}

/// scores (N,E) = sigmoid(logits) + bias (E).
template <CudaScalar S, class P>
void biased_scores(CudaBackend<S, P>& backend, Arg<Matrix<float const>> logits, Arg<Vector<float const>> bias,
                   Arg<Matrix<float>> scores) {
  detail::expect_same("biased_scores", "scores", scores, logits);
  detail::expect_extents("biased_scores", "bias", bias, logits.extent(1));
  using Kernel = kernels::BiasedScores;
  backend.launch(Kernel{logits.data(), bias.data(), scores.data(), logits.size(), logits.extent(1)},
                 detail::ceil_divide(logits.size(), Kernel::threads));
}

}  // namespace moduleformer
