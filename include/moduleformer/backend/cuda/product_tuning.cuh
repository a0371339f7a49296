// SPDX-License-Identifier: MIT
#pragma once
// Tile shapes of matrix products, as types that carry constexpr data, and their choice from the sizes of a product.
// A tile of rows x columns of the result takes `depth` terms of the contraction at a time, `stages` of them under
// way. Results of float products do not depend on the tile; those of bfloat16 products only through where a
// contraction is cut.

#include <moduleformer/backend/checks.hpp>
#include <moduleformer/core/types.hpp>

#include <algorithm>

namespace moduleformer::detail {

/// Of a float product: 16 x 16 threads, each with rows/16 x columns/16 sums; blocks that a multiprocessor holds.
template <int Rows, int Columns, int Blocks>
struct FloatTile {
  using Scalar = float;
  static constexpr int rows = Rows, columns = Columns, depth = 16, stages = 3, threads = 256, blocks = Blocks;
};

/// Of a bfloat16 product: warps that have warp_rows x warp_columns of the tile.
template <int Rows, int Columns, int WarpRows, int WarpColumns, int Stages, int Blocks>
struct TensorTile {
  using Scalar = bfloat16;
  static constexpr bool warpgroups = false;
  static constexpr int rows = Rows, columns = Columns, depth = 64, stages = Stages, blocks = Blocks;
  static constexpr int warp_rows = WarpRows, warp_columns = WarpColumns;
  static constexpr int threads = Rows / WarpRows * (Columns / WarpColumns) * 32;
};

/// Of a bfloat16 product by warpgroups, each of which has 64 rows and all columns.
template <int Rows, int Columns, int Stages, int Blocks>
struct WarpgroupTile {
  using Scalar = bfloat16;
  static constexpr bool warpgroups = true;
  static constexpr int rows = Rows, columns = Columns, depth = 64, stages = Stages, blocks = Blocks;
  static constexpr int threads = Rows / 64 * 128;
};

/// Of a product that reads its weights for up to eight rows.
template <class S, int Columns, int Threads, int Blocks>
struct FewRowsTile {
  using Scalar = S;
  static constexpr int rows = 8, columns = Columns, threads = Threads, blocks = Blocks;
};

/// Large tiles load least for each product; medium ones are for products that have few large ones; small ones
/// for a handful of rows, where the weights are all that is read.
template <class S>
struct ProductTiles {
  using Large = FloatTile<128, 128, 1>;
  using Medium = FloatTile<64, 64, 2>;
  using Small = FloatTile<16, 64, 2>;
};
template <>
struct ProductTiles<bfloat16> {
  struct Large : TensorTile<128, 128, 64, 64, 3, 2> {
    static constexpr bool only_without_warpgroups = true;
  };
  using Medium = TensorTile<64, 64, 32, 32, 3, 4>;
  using Small = TensorTile<16, 64, 16, 16, 4, 4>;
  // Instead of Large, where the device has warpgroups' products.
  using LargeRows = WarpgroupTile<128, 256, 4, 1>;         // of rows: 10 us of products for an epilogue that waits little
  using LargeContraction = WarpgroupTile<128, 128, 3, 2>;  // whose epilogue moves as many bytes as all stages
};

enum class TileSize { small, medium, large };

/// Tiles that a product should have: the multiprocessors of a large device, so that sizes alone decide.
inline constexpr Index wanted_product_tiles = 132;

/// For `rows` rows, spread over `experts`, of `columns` columns.
constexpr TileSize product_tile_size(Index rows, Index experts, Index columns) {
  Index const each = ceil_divide(rows, std::max<Index>(experts, 1));
  if (each <= 16) return TileSize::small;
  Index const tiles = ceil_divide(each, 128) * std::max<Index>(experts, 1) * ceil_divide(columns, 128);
  return each > 64 && columns > 64 && tiles >= wanted_product_tiles ? TileSize::large : TileSize::medium;
}

/// Whether a product shall read its weights for a few rows at a time: they fit into shared memory, and small tiles
/// would leave most of the device idle.
constexpr bool has_few_rows(Index rows, Index experts, Index columns, Index depth) {
  Index const used = std::min(rows, experts);
  return rows <= 8 * experts && depth <= 4096 && used * ceil_divide(columns, 64) < 4 * wanted_product_tiles;
}

/// Of a weight gradient with `matrices` matrices of rows x columns.
constexpr TileSize gradient_tile_size(Index matrices, Index rows, Index columns) {
  Index const tiles = ceil_divide(rows, 128) * ceil_divide(columns, 128) * matrices;
  return rows > 64 && columns > 64 && tiles >= wanted_product_tiles ? TileSize::large : TileSize::medium;
}

/// Parts that the contraction of a dense weight gradient is cut into where it has few tiles of `edge` squared: two tiles
/// for each multiprocessor, 512 terms or more.
constexpr Index gradient_parts(Index rows, Index columns, Index terms, Index edge) {
  Index const tiles = std::max<Index>(ceil_divide(rows, edge) * ceil_divide(columns, edge), 1);
  return std::clamp<Index>(2 * wanted_product_tiles / tiles, 1, std::max<Index>(1, terms / 512));
}
struct DenseGradientTiles {
  Index parts;
  TileSize size;
};
/// Large tiles if cutting the contraction makes enough of them.
constexpr DenseGradientTiles dense_gradient_tiles(Index rows, Index columns, Index terms) {
  Index const parts = gradient_parts(rows, columns, terms, 128);
  if (gradient_tile_size(parts, rows, columns) == TileSize::large) return {parts, TileSize::large};
  return {gradient_parts(rows, columns, terms, 64), TileSize::medium};
}

}  // namespace moduleformer::detail
