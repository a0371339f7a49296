// SPDX-License-Identifier: MIT
#include "folder.hpp"
#include "write_logits.hpp"

#include <fmt/core.h>

#include <functional>

namespace moduleformer {

template class Model<LanguageModelHead, dynamic_shape, dynamic_policies, Cpu<float>>;

}  // namespace moduleformer

namespace cli {

namespace mf = moduleformer;

template void write_logits<float>(LogitsOptions const&, bool);

LanguageModel<float> load_language_model(std::string const& folder, bool for_training) {
  return mf::load<LanguageModel<float>>(folder, {.map = !for_training});
}

bool is_classifier(std::string const& folder) { return mf::describe_folder(folder).classifies(); }

mf::Evaluation evaluate_held_out(LanguageModel<float> const& model, Data const& data, int threads) {
  mf::Session session{model, {.threads = threads}};
  return std::visit([&](auto const& batches) { return mf::evaluate(model, session, batches.held_out()); }, data);
}

std::vector<mf::Generated> generate_tokens(LanguageModel<float> const& model, std::vector<std::vector<mf::TokenId>> const& prompts,
                                           mf::GenerationOptions const& options,
                                           std::function<void(mf::Index, mf::TokenId)> const& on_token) {
  return mf::generate(model, prompts, options, std::cref(on_token));
}

FolderContents read_folder(std::string const& folder) {
  mf::StoredConfig stored = mf::describe_folder(folder);
  mf::TensorSource const source{mf::resolve_folder(folder)};
  auto const policies = mf::choose_policies<mf::dynamic_policies>(stored);
  mf::expect_layers(source, stored.config.layers);
  auto const table = stored.classifies() ? Classifier<float>::declare(stored.config, stored.settings, policies)
                                         : LanguageModel<float>::declare(stored.config, stored.settings, policies);
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
