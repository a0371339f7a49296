// SPDX-License-Identifier: MIT
#pragma once
// The program's models: sizes and policies are known at run time only, so that any folder of the published
// layout fits. What is done with them is compiled once, in models_float.cpp and models_double.cpp.

#include <moduleformer/model/causal_lm.hpp>
#include <moduleformer/model/generation.hpp>
#include <moduleformer/model/sequence_classifier.hpp>
#include <moduleformer/training/data.hpp>
#include <moduleformer/training/evaluation.hpp>

#include <functional>
#include <string>
#include <variant>
#include <vector>

namespace cli {

template <class S>
using LanguageModel = moduleformer::CausalLM<moduleformer::dynamic_shape, moduleformer::dynamic_policies, moduleformer::Cpu<S>>;
template <class S>
using Classifier =
    moduleformer::SequenceClassifier<moduleformer::dynamic_shape, moduleformer::dynamic_policies, moduleformer::Cpu<S>>;

/// Text or ids.
using Data = std::variant<moduleformer::ByteBatches, moduleformer::TokenBatches>;

/// For training the values are copied into memory, else they stay in the mapped file.
LanguageModel<float> load_language_model(std::string const& folder, bool for_training);

moduleformer::Evaluation evaluate_held_out(LanguageModel<float> const& model, Data const& data, int threads);

/// Calls on_token(sequence, id) for each new token.
std::vector<moduleformer::Generated> generate_tokens(LanguageModel<float> const& model,
                                                     std::vector<std::vector<moduleformer::TokenId>> const& prompts,
                                                     moduleformer::GenerationOptions const& options,
                                                     std::function<void(moduleformer::Index, moduleformer::TokenId)> const& on_token);

struct LogitsOptions {
  std::string model, input, output;
  bool gradients = false, in_double = false;
  int threads = 0;
};
/// Whether a folder holds a classifier.
bool is_classifier(std::string const& folder);
/// Reads the input, runs the model of the folder, writes the output. Throws Error.
template <class S>
void write_logits(LogitsOptions const& options, bool classifies);

}  // namespace cli

namespace moduleformer {

extern template class Model<LanguageModelHead, dynamic_shape, dynamic_policies, Cpu<float>>;

}  // namespace moduleformer
