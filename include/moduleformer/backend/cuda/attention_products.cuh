// SPDX-License-Identifier: MIT
#pragma once
// Stick-breaking attention of wide heads as matrix products, for bfloat16: scores = Q K^T ; weights by rows ; Y = weights
// V, and backward dP = dY V^T, dl by rows, dQ = dl K, dK = dl^T Q, dV = weights^T dY. Scores take memory for every row
// and every key of its sequence, so a bound on the sequences' lengths must be known and small enough.

#include <moduleformer/backend/cuda/elementwise.cuh>
#include <moduleformer/backend/cuda/kernels/attention_items.cuh>
#include <moduleformer/backend/cuda/kernels/product_epilogues.cuh>
#include <moduleformer/backend/cuda/kernels/stick_breaking_rows.cuh>
#include <moduleformer/backend/cuda/kernels/stick_breaking_state.cuh>
#include <moduleformer/backend/cuda/product_launch.cuh>
#include <moduleformer/backend/workspace.hpp>

#include <algorithm>
#include <cstdint>

namespace moduleformer::detail {

/// Bytes that scores and what becomes of them may take.
inline constexpr Index most_score_bytes = Index{2} << 30;

/// Heads up to this size have fused kernels, or take them block by block.
inline constexpr Index widest_fused_head = 128;

/// The sequences' longest, as far as is known, and the elements of a row of scores; no rows: the call must go another way.
struct ScoreMatrix {
  Index longest = 0;
  Index stride = 0;
  Index rows = 0;
  kernels::ScoreRows groups{};
};
inline ScoreMatrix score_matrix(kernels::AttentionShape const& shape, Index most_keys, Index keys, Index bytes_each) {
  Index const longest = most_keys > 0 ? std::min(most_keys, keys) : keys, stride = round_up(longest, Index{128});
  Index const groups = ceil_divide(longest * shape.slots, kernels::ScoreRows::size);  // a query is a key, too
  if (shape.head_size <= widest_fused_head || shape.head_size % 8 != 0 || longest == 0 ||
      shape.rows > most_score_bytes / (bytes_each * stride))
    return {};
  return {longest, stride, shape.rows, {shape, static_cast<int>(groups)}};
}

/// Products in tiles of a schedule of attention.
template <kernels::Stored A, kernels::Stored B, class P, class Schedule, class Epilogue>
void attention_product(CudaBackend<bfloat16, P>& backend, Schedule const& schedule, kernels::Operand<bfloat16> const& a,
                       kernels::Operand<bfloat16> const& b, Epilogue const& epilogue) {
  auto const launch = [&]<class Tile>(Tile) {
    auto const kernel = product_kernel<Tile, A, B>(schedule, a, b, epilogue);
    Index const tiles = schedule.template tiles<Tile>(nullptr);
    backend.launch(kernel, std::min<Index>(tiles, Index{backend.processors()} * Tile::blocks), kernel.shared_bytes(0));
  };
  using Tiles = ProductTiles<bfloat16>;
  if constexpr (Schedule::gathers_contraction) {
    if (backend.stream().has_warpgroups()) return launch(typename Tiles::LargeContraction{});
  } else {
    if (backend.stream().has_warpgroups()) return launch(typename Tiles::LargeRows{});
  }
  launch(typename Tiles::Large{});
}

/// A head's columns of a matrix of (rows, A).
inline kernels::Operand<bfloat16> head_operand(bfloat16 const* matrix, kernels::AttentionShape const& shape, Index head) {
  return {matrix + head * shape.head_size, static_cast<int>(shape.stride()), 0, {}, true};
}

template <class P>
struct AttentionProducts {
  using S = bfloat16;
  CudaBackend<S, P>& backend;
  kernels::AttentionShape const& shape;
  ScoreMatrix const& matrix;

