// SPDX-License-Identifier: MIT
// moduleformer extend, prune, extract, insert: a model with more or fewer experts, in a new folder. The model that is read
// stays as it is.
#include "command.hpp"
#include "devices.hpp"
#include "scored_text.hpp"
#include "train_options.hpp"
#include "values.hpp"

#include <moduleformer/model/count.hpp>
#include <moduleformer/modular/insert.hpp>
#include <moduleformer/modular/prune.hpp>

#include <CLI/CLI.hpp>
#include <fmt/core.h>

#include <filesystem>
#include <memory>
#include <optional>
#include <string>
#include <vector>

namespace cli {
namespace {

namespace mf = moduleformer;
namespace fs = std::filesystem;

/// A model, and the folder for what becomes of it.
struct Operation {
  std::string model, out;
  DeviceOptions device;

  void add_options(CLI::App& command) {
    command.add_option("--model", model, "folder of the model")->required()->check(named())->type_name("DIR");
    command.add_option("--out", out, "folder for the new model; it must not exist")
        ->required()
        ->check(named())
        ->type_name("DIR");
    add_device_options(command, device);
  }
  [[nodiscard]] std::unique_ptr<LanguageModel> load() const {
    if (fs::exists(out)) throw UsageError(out + ": exists already; a changed model needs a folder of its own");
    fs::path const parent = fs::absolute(out).lexically_normal().parent_path();
    mf::expects(fs::is_directory(parent), out, ": the folder ", parent, " does not exist");
    return find_device(device).load(model, false);
  }
  static mf::Counts count(LanguageModel const& of) { return mf::count(of.config(), of.policies(), of.config().vocab_size); }
  void finish(LanguageModel const& before, LanguageModel const& after) const {
    // What the weights learnt from stays what texts are cut into.
    after.save(out, stored_window(model));
    fmt::print("{}: {} parameters, {} active per token; {} had {}, {}\n", out, count(after).parameters,
               count(after).active_parameters, model, count(before).parameters, count(before).active_parameters);
  }
};

mf::ExpertLayer layer_of(mf::Index layer, std::string const& kind) { return {.layer = layer, .attention = kind == "attention"}; }

CLI::Option* add_kind(CLI::App& command, std::string& kind) {
  return command.add_option("--kind", kind, "of the layer's experts")
      ->capture_default_str()
      ->check(CLI::IsMember({"attention", "feed-forward"}));
}

struct Extend {
  Operation operation;
  mf::InsertOptions insert;
  std::string initial = "fresh";
  ScoredText text;
  bool activate = false;

  explicit Extend(CLI::App& command) {
    operation.add_options(command);
    auto const count = [&](char const* name, mf::Index& value, char const* what) {
      command.add_option(name, value, what)
          ->capture_default_str()
          ->check(integer(0, most_experts))
          ->type_name("INTEGER");
    };
    count("--attention", insert.attention, "new attention experts of a layer");
    count("--feed-forward", insert.feed_forward, "new feed-forward experts of a layer");
    command.add_option("--layers", insert.layers, "of these layers, from 0; all by default")
        ->delimiter(',')
        ->check(integer(0, largest_size))
        ->type_name("INTEGER");
    command.add_option("--initial", initial, "what new experts start as; copies of those that --data uses most")
        ->capture_default_str()
        ->check(CLI::IsMember({"fresh", "copies", "mean"}));
    command.add_option("--seed", insert.seed, "of fresh experts and new rows of routers")
        ->capture_default_str()
        ->check(seed())
        ->type_name("INTEGER");
    command.add_flag("--activate", activate, "let them take part at once; results change");
    add_scored_text_options(command, text);
  }

  int run() {
    if (insert.attention + insert.feed_forward == 0) throw UsageError("expected --attention or --feed-forward, a number of new experts");
    bool const copies = initial == "copies", has_text = !text.data.files.empty() || !text.data.ids.empty();
    if (copies != has_text) throw UsageError("--data or --tokens: expected with --initial copies, and only there");
    insert.initial = copies ? mf::NewExperts::copies_of_most_used : initial == "mean" ? mf::NewExperts::mean : mf::NewExperts::fresh;
    auto const model = operation.load();
    if (copies)
      for (auto const& router : model->evaluate(text.read(*model, operation.model), operation.device.threads).routers)
        insert.load.push_back(router.routed_load());
    operation.finish(*model, *model->grown(insert, activate));
    return success;
  }
};

struct Prune {
  Operation operation;
  ScoredText text;
  std::optional<double> threshold, keep, keep_of_all;
  std::string by = "frequency", rows = "drop";
  bool merge = false;

