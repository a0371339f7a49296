// SPDX-License-Identifier: MIT
#include <moduleformer/moduleformer.cuh>

#include <string>

namespace mf = moduleformer;

constexpr mf::Shape shape{.vocab_size = 16, .hidden_size = 8, .layers = 1};
using Model = mf::CausalLM<shape, mf::Policies<>, mf::Cuda<mf::bfloat16>>;

std::string other() { return sizeof(Model) > 0 ? "ModuleFormer" : ""; }
