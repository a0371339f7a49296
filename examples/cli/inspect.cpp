// SPDX-License-Identifier: MIT
// moduleformer inspect: what a model's folder holds, without reading its weights.
#include "command.hpp"
#include "folder.hpp"
#include "values.hpp"

#include <fmt/format.h>

#include <memory>
#include <set>
#include <string>
#include <string_view>
#include <utility>

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

void print_shape(FolderContents const& stored) {
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
  for (auto const& [name, att, mlp] : {std::tuple{"dormant experts", &c.attention.dormant, &c.feed_forward.dormant},
                                       {"removed, rows kept", &c.attention.removed, &c.feed_forward.removed}})
    if (att->largest() > 0 || mlp->largest() > 0)
      line(name, fmt::format("{} attention, {} feed-forward", experts_text(*att), experts_text(*mlp)));
  if (stored.classifies()) line("labels", std::to_string(c.labels));
  std::string ids;
  for (auto const& [name, id] : {std::pair{"pad", c.pad_token_id}, {"bos", c.bos_token_id}, {"eos", c.eos_token_id}})
    if (id >= 0) ids += fmt::format("{}{} {}", ids.empty() ? "" : ", ", name, id);
  if (!ids.empty()) line("special ids", ids);
}

struct Inspect {
  std::string model;
  mf::Index window = 512;
  bool tensors = false;

  explicit Inspect(CLI::App& command) {
    command.add_option("--model", model, "folder of the model")->required()->check(named())->type_name("DIR");
    command.add_option("--window", window, "tokens of the sequences that FLOPs are counted for")
        ->capture_default_str()
        ->check(integer(1, largest_size))
        ->type_name("INTEGER");
    command.add_flag("--tensors", tensors, "list every tensor");
  }

  int run() const {
    FolderContents const contents = read_folder(model);
    print_shape(contents);
    for (auto const& [role, policy] : contents.policies) line(role.c_str(), policy);
    auto const print = [](char const* key, auto const& value) { line(key, fmt::format("{}", value)); };
    mf::Settings::visit(contents.settings, print);
    mf::Settings::visit_own(contents.settings, print);

    mf::Counts const& counts = contents.counts;
    mf::Index bytes = 0;
    std::set<std::string_view> types;
    for (auto const& tensor : contents.tensors) {
      bytes += tensor.bytes;
      types.insert(tensor.type);
    }
    line("parameters", grouped(counts.parameters));
    line("active per token", fmt::format("{} ({:.1f} %)", grouped(counts.active_parameters),
                                         100.0 * static_cast<double>(counts.active_parameters) / static_cast<double>(counts.parameters)));
    line("bytes", fmt::format("{} in the file ({}), {} in memory", grouped(bytes), fmt::join(types, " "), grouped(4 * counts.parameters)));
    line("FLOPs per token", fmt::format("{:.4g} forward, {:.4g} with backward, mean over {} tokens", counts.mean_forward_flops(window),
                                        counts.mean_training_flops(window), window));
    auto const& obstacle = contents.published_obstacle;
    line("published code", obstacle.empty() ? "can load this folder" : "cannot load this folder: " + obstacle);
    if (tensors)
      for (auto const& tensor : contents.tensors) fmt::print("{:<60} {:<5} {}\n", tensor.name, tensor.type, tensor.shape);
    return success;
  }
};

}  // namespace

Run set_up_inspect(CLI::App& command) {
  return [inspect = std::make_shared<Inspect>(command)] { return inspect->run(); };
}

}  // namespace cli
