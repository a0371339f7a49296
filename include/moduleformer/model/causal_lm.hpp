// SPDX-License-Identifier: MIT
#pragma once
// The language model of arXiv 2306.04640: Model with an untied head over the vocabulary.

#include <moduleformer/backend/default.hpp>
#include <moduleformer/model/model.hpp>

namespace moduleformer {

/// mf::CausalLM<shape>, mf::CausalLM<shape, mf::Policies<...>>, ... on another backend; for folders of
/// unknown shape mf::CausalLM<mf::dynamic_shape, mf::dynamic_policies>.
template <Shape shape, class PolicySet = Policies<>, Backend B = DefaultBackend>
using CausalLM = Model<LanguageModelHead, shape, PolicySet, B>;

}  // namespace moduleformer
