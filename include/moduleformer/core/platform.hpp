// SPDX-License-Identifier: MIT
#pragma once
// The one place that asks which compiler reads us: annotations for code shared by host and device.

#if defined(__CUDACC__)
#define MODULEFORMER_HOST_DEVICE __host__ __device__
#define MODULEFORMER_DEVICE __device__
#define MODULEFORMER_UNROLL _Pragma("unroll")
#define MODULEFORMER_NO_UNROLL _Pragma("unroll 1")
#else
#define MODULEFORMER_HOST_DEVICE
#define MODULEFORMER_DEVICE
#define MODULEFORMER_UNROLL
#define MODULEFORMER_NO_UNROLL
#endif

#define MODULEFORMER_RESTRICT __restrict__

// Where a fused multiply-add is one instruction; elsewhere std::fma would be a call.
#if defined(__FMA__) || defined(__ARM_FEATURE_FMA) || defined(__CUDA_ARCH__)
#define MODULEFORMER_FAST_FMA 1
#else
#define MODULEFORMER_FAST_FMA 0
#endif
