// SPDX-License-Identifier: MIT
// moduleformer finetune: trains a model, its new experts, its routers or tensors of a pattern on other data, and writes the
// result into a new folder.
#include "command.hpp"
#include "devices.hpp"
#include "interrupt.hpp"
#include "progress.hpp"
#include "report.hpp"
#include "text.hpp"
#include "train_options.hpp"
#include "values.hpp"

#include <moduleformer/io/folder_commit.hpp>
#include <moduleformer/model/count.hpp>

#include <CLI/CLI.hpp>
#include <fmt/core.h>

#include <filesystem>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace cli {
namespace {

namespace mf = moduleformer;
namespace fs = std::filesystem;

class Finetune {
 public:
  explicit Finetune(CLI::App& command) {
    command.add_option("--model", model_, "folder of the model")->required()->check(named())->type_name("DIR");
    command.add_option("--out", out_, "folder for the new model; it must not exist")
        ->required()
        ->check(named())
        ->type_name("DIR");
    add_data_options(command, data_);
    command.add_option("--train", train_, "what trains: all; new, the experts that extend added, which take part from then on; router; or\n"
                                          "tensors of a pattern, in which * stands for any characters, ? for one")
        ->capture_default_str()
        ->type_name("WHAT");
    command.add_option("--l2", guard_.l2, "with --train new: weight of the squared new rows of routers")
        ->capture_default_str()
        ->check(number({0, 1e12, false, true}))
        ->type_name("NUMBER");
    command
        .add_option("--kl", guard_.kl,
                    "with --train new: weight of the routers' divergence from what they were on --old-data")
        ->capture_default_str()
        ->check(number({0, 1e12, false, true}))
        ->type_name("NUMBER");
    command.add_option("--old-data", old_.files, "text files of what the model was trained on")
        ->check(named())
        ->type_name("FILE");
    command.add_flag("--no-eval", no_eval_, "do not score the held-out text at the end");
    add_device_options(command, device_);
    given_ = add_train_options(command, options_,
                               {"routing-loss", "loss-numbers", "aux-loss-weight", "rows", "window", "steps", "accumulate", "held-out",
                                "schedule", "rate", "warmup", "decay", "floor", "weight-decay", "beta1", "beta2", "epsilon", "clip",
                                "recompute", "seed"});
    given_.find("window")->second->default_str("the model's");
  }

  int run() {
    if (given("loss-numbers") && !given("routing-loss"))
      throw UsageError("--loss-numbers: expected with --routing-loss, the loss whose numbers they are");
    // As its text was cut before, so that old and new routes can be compared.
    if (!given("window")) options_.window = stored_window(model_).value_or(options_.window);
    if (fs::exists(out_)) throw UsageError(out_ + ": exists already; the tuned model needs a folder of its own");
    if (guard_.active() && train_ != "new") throw UsageError("--l2 and --kl guard new experts: expected --train new");
    if ((guard_.kl > 0) != !old_.files.empty()) throw UsageError("--old-data: expected with --kl, and only then");
    try {
      options_.rates().check();
    } catch (mf::Error const& error) {
      throw UsageError(error.what());
    }
    { mf::FolderCommit const probe(out_); }  // finds out now what would stop the save
    auto model = find_device(device_).load(model_, true);
    if (train_ == "new") model = model->training_new();
    else if (train_ == "router") model->train_only("*.gate.*");
    else if (train_ != "all") model->train_only(train_);
    choose_loss(*model);
    model->set_recomputation(options_.recompute);
    if (data_.ids.empty()) expect_text_model(model->config(), model_);
    Data const data = read_data(data_, batches(*model));
    std::optional<Data> old;
    if (!old_.files.empty()) old = read_data(old_, batches(*model));
    return train(*model, data, old);
  }

 private:
  [[nodiscard]] bool given(std::string_view option) const { return given_.find(option)->second->count() > 0; }

  /// The given loss and weight, or the model's own.
  void choose_loss(LanguageModel& model) const {
    bool const loss = given("routing-loss"), weight = given("aux-loss-weight");
    if (!loss && !weight) return;
    mf::dynamic_policies chosen = loss ? options_.policies() : model.policies();
    try {
      model.set_routing_loss(chosen, weight ? options_.aux_loss_weight : model.settings().aux_loss_weight);
      // A loss of weight 0 would only look as if it did something.
      if (loss && options_.routing_loss != "none" && model.settings().aux_loss_weight == 0)
        throw UsageError(
            "--routing-loss: has no effect, the model's weight of routing losses is 0; give --aux-loss-weight");
    } catch (mf::Error const& error) {
      throw UsageError(in_option_terms(error.what()));
    }
  }

  [[nodiscard]] mf::BatchOptions batches(LanguageModel const& model) const {
    mf::BatchOptions options = options_.batches();
    options.eos = data_.ids.empty() && has_end_mark(model.config());
    return options;
  }

  int train(LanguageModel& model, Data const& data, std::optional<Data> const& old) {
    auto const run = model.train(options_, {.threads = device_.threads, .seed = options_.seed, .guard = guard_});
    mf::Index trained = 0;
    for (mf::Segment const& s : model.table().segments()) trained += s.trainable_size();
    fmt::print(stderr, "{} of {} parameters train; {} steps of {} tokens in windows of {}\n", trained,
               model.table().size(), options_.steps, options_.rows * options_.window * options_.accumulate,
               options_.window);
    int signal = 0;
    {
      InterruptGuard const interrupt;
      Progress progress(0, options_.steps);
      std::vector<mf::Batch> batches(static_cast<std::size_t>(options_.accumulate)), old_batches(old ? 1 : 0);
      auto const read = [](Data const& from, mf::Index i, mf::Batch& into) {
        std::visit([&](auto const& all) { all.read(i, into); }, from);
      };
      while (run->steps() < options_.steps && interrupt.signal() == 0) {
        for (mf::Index i = 0; i < options_.accumulate; ++i)
          read(data, run->steps() * options_.accumulate + i, batches[static_cast<std::size_t>(i)]);
        if (old) read(*old, run->steps(), old_batches.front());
        progress.show(run->step(batches, old_batches));
      }
      signal = interrupt.signal();
      model.save(out_, options_.window);
    }
    fmt::print("saved {} after {} steps\n", out_, run->steps());
    if (signal != 0 && run->steps() < options_.steps) return 128 + signal;
    if (!no_eval_ && options_.held_out > 0) {
      bool const is_text = is_text_model(model.config());
      print_score(model.evaluate(data, device_.threads), is_text, options_.window);
      if (old) {
        fmt::print("old data:\n");
        print_score(model.evaluate(*old, device_.threads), is_text, options_.window);
      }
    }
    return success;
  }

  std::string model_, out_, train_ = "all";
  DataOptions data_, old_;
  DeviceOptions device_;
  TrainOptions options_;
  std::map<std::string, CLI::Option*, std::less<>> given_;
  mf::RouterGuard guard_;
  bool no_eval_ = false;
};

}  // namespace

Run set_up_finetune(CLI::App& command) {
  return [finetune = std::make_shared<Finetune>(command)] { return finetune->run(); };
}

}  // namespace cli
