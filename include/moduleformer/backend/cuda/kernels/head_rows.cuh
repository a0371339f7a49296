// SPDX-License-Identifier: MIT
#pragma once
// A head's part of some neighbouring rows of a matrix: queries of a tile, keys or values of a block.

#include <moduleformer/backend/cuda/kernels/packs.cuh>
#include <moduleformer/core/platform.hpp>
#include <moduleformer/core/types.hpp>

namespace moduleformer::kernels {

/// Rows of a head in memory; those outside of [begin, end) are zeros. packed: packs of four may begin at every fourth
/// column.
template <class S>
struct HeadRows {
  S const* data;
  Index stride;
  int begin, end;
  bool packed;

  /// Four columns of a row, zeros beyond `width`.
  MODULEFORMER_DEVICE void load4(int row, int column, int width, float (&x)[4]) const {
    load<4>(data + row * stride + column, row >= begin && row < end ? width - column : 0, packed, x);
  }
};

}  // namespace moduleformer::kernels
