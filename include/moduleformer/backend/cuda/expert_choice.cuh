// SPDX-License-Identifier: MIT
#pragma once
// Expert choice on the CUDA backend, the same as the CPU's (backend/cpu/expert_choice.hpp).

#include <moduleformer/backend/checks.hpp>
#include <moduleformer/backend/cuda/cuda.cuh>
#include <moduleformer/backend/cuda/kernels/expert_choice.cuh>
#include <moduleformer/backend/primitive_checks.hpp>
#include <moduleformer/backend/workspace.hpp>

#include <cstdint>

namespace moduleformer {

/// ids (N,M): of the experts that have the token among the `capacity` tokens of largest score (N,E) (ties: the lowest
/// token; NaN counts as the smallest), the M of largest score, descending, ties to the lowest expert; then -1.
template <CudaScalar S, class P>
void expert_choice(CudaBackend<S, P>& backend, Arg<Matrix<float const>> scores, Index capacity, Matrix<ExpertId> ids) {
  Index const tokens = scores.extent(0), experts = scores.extent(1), slots = ids.extent(1);
  detail::check_expert_choice(scores, capacity, ids);
  Scope const scope{backend.workspace()};
  auto const taken = backend.workspace().template allocate<std::uint8_t>(tokens, experts);
  using Take = kernels::TakeTokens;
  backend.launch(Take{scores.data(), taken.data(), tokens, experts, capacity}, experts, Take::shared_bytes);
  using List = kernels::ListExperts;
  backend.launch(List{scores.data(), taken.data(), ids.data(), tokens, experts, slots}, detail::ceil_divide(tokens, List::threads));
}

}  // namespace moduleformer
