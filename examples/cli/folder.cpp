// SPDX-License-Identifier: MIT
#include "folder.hpp"

#include <moduleformer/io/checkpoint.hpp>
#include <moduleformer/model/causal_lm.hpp>
#include <moduleformer/model/sequence_classifier.hpp>

#include <fmt/core.h>

namespace cli {

namespace mf = moduleformer;

bool is_classifier(std::string const& folder) { return mf::describe_folder(folder).classifies(); }

FolderContents read_folder(std::string const& folder) {
  using LanguageModel = mf::CausalLM<mf::dynamic_shape, mf::dynamic_policies>;
  using Classifier = mf::SequenceClassifier<mf::dynamic_shape, mf::dynamic_policies>;
  mf::StoredConfig stored = mf::describe_folder(folder);
  mf::TensorSource const source{mf::resolve_folder(folder)};
  auto const policies = mf::choose_policies<mf::dynamic_policies>(stored);
  mf::expect_layers(source, stored.config.layers);
  auto const table = stored.classifies() ? Classifier::declare(stored.config, stored.settings, policies)
                                         : LanguageModel::declare(stored.config, stored.settings, policies);
  mf::expect_tensors(source, table, false);
  FolderContents contents{.config = stored.config,
                          .settings = stored.settings,
                          .architecture = stored.architecture,
                          .published_obstacle = stored.published_obstacle()};
  contents.counts = mf::count(stored.config, policies, stored.classifies() ? stored.config.labels : stored.config.vocab_size);
  for (auto const& [role, policy] : stored.policies) {
    std::string text = policy.name;
    for (auto const& [key, number] : policy.numbers) text += fmt::format(" {}={}", key, number);
    contents.policies.emplace_back(role, text);
  }
  for (mf::Segment const& segment : table.segments()) {
    mf::StoredTensor const& tensor = source.at(segment.name);
    contents.tensors.push_back({segment.name, tensor.data_type.name, mf::shape_text(segment.shape), tensor.end - tensor.begin});
  }
  return contents;
}

}  // namespace cli