  [[nodiscard]] int depth() const { return shape.head_size; }
  [[nodiscard]] kernels::Operand<S> operand_of(S const* scores) const {
    return {scores, static_cast<int>(matrix.stride), 0, {}, true};
  }
  /// to = x y^T, rows of queries by rows of keys.
  void scores(S const* x, S const* y, Index head, float* to) const {
    kernels::ScoreSchedule const schedule{{}, matrix.groups, static_cast<int>(matrix.longest), depth()};
    kernels::LinearEpilogue<S, float> const epilogue{nullptr, to, static_cast<int>(matrix.stride), false, true};
    attention_product<kernels::Stored::plain, kernels::Stored::transposed>(backend, schedule, head_operand(x, shape, head),
                                                                           head_operand(y, shape, head), epilogue);
  }
  /// y = weights x.
  void weighted(S const* weights, std::int32_t const* oldest, S const* x, Index head, S* y) const {
    kernels::WeightedSchedule const schedule{{}, matrix.groups, oldest, depth()};
    kernels::LinearEpilogue<S, S> const epilogue{nullptr, y + head * shape.head_size, static_cast<int>(shape.stride()), false,
                                                 true};
    attention_product<kernels::Stored::plain, kernels::Stored::plain>(backend, schedule, operand_of(weights),
                                                                      head_operand(x, shape, head), epilogue);
  }
  /// sums += weights^T x.
  void add_transposed(S const* weights, S const* x, Index head, float* sums) const {
    kernels::KeySchedule const schedule{{}, shape, static_cast<int>(matrix.longest), depth()};
    kernels::KeyGradientEpilogue const epilogue{sums + head * shape.head_size, static_cast<int>(shape.stride()), true};
    attention_product<kernels::Stored::transposed, kernels::Stored::plain>(backend, schedule, operand_of(weights),
                                                                           head_operand(x, shape, head), epilogue);
  }
};

/// Forward; call's sums are not used.
template <class P>
void attend_by_products(CudaBackend<bfloat16, P>& backend, kernels::StickBreakingCall<bfloat16> const& call,
                        ScoreMatrix const& matrix) {
  auto& workspace = backend.workspace();
  Scope const scope{workspace};
  auto const scores = workspace.template allocate<float>(matrix.rows, matrix.stride);
  auto const weights = workspace.template allocate<bfloat16>(matrix.rows, matrix.stride);
  auto const oldest = workspace.template allocate<std::int32_t>(matrix.groups.count());
  AttentionProducts<P> const products{backend, call.shape, matrix};
  using Clear = kernels::ClearRowsOfNoSequence<kernels::StickBreakingCall<bfloat16>>;
  backend.launch(Clear{call}, ceil_divide(matrix.rows, Clear::threads));
  using Rows = kernels::StickBreakingRows;
  for (int head = 0; head < call.shape.heads; ++head) {
    products.scores(call.q, call.k, head, scores.data());
    backend.launch(Rows{{matrix.groups, head, scores.data(), weights.data(), oldest.data(), matrix.stride, call.scale},
                        call.log_stick,
                        call.stop,
                        call.log_bound},
                   matrix.groups.count(), Rows::shared_bytes);
    products.weighted(weights.data(), oldest.data(), call.v, head, call.y);
  }
}

/// Backward; of call only what forward's call has, the results and the scales are used.
template <class P>
void attend_backward_by_products(CudaBackend<bfloat16, P>& backend, kernels::StickBreakingBackwardCall<bfloat16> const& call,
                                 ScoreMatrix const& matrix) {
  using S = bfloat16;
  auto& workspace = backend.workspace();
  Scope const scope{workspace};
  auto const scores = workspace.template allocate<float>(matrix.rows, matrix.stride);
  auto const values = workspace.template allocate<float>(matrix.rows, matrix.stride);
  auto const weights = workspace.template allocate<S>(matrix.rows, matrix.stride);
  auto const slopes = workspace.template allocate<S>(matrix.rows, matrix.stride);
  auto const oldest = workspace.template allocate<std::int32_t>(matrix.groups.count());
  Index const size = call.key_rows * call.shape.stride();
  auto const zeros = [&] {
    auto const sums = workspace.template allocate<float>(size);
    fill(backend, sums, 0.0f);
    return sums;
  };
  auto const key_sums = zeros(), value_sums = call.dk == call.dv ? key_sums : zeros();
  AttentionProducts<P> const products{backend, call.shape, matrix};
  using Clear = kernels::ClearRowsOfNoSequence<kernels::StickBreakingBackwardCall<S>>;
  backend.launch(Clear{call}, ceil_divide(matrix.rows, Clear::threads));
  using Rows = kernels::StickBreakingRowsBackward;
  for (int head = 0; head < call.shape.heads; ++head) {
    products.scores(call.q, call.k, head, scores.data());
    products.scores(call.dy, call.v, head, values.data());
    backend.launch(Rows{{matrix.groups, head, scores.data(), weights.data(), oldest.data(), matrix.stride, call.logit_scale},
                        call.log_stick,
                        call.stop,
                        values.data(),
                        slopes.data(),
                        call.scale},
                   matrix.groups.count(), Rows::shared_bytes);
    products.weighted(slopes.data(), oldest.data(), call.k, head, call.dq);
    products.add_transposed(weights.data(), call.dy, head, value_sums.data());
    products.add_transposed(slopes.data(), call.q, head, key_sums.data());
  }
  using Add = kernels::AddSums<S>;
  auto const add = [&](float const* sums, S* to) {
    backend.launch(Add{sums, to, size, true}, ceil_divide(size, Add::threads * Add::pack));
  };
  add(key_sums.data(), call.dk);
  if (call.dv != call.dk) add(value_sums.data(), call.dv);
}

}  // namespace moduleformer::detail
