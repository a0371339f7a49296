// SPDX-License-Identifier: MIT
#pragma once
// The program's models: sizes and policies are known at run time only, so that any folder of the published
// layout fits. Their code is compiled once, in models_float.cpp and models_double.cpp.

#include <moduleformer/model/causal_lm.hpp>
#include <moduleformer/model/sequence_classifier.hpp>

namespace cli {

template <class S>
using LanguageModel = moduleformer::CausalLM<moduleformer::dynamic_shape, moduleformer::dynamic_policies, moduleformer::Cpu<S>>;
template <class S>
using Classifier =
    moduleformer::SequenceClassifier<moduleformer::dynamic_shape, moduleformer::dynamic_policies, moduleformer::Cpu<S>>;

}  // namespace cli

namespace moduleformer {

extern template class Model<LanguageModelHead, dynamic_shape, dynamic_policies, Cpu<float>>;
extern template class Model<LanguageModelHead, dynamic_shape, dynamic_policies, Cpu<double>>;
extern template class Model<ClassificationHead, dynamic_shape, dynamic_policies, Cpu<float>>;
extern template class Model<ClassificationHead, dynamic_shape, dynamic_policies, Cpu<double>>;

}  // namespace moduleformer
