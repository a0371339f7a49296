// SPDX-License-Identifier: MIT
#pragma once
// Pools of experts for documents on the CUDA backend, the same as the CPU's (backend/cpu/document_pool.hpp).

#include <moduleformer/backend/cuda/cuda.cuh>
#include <moduleformer/backend/cuda/kernels/document_pool.cuh>
#include <moduleformer/backend/primitive_checks.hpp>

#include <cstddef>

namespace moduleformer {

/// logits (N,E) = -infinity for experts outside their document's pool. A document is a sequence's queries; its pool are the P
/// experts of the largest summed probabilities (N,E), ties to the lowest, P drawn evenly from smallest ... largest by
/// the first word of the document's number.
template <CudaScalar S, class P>
void restrict_to_pools(CudaBackend<S, P>& backend, Vector<Sequence const> documents, Index smallest, Index largest,
                       RandomSource random, Arg<Matrix<float const>> probabilities, Arg<Matrix<float>> logits) {
  detail::check_pools(smallest, largest, probabilities, logits);
  using Kernel = kernels::RestrictToPools;
  Index const experts = logits.extent(1);
  backend.launch(Kernel{documents.data(), probabilities.data(), logits.data(), experts, smallest, largest, random}, documents.size(),
                 static_cast<std::size_t>(Kernel::shared_bytes(experts)));
}

}  // namespace moduleformer
