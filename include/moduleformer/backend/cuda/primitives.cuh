// SPDX-License-Identifier: MIT
#pragma once
// Every primitive of the CUDA backend: what backend/backend.hpp lists, for any platform.

#include <moduleformer/backend/backend.hpp>
#include <moduleformer/backend/cuda/cross_entropy.cuh>
#include <moduleformer/backend/cuda/cuda.cuh>
#include <moduleformer/backend/cuda/document_pool.cuh>
#include <moduleformer/backend/cuda/elementwise.cuh>
#include <moduleformer/backend/cuda/embedding.cuh>
#include <moduleformer/backend/cuda/expert_choice.cuh>
#include <moduleformer/backend/cuda/experts.cuh>
#include <moduleformer/backend/cuda/experts_backward.cuh>
#include <moduleformer/backend/cuda/gates.cuh>
#include <moduleformer/backend/cuda/linear.cuh>
#include <moduleformer/backend/cuda/memory.cuh>
#include <moduleformer/backend/cuda/norm.cuh>
#include <moduleformer/backend/cuda/routing.cuh>
#include <moduleformer/backend/cuda/routing_sums.cuh>
#include <moduleformer/backend/cuda/stick_breaking.cuh>
#include <moduleformer/backend/cuda/stick_breaking_backward.cuh>
#include <moduleformer/backend/cuda/stick_breaking_weights.cuh>
#include <moduleformer/backend/cuda/top_k.cuh>
#include <moduleformer/backend/cuda/update.cuh>
