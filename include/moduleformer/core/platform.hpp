// SPDX-License-Identifier: MIT
#pragma once
// The one place that asks which compiler reads us: annotations for code shared by host and device.

#if defined(__CUDACC__)
#define MODULEFORMER_HOST_DEVICE __host__ __device__
#else
#define MODULEFORMER_HOST_DEVICE
#endif

#define MODULEFORMER_RESTRICT __restrict__
