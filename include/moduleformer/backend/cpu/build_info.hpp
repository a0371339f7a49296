// SPDX-License-Identifier: MIT
#pragma once
// build_info(): how the including program was compiled: version, compiler, instruction set, products.

#include <moduleformer/version.hpp>

#include <string>

namespace moduleformer {

/// For logs and benchmarks, e.g. "moduleformer 0.1.0, g++ 12.2.0, AVX-512, products by Eigen".
inline std::string build_info() {
  std::string info = "moduleformer " + std::to_string(MODULEFORMER_VERSION_MAJOR) + "." +
                     std::to_string(MODULEFORMER_VERSION_MINOR) + "." + std::to_string(MODULEFORMER_VERSION_PATCH);
#if defined(__clang__)
  info += ", clang++ " __clang_version__;
#elif defined(__GNUC__)
  info += ", g++ " __VERSION__;
#endif
#if defined(__AVX512F__)
  info += ", AVX-512";
#elif defined(__AVX2__) && defined(__FMA__)
  info += ", AVX2 with FMA";
#elif defined(__AVX__)
  info += ", AVX";
#else
  info += ", portable instructions";
#endif
#if defined(MODULEFORMER_USE_OPENBLAS)
  info += ", products by OpenBLAS";
#elif defined(MODULEFORMER_USE_MKL)
  info += ", products by MKL";
#elif defined(MODULEFORMER_USE_BLIS)
  info += ", products by BLIS";
#elif defined(MODULEFORMER_USE_CBLAS)
  info += ", products by a CBLAS";
#else
  info += ", products by Eigen";
#endif
  return info;
}

}  // namespace moduleformer
