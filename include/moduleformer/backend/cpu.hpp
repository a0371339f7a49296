// SPDX-License-Identifier: MIT
#pragma once
// The CPU backend: Cpu<float> and Cpu<double>, whole. A concept's answer is fixed where it is first asked,
// so every primitive is included here, before anything names Backend<Cpu<S>>.

#include <moduleformer/backend/backend.hpp>
#include <moduleformer/backend/cpu/cpu.hpp>
#include <moduleformer/backend/cpu/cross_entropy.hpp>
#include <moduleformer/backend/cpu/document_pool.hpp>
#include <moduleformer/backend/cpu/elementwise.hpp>
#include <moduleformer/backend/cpu/embedding.hpp>
#include <moduleformer/backend/cpu/expert_choice.hpp>
#include <moduleformer/backend/cpu/experts.hpp>
#include <moduleformer/backend/cpu/experts_backward.hpp>
#include <moduleformer/backend/cpu/gates.hpp>
#include <moduleformer/backend/cpu/instance_list.hpp>
#include <moduleformer/backend/cpu/linear.hpp>
#include <moduleformer/backend/cpu/memory.hpp>
#include <moduleformer/backend/cpu/norm.hpp>
#include <moduleformer/backend/cpu/routing.hpp>
#include <moduleformer/backend/cpu/routing_sums.hpp>
#include <moduleformer/backend/cpu/stick_breaking.hpp>
#include <moduleformer/backend/cpu/stick_breaking_backward.hpp>
#include <moduleformer/backend/cpu/stick_breaking_weights.hpp>
#include <moduleformer/backend/cpu/top_k.hpp>
#include <moduleformer/backend/cpu/update.hpp>

namespace moduleformer {

static_assert(concepts::Memory<Cpu<float>> && concepts::Dense<Cpu<float>> && concepts::Experts<Cpu<float>>);
static_assert(concepts::Elementwise<Cpu<float>> && concepts::Normalisation<Cpu<float>> && concepts::Tokens<Cpu<float>>);
static_assert(concepts::Routing<Cpu<float>> && concepts::Attention<Cpu<float>> && concepts::Update<Cpu<float>>);
static_assert(Backend<Cpu<float>> && Backend<Cpu<double>>);

#if defined(MODULEFORMER_EXTERN_TEMPLATES)  // compiled elsewhere: cpu/instantiate.hpp
MODULEFORMER_CPU_INSTANCES(extern, float)
MODULEFORMER_CPU_INSTANCES(extern, double)
#endif

}  // namespace moduleformer
