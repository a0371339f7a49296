// SPDX-License-Identifier: MIT
#pragma once
// Launching products: operands as kernels take them, the engine of a scalar, and a grid that fills the device.

#include <moduleformer/backend/arguments.hpp>
#include <moduleformer/backend/checks.hpp>
#include <moduleformer/backend/cuda/cuda.cuh>
#include <moduleformer/backend/cuda/kernels/expert_schedule.cuh>
#include <moduleformer/backend/cuda/kernels/few_rows_product.cuh>
#include <moduleformer/backend/cuda/kernels/float_product.cuh>
#include <moduleformer/backend/cuda/kernels/packs.cuh>
#include <moduleformer/backend/cuda/kernels/product.cuh>
#include <moduleformer/backend/cuda/kernels/product_epilogues.cuh>
#include <moduleformer/backend/cuda/kernels/product_operand.cuh>
#include <moduleformer/backend/cuda/kernels/tensor_product.cuh>
#include <moduleformer/backend/cuda/kernels/warpgroup_product.cuh>
#include <moduleformer/backend/cuda/product_tuning.cuh>
#include <moduleformer/core/error.hpp>

#include <algorithm>
#include <cstddef>
#include <limits>
#include <type_traits>

namespace moduleformer::detail {

/// The kernel of products in tiles of this shape.
template <class Tile, kernels::Stored A, kernels::Stored B, class Schedule, class Epilogue>
auto product_kernel(Schedule const& schedule, kernels::Operand<typename Tile::Scalar> const& a,
                    kernels::Operand<typename Tile::Scalar> const& b, Epilogue const& epilogue) {
  if constexpr (std::is_same_v<typename Tile::Scalar, float>)
    return kernels::Product<kernels::FloatProduct<Tile, A, B>, Schedule, Epilogue>{schedule, a, b, epilogue};
  else if constexpr (Tile::warpgroups)
    return kernels::WarpgroupProduct<Tile, A, B, Schedule, Epilogue>{schedule, a, b, epilogue};
  else
    return kernels::Product<kernels::TensorProduct<Tile, A, B>, Schedule, Epilogue>{schedule, a, b, epilogue};
}

/// call(tile) with the tile of this size for rows of so many experts that the device is best at. Where numbers of many
/// experts do not fit beside the stages of a large one (above 639 on devices that give a block 99 KB), a medium one.
template <CudaScalar S, class P, class Call>
auto with_row_tile(CudaBackend<S, P>& backend, TileSize size, Index experts, Call const& call) {
  using Tiles = ProductTiles<S>;
  using Large = typename Tiles::Large;
  if (size == TileSize::small) return call(typename Tiles::Small{});
  if (size == TileSize::medium) return call(typename Tiles::Medium{});
  if constexpr (std::is_same_v<S, bfloat16>)
    if (backend.stream().has_warpgroups()) return call(typename Tiles::LargeRows{});
  using Kernel = decltype(product_kernel<Large, kernels::Stored::plain, kernels::Stored::plain>(
      kernels::RowSchedule{}, kernels::Operand<S>{}, kernels::Operand<S>{}, kernels::LinearEpilogue<S, float>{}));
  if (Kernel::shared_bytes(static_cast<int>(experts)) > backend.most_shared()) return call(typename Tiles::Medium{});
  return call(Large{});
}

/// Columns of that tile.
template <CudaScalar S, class P>
Index row_tile_columns(CudaBackend<S, P>& backend, TileSize size, Index experts) {
  return with_row_tile(backend, size, experts, [](auto tile) { return Index{decltype(tile)::columns}; });
}

inline kernels::RowMap row_map(RoutingPlan const& plan, Rows rows) {
  return {rows, plan.order.data(), static_cast<int>(plan.top_k)};
}

/// Rows of a matrix from its first column on.
template <class S>
kernels::Operand<S> operand(Matrix<S const> x, kernels::RowMap map = {}, Index first_column = 0) {
  S const* const data = x.data() + first_column;
  bool const packed = kernels::may_pack<kernels::pack_size<S>>(data) && x.extent(1) % kernels::pack_size<S> == 0;
  return {data, static_cast<int>(x.extent(1)), 0, map, packed};
}
/// A matrix for each expert.
template <class S>
kernels::Operand<S> operand(TensorView<S const, 3> w) {
  bool const packed = kernels::may_pack<kernels::pack_size<S>>(w.data()) && w.extent(2) % kernels::pack_size<S> == 0;
  return {w.data(), static_cast<int>(w.extent(2)), w.extent(1) * w.extent(2), {}, packed};
}

/// Whether the epilogue may move 16 bytes of `columns` columns at a time.
template <class S, class... T>
bool packs_columns(Index columns, T const*... data) {
  return columns % kernels::pack_size<S> == 0 && kernels::may_pack<kernels::pack_size<S>>(data...);
}

/// Sizes inside of a product are int.
template <class... Sizes>
void expect_product_sizes(char const* where, Sizes... sizes) {
  constexpr Index most = std::numeric_limits<int>::max() / 2;
  for (Index const size : {static_cast<Index>(sizes)...})
    expects(size <= most, where, ": expected at most ", most, " rows and columns, found ", size);
}

/// Tiles of a schedule of rows: each expert that has any may leave one partly empty.
template <class Tile>
Index most_tiles(kernels::RowSchedule const& schedule) {
  Index const used = std::min(schedule.experts, schedule.rows);
  return (ceil_divide(schedule.rows, Tile::rows) + used - (used > 0)) * ceil_divide(schedule.columns, Tile::columns);
}

/// False, with nothing done, where a block's shared memory has no room for the rows.
template <kernels::Stored B, CudaScalar S, class P, class Epilogue>
[[nodiscard]] bool few_rows_product(CudaBackend<S, P>& backend, kernels::RowSchedule const& schedule, kernels::Operand<S> const& a,
                      kernels::Operand<S> const& b, Epilogue const& epilogue) {
  using Tile = std::conditional_t<B == kernels::Stored::plain, FewRowsTile<S, 32, 256, 2>, FewRowsTile<S, 8, 128, 4>>;
  using Kernel = kernels::FewRowsProduct<Tile, B, Epilogue>;
  std::size_t const bytes = Kernel::shared_bytes(schedule.depth, schedule.experts);
  if (bytes > backend.most_shared()) return false;
  Index const blocks = std::min<Index>(most_tiles<Tile>(schedule), Index{backend.processors()} * Tile::blocks);
  backend.launch(Kernel{schedule, a, b, epilogue}, blocks, bytes);
  return true;
}

/// C = A B, rows of C and A being slots of `schedule`.
template <kernels::Stored B, CudaScalar S, class P, class Epilogue>
void row_product(CudaBackend<S, P>& backend, kernels::RowSchedule const& schedule, kernels::Operand<S> const& a,
                 kernels::Operand<S> const& b, Epilogue const& epilogue, TileSize size) {
  if constexpr (!Epilogue::row_sums)
    if (has_few_rows(schedule.rows, schedule.experts, schedule.columns, schedule.depth) &&
        few_rows_product<B>(backend, schedule, a, b, epilogue))
      return;
  with_row_tile(backend, size, schedule.experts, [&]<class Tile>(Tile) {
    auto const kernel = product_kernel<Tile, kernels::Stored::plain, B>(schedule, a, b, epilogue);
    Index const blocks = std::min<Index>(most_tiles<Tile>(schedule), Index{backend.processors()} * Tile::blocks);
    backend.launch(kernel, blocks, kernel.shared_bytes(schedule.experts));
  });
}

/// C[batch] = A^T B over the terms of each batch. A block for each tile: their work differs as experts' counts do, and
/// the device hands them out as blocks end.
template <CudaScalar S, class P, class Epilogue>
void contraction_product(CudaBackend<S, P>& backend, kernels::ContractionSchedule const& schedule,
                         kernels::Operand<S> const& a, kernels::Operand<S> const& b, Epilogue const& epilogue,
                         TileSize size) {
  auto const launch = [&]<class Tile>(Tile) {
    auto const kernel = product_kernel<Tile, kernels::Stored::transposed, kernels::Stored::plain>(schedule, a, b, epilogue);
    Index const across = ceil_divide(schedule.columns, Tile::columns);
    backend.launch(kernel, schedule.batches * ceil_divide(schedule.rows, Tile::rows) * across, kernel.shared_bytes(0));
  };
  using Tiles = ProductTiles<S>;
  if (size != TileSize::large) return launch(typename Tiles::Medium{});
  if constexpr (std::is_same_v<S, bfloat16>)
    if (backend.stream().has_warpgroups()) return launch(typename Tiles::LargeContraction{});
  launch(typename Tiles::Large{});
}

}  // namespace moduleformer::detail
