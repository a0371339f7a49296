// SPDX-License-Identifier: MIT
// moduleformer inspect: what a model's folder holds, without reading its weights.
#include "command.hpp"
#include "models.hpp"

#include <moduleformer/io/checkpoint.hpp>
#include <moduleformer/model/count.hpp>

#include <fmt/core.h>

#include <memory>
#include <set>
#include <string>

namespace cli {
namespace {

namespace mf = moduleformer;

/// 12345678 as 12,345,678.
std::string grouped(mf::Index n) {
  std::string digits = std::to_string(n);
  for (auto i = static_cast<std::ptrdiff_t>(digits.size()) - 3; i > 0; i -= 3) digits.insert(static_cast<std::size_t>(i), ",");
  return digits;
}

/// "8", or "8 8 5 3" where layers differ.
std::string experts_text(mf::ExpertCounts const& experts) {
  if (experts.uniform()) return std::to_string(experts.smallest());
  std::string text;
  for (mf::Index const n : experts.each()) text += (text.empty() ? "" : " ") + std::to_string(n);
  return text;
}

void line(char const* name, std::string const& value) { fmt::print("{:<22}{}\n", name, value); }

void print_shape(mf::StoredConfig const& stored) {
  mf::Config const& c = stored.config;
  line("model", stored.architecture);
  line("vocabulary", std::to_string(c.vocab_size));
  line("hidden size", std::to_string(c.hidden_size));
  line("layers", std::to_string(c.layers));
  if (c.router_hidden_size > 0) line("router hidden size", std::to_string(c.router_hidden_size));
  bool const shared = c.attention.heads == 1 && c.attention.hidden_size == c.hidden_size;
  line("attention", fmt::format("{} experts, top {}, {} heads, hidden size {}{}", experts_text(c.attention.experts), c.attention.top_k,
                                c.attention.heads, c.attention.hidden_size, shared ? ", keys and values shared" : ""));
  line("feed-forward", fmt::format("{} experts, top {}, hidden size {}", experts_text(c.feed_forward.experts), c.feed_forward.top_k,
                                   c.feed_forward.hidden_size));
  if (stored.classifies()) line("labels", std::to_string(c.labels));
  std::string ids;
  for (auto const& [name, id] : {std::pair{"pad", c.pad_token_id}, {"bos", c.bos_token_id}, {"eos", c.eos_token_id}})
    if (id >= 0) ids += fmt::format("{}{} {}", ids.empty() ? "" : ", ", name, id);
  if (!ids.empty()) line("special ids", ids);
}

void print_policies(mf::StoredConfig const& stored) {
  for (auto const& [role, policy] : stored.policies) {
    std::string text = policy.name;
    for (auto const& [key, number] : policy.numbers) text += fmt::format(" {}={}", key, number);
    line(role.c_str(), text);
  }
  mf::Settings::visit(stored.settings, [](char const* key, auto const& value) { line(key, fmt::format("{}", value)); });
}

struct Inspect {
  std::string model;
  mf::Index window = 512;
  bool tensors = false;

  explicit Inspect(CLI::App& command) {
    command.add_option("--model", model, "folder of the model")->required()->type_name("DIR");
    command.add_option("--window", window, "tokens of the sequences that FLOPs are counted for")
        ->capture_default_str()
        ->check(CLI::PositiveNumber)
        ->type_name("INTEGER");
    command.add_flag("--tensors", tensors, "list every tensor");
  }

  int run() {
    mf::StoredConfig const stored = mf::describe_folder(model);
    mf::TensorSource const source{mf::resolve_folder(model)};
    auto const policies = mf::choose_policies<mf::dynamic_policies>(stored);
    auto const table = stored.classifies() ? Classifier<float>::declare(stored.config, stored.settings, policies)
                                           : LanguageModel<float>::declare(stored.config, stored.settings, policies);
    mf::expect_layers(source, stored.config.layers);
    mf::expect_tensors(source, table, false);

    print_shape(stored);
    print_policies(stored);
    mf::Index const outputs = stored.classifies() ? stored.config.labels : stored.config.vocab_size;
    mf::Counts const counts = mf::count(stored.config, policies, outputs);
    mf::Index bytes = 0;
    std::set<std::string> types;
    for (mf::Segment const& segment : table.segments()) {
      mf::StoredTensor const& tensor = source.at(segment.name);
      bytes += tensor.end - tensor.begin;
      types.emplace(tensor.data_type.name);
    }
    std::string type_names;
    for (auto const& type : types) type_names += " " + type;
    line("parameters", grouped(counts.parameters));
    line("active per token", fmt::format("{} ({:.1f} %)", grouped(counts.active_parameters),
                                         100.0 * static_cast<double>(counts.active_parameters) / static_cast<double>(counts.parameters)));
    line("bytes", fmt::format("{} in the file ({}), {} in memory", grouped(bytes), type_names.substr(1), grouped(4 * counts.parameters)));
    line("FLOPs per token", fmt::format("{:.4g} forward, {:.4g} with backward, mean over {} tokens", counts.mean_forward_flops(window),
                                        counts.mean_training_flops(window), window));
    auto const obstacle = stored.published_obstacle();
    line("published code", obstacle.empty() ? "can load this folder" : "cannot load this folder: " + obstacle);
    if (tensors)
      for (mf::Segment const& segment : table.segments())
        fmt::print("{:<60} {:<5} {}\n", segment.name, source.at(segment.name).data_type.name, mf::shape_text(segment.shape));
    return success;
  }
};

}  // namespace

Command inspect_command(CLI::App& app) {
  auto* const command = app.add_subcommand("inspect", "Describe a model: sizes, policies, parameters, bytes, FLOPs per token.");
  auto const inspect = std::make_shared<Inspect>(*command);
  return {command, [inspect] { return inspect->run(); }};
}

}  // namespace cli
