// SPDX-License-Identifier: MIT
#pragma once
// A BLAS's matrix product for gemm.hpp, with MODULEFORMER_USE_CBLAS. It must stay on the calling thread, for which
// MODULEFORMER_USE_OPENBLAS, _MKL or _BLIS says whom to tell.

#include <moduleformer/backend/cpu/large_product.hpp>
#include <moduleformer/backend/cpu/narrow_product.hpp>
#include <moduleformer/core/types.hpp>

#if defined(MODULEFORMER_USE_MKL)
#include <mkl_cblas.h>
#else
#include <cblas.h>
#endif

#include <type_traits>

#if defined(MODULEFORMER_USE_OPENBLAS)
extern "C" void openblas_set_num_threads(int);
#elif defined(MODULEFORMER_USE_MKL)
extern "C" int MKL_Set_Num_Threads_Local(int);
#elif defined(MODULEFORMER_USE_BLIS)
#include <blis.h>
#endif

namespace moduleformer::detail {

inline void keep_blas_sequential() {
#if defined(MODULEFORMER_USE_OPENBLAS)
  static bool const once = (openblas_set_num_threads(1), true);
  static_cast<void>(once);
#elif defined(MODULEFORMER_USE_MKL)
  thread_local bool const once = (MKL_Set_Num_Threads_Local(1), true);
  static_cast<void>(once);
#elif defined(MODULEFORMER_USE_BLIS)
  thread_local bool const once = (bli_thread_set_num_threads(1), true);
  static_cast<void>(once);
#endif
}

template <Real S>
void large_product(Trans trans_a, Trans trans_b, Index m, Index n, Index k, S alpha, S const* a, Index lda, S const* b,
                   Index ldb, S beta, S* c, Index ldc, S*) {
  keep_blas_sequential();
  auto const side = [](Trans trans) { return trans == Trans::yes ? CblasTrans : CblasNoTrans; };
  auto const narrow = [](Index i) { return static_cast<int>(i); };
  if constexpr (std::is_same_v<S, float>)
    cblas_sgemm(CblasRowMajor, side(trans_a), side(trans_b), narrow(m), narrow(n), narrow(k), alpha, a, narrow(lda), b,
                narrow(ldb), beta, c, narrow(ldc));
  else
    cblas_dgemm(CblasRowMajor, side(trans_a), side(trans_b), narrow(m), narrow(n), narrow(k), alpha, a, narrow(lda), b,
                narrow(ldb), beta, c, narrow(ldc));
}

}  // namespace moduleformer::detail
