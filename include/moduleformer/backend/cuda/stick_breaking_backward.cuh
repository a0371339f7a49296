// SPDX-License-Identifier: MIT
#pragma once
// Stick-breaking attention, backward, on the CUDA backend: a pass over tiles of queries and one over blocks of keys
// (kernels/stick_breaking_backward.cuh); of heads above 128, matrix products (attention_products.cuh). The same call gives
// the same bits, but for such heads where three or more sequences share keys: their sums meet in any order.

#include <moduleformer/backend/cuda/kernels/stick_breaking_backward.cuh>
#include <moduleformer/backend/cuda/kernels/stick_breaking_tensor_backward.cuh>
#include <moduleformer/backend/cuda/kernels/stick_breaking_warpgroup_backward.cuh>
#include <moduleformer/backend/cuda/kernels/stick_breaking_warpgroup_keys.cuh>
#include <moduleformer/backend/cuda/stick_breaking.cuh>

#include <algorithm>
#include <cstdint>
#include <type_traits>

namespace moduleformer {

namespace detail {

/// Memory for the states of rows between the passes: four times that of q, which is one state for every 64 keys up to
/// 64 d keys of bfloat16, and at least 64 MiB.
inline Index attention_state_bytes(Index query_bytes) { return std::max(Index{64} << 20, 4 * query_bytes); }

/// Allocates states: never less than one for each row, never more than there can be blocks.
template <class Memory>
kernels::StatePlaces allocate_states(Workspace<Memory>& workspace, kernels::AttentionShape const& shape, Index keys,
                                     Index bytes) {
  Index const tiles = most_tiles(shape, kernels::state_rows);
  Index const useful = shape.rows * (keys / kernels::state_keys + 2);
  Index const affordable = bytes / (shape.heads * static_cast<Index>(sizeof(kernels::RowState)));
  Index const capacity = std::max(shape.rows, std::min(useful, affordable));
  return {workspace.template allocate<kernels::RowState>(shape.heads, capacity).data(),
          workspace.template allocate<std::int32_t>(shape.heads, tiles).data(),
          workspace.template allocate<Index>(shape.sequence_count).data(),
          workspace.template allocate<Index>(shape.sequence_count).data(),
          workspace.template allocate<int>(1).data(),
          capacity,
          tiles};
}

template <CudaScalar S, class P>
void attend_backward(CudaBackend<S, P>& backend, StickBreakingVariant variant, AttentionExtents const& extents,
                     Vector<Sequence const> sequences, Matrix<S const> dy, Matrix<S const> q, Matrix<S const> k,
                     Matrix<S const> v, Matrix<float const> log_stick, Matrix<std::int32_t const> stop, Matrix<S> dq,
                     Matrix<S> dk, Matrix<S> dv, Index state_bytes) {
  constexpr char const* where = "stick_breaking_backward";
  auto const shape = attention_shape<S>(where, variant, extents, sequences, q, k, v);
  expect_extents(where, "dy", dy, q.extent(0), q.extent(1));
  expect_extents(where, "log_stick", log_stick, q.extent(0), extents.heads);
  expect_extents(where, "stop", stop, q.extent(0), extents.heads);
  expect_extents(where, "dq", dq, q.extent(0), q.extent(1));
  expect_extents(where, "dk", dk, k.extent(0), k.extent(1));
  expect_extents(where, "dv", dv, v.extent(0), v.extent(1));
  if (q.extent(0) == 0) return;

  using Units = AttentionUnits<S>;
  auto& workspace = backend.workspace();
  Scope const scope{workspace};
  bool const aligned = kernels::may_pack<8>(dy.data(), q.data(), k.data(), v.data(), dq.data(), dk.data(), dv.data());
  ScoreMatrix const matrix = std::is_same_v<S, bfloat16> && aligned
                                 ? score_matrix(shape, extents.most_keys, k.extent(0), 12) : ScoreMatrix{};
  kernels::StickBreakingBackwardCall<S> call{
      shape,
      dy.data(),
      q.data(),
      k.data(),
      v.data(),
      log_stick.data(),
      stop.data(),
      dq.data(),
      dk.data(),
      dv.data(),
      nullptr,
      nullptr,
      nullptr,
      variant.keep_remainder && matrix.rows == 0 ? workspace.template allocate<float>(shape.rows, extents.heads).data() : nullptr,
      matrix.rows == 0 ? allocate_states(workspace, shape, k.extent(0), state_bytes) : kernels::StatePlaces{},
      attention_scale<Units>(extents.head_size),
      attention_scale<kernels::NaturalUnits>(extents.head_size),
      false,
      k.extent(0)};
  if constexpr (std::is_same_v<S, bfloat16>)
    if (matrix.rows > 0) return attend_backward_by_products(backend, call, matrix);
  backend.launch(kernels::PlanStates{shape, call.places}, 1);
  auto const over_queries = [&]<class Kernel>(Kernel const& kernel, std::size_t bytes) {
    backend.launch(kernel, call.template query_blocks<Kernel::threads>(), bytes);
  };
  auto const over_keys = [&](auto const& kernel, std::size_t bytes) { backend.launch(kernel, call.key_blocks(), bytes); };
  bool only_keys_are_left = false;  // wide heads take more shared memory than 8.6, 8.9 and 12.x have
  if constexpr (std::is_same_v<S, bfloat16>) {
    bool const has_kernels = aligned && with_tensor_head(extents.head_size, [&](auto d) {
      if (backend.stream().has_warpgroups()) {
        using Queries = kernels::StickBreakingWarpgroupQueryGradient<d>;
        using Keys = kernels::StickBreakingWarpgroupKeyGradient<d>;
        Index const tiles = most_tiles(shape, Queries::size);
        backend.launch(Queries{call, tiles}, tiles * shape.heads + ceil_divide(shape.rows, Queries::threads),
                       Queries::shared_bytes);
        return over_keys(Keys{call}, Keys::shared_bytes);
      }
      using Queries = kernels::StickBreakingTensorQueryGradient<d>;
      using Keys = kernels::StickBreakingTensorKeyGradient<d>;
      over_queries(Queries{call}, Queries::shared_bytes);
      only_keys_are_left = Keys::shared_bytes > backend.most_shared();
      if (!only_keys_are_left) over_keys(Keys{call}, Keys::shared_bytes);
    });
    if (has_kernels && !only_keys_are_left) return;
  }
  with_attention_product<S>(extents.head_size, aligned, [&]<class Product>() {
    using Queries = kernels::StickBreakingQueryGradient<Product, Units>;
    using Keys = kernels::StickBreakingKeyGradient<Product, Units>;
    if (extents.head_size > Queries::size) {
      auto const sums_of = [&](Matrix<S> result) {
        if constexpr (std::is_same_v<S, float>) return result.data();
        else return workspace.template allocate<float>(result.size()).data();
      };
      if (!only_keys_are_left) call.dq_sums = sums_of(dq);
      call.dk_sums = sums_of(dk);
      call.dv_sums = dk.data() == dv.data() ? call.dk_sums : sums_of(dv);
    }
    call.packed = extents.head_size % 4 == 0 &&
                  kernels::may_pack<4>(dy.data(), q.data(), k.data(), v.data(), dq.data(), dk.data(), dv.data(),
                                       call.dq_sums, call.dk_sums, call.dv_sums);
    constexpr std::size_t bytes = Queries::shared_floats * sizeof(float);
    if (!only_keys_are_left) over_queries(Queries{{call}}, bytes);
    over_keys(Keys{{call}}, bytes);
  });
}

}  // namespace detail

/// dq (P,A) =, dk and dv (rows,A) += from dy (P,A), forward's inputs, log_stick and stop; dk and dv may be one matrix.
/// Rows of dq in no sequence become 0. Sequences may share keys. Where a sequence's keys begin, modulo 64, may change
/// the last bits; what other sequences there are does not, unless the memory for states runs short.
template <CudaScalar S, class P>
void stick_breaking_backward(CudaBackend<S, P>& backend, StickBreakingVariant variant, AttentionExtents extents,
                             Vector<Sequence const> sequences, Arg<Matrix<S const>> dy, Arg<Matrix<S const>> q,
                             Arg<Matrix<S const>> k, Arg<Matrix<S const>> v, Arg<Matrix<float const>> log_stick,
                             Matrix<std::int32_t const> stop, Arg<Matrix<S>> dq, Arg<Matrix<S>> dk, Arg<Matrix<S>> dv) {
  detail::attend_backward<S>(backend, variant, extents, sequences, dy, q, k, v, log_stick, stop, dq, dk, dv,
                             detail::attention_state_bytes(q.size() * static_cast<Index>(sizeof(S))));
}

}  // namespace moduleformer