  explicit Prune(CLI::App& command) {
    operation.add_options(command);
    add_scored_text_options(command, text);
    auto* const ways = command.add_option_group("which experts stay");
    ways->add_option("--threshold", threshold, "those whose use is at least this")
        ->check(number({0, 1}))
        ->type_name("NUMBER");
    ways->add_option("--keep", keep, "this fraction of each router's, the most used")
        ->check(number({0, 1}))
        ->type_name("NUMBER");
    ways->add_option("--keep-of-all", keep_of_all,
                     "this fraction of all of the model's, relative to a router's mean use")
        ->check(number({0, 1}))
        ->type_name("NUMBER");
    ways->require_option(1);
    command.add_option("--by", by, "use: share of tokens that chose an expert, or its mean probability")
        ->capture_default_str()
        ->check(CLI::IsMember({"frequency", "probability"}));
    command.add_option("--router-rows", rows, "of removed experts: drop, or keep them in the softmax, so that tokens that\n"
                                       "chose none of them have the old bits")
        ->capture_default_str()
        ->check(CLI::IsMember({"drop", "keep"}));
    command.add_flag("--merge", merge, "fold each removed expert into the nearest that stays");
  }

  int run() {
    if (merge && rows == "keep") throw UsageError("--merge makes new rows of routers, --router-rows keep keeps the old ones");
    auto const model = operation.load();
    auto const use = model->evaluate(text.read(*model, operation.model), operation.device.threads).routers;
    auto const by_use = by == "frequency" ? mf::ExpertUse::frequency : mf::ExpertUse::probability;
    mf::ExpertMap const kept = threshold ? mf::keep_used(*model, use, *threshold, by_use)
                               : keep    ? mf::keep_fraction(*model, use, *keep, by_use)
                                         : mf::keep_fraction_of_all(*model, use, *keep_of_all, by_use);
    for (std::size_t i = 0; i < kept.attention.size(); ++i)
      fmt::print("layer {}: {} of {} attention, {} of {} feed-forward experts stay\n", i, kept.attention[i].size(),
                 model->config().attention.experts[static_cast<mf::Index>(i)], kept.feed_forward[i].size(),
                 model->config().feed_forward.experts[static_cast<mf::Index>(i)]);
    std::size_t clamped = 0;
    for (std::size_t r = 0; r < 2 * kept.attention.size(); ++r) {
      auto const& stay = (r % 2 == 0 ? kept.attention : kept.feed_forward)[r / 2];
      mf::Index const top_k = r % 2 == 0 ? model->config().attention.top_k : model->config().feed_forward.top_k;
      clamped += static_cast<mf::Index>(stay.size()) == top_k;
    }
    if (clamped > 0)
      fmt::print(stderr, "{} of {} routers are down to the experts that a token needs; fewer cannot stay\n", clamped,
                 2 * kept.attention.size());
    auto const removed = rows == "keep" ? mf::RemovedExperts::keep_rows : mf::RemovedExperts::drop_rows;
    operation.finish(*model, merge ? *model->merged(kept, use) : *model->pruned(kept, removed));
    return success;
  }
};

struct Extract {
  std::string model, kind = "feed-forward";
  ExpertFile expert;
  mf::Index layer = 0;
  DeviceOptions device;

  explicit Extract(CLI::App& command) {
    command.add_option("--model", model, "folder of the model")->required()->check(named())->type_name("DIR");
    command.add_option("--layer", layer, "from 0")->required()->check(integer(0, largest_size))->type_name("INTEGER");
    add_kind(command, kind);
    command.add_option("--expert", expert.expert, "its number")
        ->required()
        ->check(integer(0, largest_size))
        ->type_name("INTEGER");
    command.add_option("--out", expert.file, "file for it")->required()->check(named())->type_name("FILE.safetensors");
    add_device_options(command, device);
  }

  int run() {
    expert.where = layer_of(layer, kind);
    check_output(expert.file, model, {});
    find_device(device).load(model, false)->extract(expert);
    fmt::print("{}: {} expert {} of layer {}, {} bytes\n", expert.file, kind, expert.expert, layer, fs::file_size(expert.file));
    return success;
  }
};

struct Insert {
  Operation operation;
  std::string kind = "feed-forward";
  ExpertFile expert;
  mf::Index layer = 0;

  explicit Insert(CLI::App& command) {
    operation.add_options(command);
    command.add_option("--expert", expert.file, "what extract wrote")
        ->required()
        ->check(named())
        ->type_name("FILE.safetensors");
    command.add_option("--layer", layer, "from 0")->required()->check(integer(0, largest_size))->type_name("INTEGER");
    add_kind(command, kind);
    command.add_option("--at", expert.expert, "the number that it gets; those from there on move up")
        ->required()
        ->check(integer(0, largest_size))
        ->type_name("INTEGER");
  }

  int run() {
    expert.where = layer_of(layer, kind);
    auto const model = operation.load();
    operation.finish(*model, *model->with_expert(expert));
    return success;
  }
};

}  // namespace

Run set_up_extend(CLI::App& command) {
  return [extend = std::make_shared<Extend>(command)] { return extend->run(); };
}
Run set_up_prune(CLI::App& command) {
  return [prune = std::make_shared<Prune>(command)] { return prune->run(); };
}
Run set_up_extract(CLI::App& command) {
  return [extract = std::make_shared<Extract>(command)] { return extract->run(); };
}
Run set_up_insert(CLI::App& command) {
  return [insert = std::make_shared<Insert>(command)] { return insert->run(); };
}

}  // namespace cli
