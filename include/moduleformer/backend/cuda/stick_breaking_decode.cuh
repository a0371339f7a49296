// SPDX-License-Identifier: MIT
#pragma once
// Attention of few rows over many keys on the CUDA backend (kernels/stick_breaking_decode.cuh): how the keys are
// shared. All sizes follow from the call's shapes, so that the bits do not depend on the device.

#include <moduleformer/backend/cuda/cuda.cuh>
#include <moduleformer/backend/cuda/kernels/stick_breaking_decode.cuh>

#include <algorithm>
#include <cstddef>

namespace moduleformer::detail {

/// Whether a call's sequences have few rows each, as far as the host can know.
inline bool is_narrow(kernels::AttentionShape const& shape) {
  return shape.rows <= Index{2} * kernels::narrow_rows * shape.sequence_count &&
         shape.head_size <= kernels::narrow_widest;
}

template <class Units, CudaScalar S, class P>
void attend_narrow(CudaBackend<S, P>& backend, kernels::StickBreakingCall<S> call) {
  kernels::AttentionShape const& shape = call.shape;
  call.tiles = shape.rows / kernels::narrow_rows + shape.sequence_count;
  Index const units = call.tiles * shape.heads;
  auto const launch = [&]<int block_keys>() {
    using Newest = kernels::StickBreakingNarrow<S, Units, block_keys, true>;
    using Older = kernels::StickBreakingNarrow<S, Units, block_keys, false>;
    using Join = kernels::StickBreakingNarrowJoin<S, Units>;
    // About 64 Ki elements of the newest keys at once; about a thousand blocks for the others.
    int const newest = std::clamp(65536 / shape.head_size / block_keys, 1, 4) * block_keys;
    int const parts = static_cast<int>(std::clamp<Index>(1024 / units, 1, 64));
    Scope const scope{backend.workspace()};
    auto& workspace = backend.workspace();
    kernels::NarrowCall<S> const narrow{
        call,
        workspace.template allocate<float>(units * (parts + 1), kernels::narrow_rows, shape.head_size).data(),
        workspace.template allocate<float>(units * (parts + 1), kernels::narrow_rows).data(),
        workspace.template allocate<int>(units * (parts + 1)).data(),
        parts,
        newest,
        block_keys};
    std::size_t const bytes = Newest::shared_bytes(shape.head_size);
    backend.launch(Newest{narrow}, units + ceil_divide(shape.rows, Newest::threads), bytes);
    backend.launch(Older{narrow}, units * parts, bytes);
    backend.launch(Join{narrow}, units);
  };
  if (shape.head_size <= 256) launch.template operator()<256>();
  else launch.template operator()<64>();
}

}  // namespace moduleformer::detail
