// SPDX-License-Identifier: MIT
#pragma once
// What gemm.hpp leaves to a library: the declaration that eigen_product.hpp or blas_product.hpp defines, and
// from how many rows on.

#include <moduleformer/backend/cpu/narrow_product.hpp>
#include <moduleformer/backend/cpu/parallel.hpp>
#include <moduleformer/core/types.hpp>

#include <type_traits>

namespace moduleformer::detail {

/// Largest block sizes: a panel of k x n of B lies in the second-level cache, m x k of A beside it. They bound
/// the packing buffers.
template <Real S>
struct LargeBlocks {
  static constexpr Index k = 256;
  static constexpr Index n = std::is_same_v<S, float> ? 480 : 240;
  static constexpr Index m = 512;
};

/// Products of more rows are a library's, which packs A too. A BLAS was the user's choice and is about as fast
/// from here on; Eigen is not faster than our panels as long as A fits the second-level cache.
#if defined(MODULEFORMER_USE_CBLAS)
inline constexpr Index own_rows = 64;
#else
inline constexpr Index own_rows = 512;
#endif

/// The product of gemm.hpp; scratch as gemm_scratch says.
template <Real S>
void large_product(Trans trans_a, Trans trans_b, Index m, Index n, Index k, S alpha, S const* a, Index lda, S const* b,
                   Index ldb, S beta, S* c, Index ldc, S* scratch);

}  // namespace moduleformer::detail
