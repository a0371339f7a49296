// SPDX-License-Identifier: MIT
// moduleformer train: a new model from text, or the rest of a stopped run.
#include "baselines.hpp"
#include "command.hpp"
#include "devices.hpp"
#include "interrupt.hpp"
#include "progress.hpp"
#include "report.hpp"
#include "text.hpp"
#include "train_options.hpp"
#include "values.hpp"

#include <moduleformer/io/checkpoint.hpp>
#include <moduleformer/model/count.hpp>
#include <moduleformer/model/transformer.hpp>

#include <CLI/CLI.hpp>
#include <fmt/core.h>
#include <nlohmann/json.hpp>

#include <algorithm>
#include <filesystem>
#include <memory>
#include <optional>
#include <set>
#include <utility>

namespace cli {

namespace mf = moduleformer;

namespace {

class Train {
 public:
  explicit Train(CLI::App& command);
  int run();

 private:
  [[nodiscard]] std::unique_ptr<LanguageModel> start_model(Device const& device) const;
  [[nodiscard]] std::unique_ptr<LanguageModel> resume_model(Device const& device);
  void take_stored(TrainOptions stored);
  void refuse_without_effect(std::string_view option, bool has_none, std::string const& why) const;
  void check_out_folder() const;
  int train(LanguageModel& model, Data const& data);
  void evaluate(LanguageModel const& model, Data const& data) const;

  TrainOptions options_;
  std::map<std::string, CLI::Option*, std::less<>> given_;
  DataOptions data_options_;
  DeviceOptions device_options_;
  std::string out_;
  bool resume_ = false, overwrite_ = false, no_eval_ = false;
  bool other_numbers_ = false;  // a resumed run's optimizer or schedule was changed
  mf::Index save_every_ = 0;
};

Train::Train(CLI::App& command) {
  add_data_options(command, data_options_);
  command.add_option("--out", out_, "folder for the model; what --resume needs stands there too")
      ->required()
      ->check(named())
      ->type_name("DIR");
  command.add_flag("--resume", resume_, "go on with the stopped run in DIR: with the same data, and the options it was started\n"
                                        "with; --steps, --observe-load and the optimizer's may be given anew");
  command.add_flag("--overwrite", overwrite_, "replace a model that stands in DIR");
  command.add_option("--save-every", save_every_, "save after each so many steps; 0: at the end and when interrupted")
      ->capture_default_str()
      ->check(integer(0, most_steps))
      ->type_name("INTEGER");
  command.add_flag("--no-eval", no_eval_, "do not score the held-out text at the end");
  add_device_options(command, device_options_);
  given_ = add_train_options(command, options_);
}

int Train::run() {
  if (resume_ && overwrite_) throw UsageError("--resume and --overwrite exclude each other");
  Device const& device = find_device(device_options_);
  check_out_folder();
  auto const model = resume_ ? resume_model(device) : start_model(device);
  if (data_options_.ids.empty()) expect_text_model(model->config(), "the model");
  Data const data = read_data(data_options_, options_.batches());
  return train(*model, data);
}

std::unique_ptr<LanguageModel> Train::start_model(Device const& device) const {
  if (options_.eos && !data_options_.ids.empty()) throw UsageError("--eos is for text, not for --tokens");
  if (options_.eos && given_.at("vocab")->count() > 0 && options_.vocab != 257)
    throw UsageError("--eos makes the vocabulary 257");
  auto const policies = options_.policies();
  mf::Config config = options_.config();
  // A linear router has no hidden layer; a number there would only look as if it meant something.
  if (options_.router == "linear") config.router_hidden_size = 0;
  refuse_without_effect("router-dropout", options_.router == "linear" || options_.router == "gmm",
                        "router " + options_.router + " has no dropout");
  refuse_without_effect("aux-loss-weight", options_.routing_loss == "none", "--routing-loss is none");
  refuse_without_effect("statistics", options_.aux_loss_weight == 0, "--aux-loss-weight is 0");
  try {
    config.check();
    mf::check_policies(config, policies);
    mf::check_settings(config, policies, options_.settings());
    options_.optimizer().check();
    options_.rates().check();
  } catch (mf::Error const& error) {
    throw UsageError(in_option_terms(error.what()));
  }
  return device.random(options_.seed, config, options_.settings(), policies);
}

std::unique_ptr<LanguageModel> Train::resume_model(Device const& device) {
  auto model = device.load(out_, true);
  TrainOptions stored;
  mf::load_state(out_, *model, stored);
  take_stored(stored);
  model->set_recomputation(options_.recompute);
  return model;
}

/// For a message, in which an empty text would not be seen.
template <class T>
T shown(T const& value) {
  if constexpr (std::same_as<T, std::string>) return value.empty() ? "''" : value;
  else return value;
}

/// A number that would only look as if it meant something.
void Train::refuse_without_effect(std::string_view option, bool has_none, std::string const& why) const {
  if (has_none && given_.find(option)->second->count() > 0) throw UsageError(fmt::format("--{}: has no effect, {}", option, why));
}

/// Options that were not given are the stored ones; most of the others must agree.
void Train::take_stored(TrainOptions stored) {
  std::set<std::string_view> const changeable{"steps", "schedule", "rate", "warmup", "decay", "floor", "weight-decay",
                                              "beta1", "beta2", "epsilon", "clip", "observe-load", "recompute"};
  TrainOptions::visit(stored, [&]<class T>(std::string const& name, T& value) {
    if (given_.at(name)->count() == 0) return;
    TrainOptions::visit(options_, [&]<class U>(std::string const& other, U const& wanted) {
      if constexpr (std::same_as<T, U>) {
        if (other != name || wanted == value) return;
        if (!changeable.contains(name))
          throw UsageError(fmt::format("--{} {}: the run in {} has {}, which cannot change", name, shown(wanted), out_, shown(value)));
        value = wanted;
        other_numbers_ = true;
      }
    });
  });
  options_ = stored;
}

/// Finds out before the training what would otherwise stop the save after it.
void Train::check_out_folder() const {
  namespace fs = std::filesystem;
  // A save that was cut off where folders cannot be exchanged leaves the model beside its place.
  fs::path const stored = fs::exists(out_) ? out_ : out_ + ".old";
  bool const has_model = fs::exists(stored / "config.json");
  if (has_model && !resume_ && !overwrite_)
    throw UsageError(fmt::format("{} holds a model; --resume goes on with its run, --overwrite replaces it", out_));
  mf::expects(!fs::exists(out_) || fs::is_directory(out_), out_, ": expected a folder, found a file");
  fs::path const parent = fs::absolute(out_).lexically_normal().parent_path();
  mf::expects(fs::is_directory(parent), out_, ": the folder ", parent, " does not exist");
  mf::FolderCommit const probe(out_);  // begins a save, refuses what no save could replace, and takes it back
}

int Train::train(LanguageModel& model, Data const& data) {
  auto const run = model.train(options_, {.threads = device_options_.threads,
                                          .seed = options_.seed,
                                          .accept_other_numbers = other_numbers_,
                                          .observe_load = options_.observe_load > 0});
  DataState data_state{.data = &data};
  if (resume_) {
    mf::load_state(out_, model, data_state);
    run->load(out_);
  }
  mf::Counts const counts = mf::count(model.config(), model.policies(), model.config().vocab_size);
  fmt::print(stderr, "{} parameters, {} active per token; {} steps of {} tokens\n", counts.parameters, counts.active_parameters,
             options_.steps, options_.rows * options_.window * options_.accumulate);
  if (run->steps() >= options_.steps)
    fmt::print(stderr, "the run in {} has {} of {} steps already; --steps makes it longer\n", out_, run->steps(), options_.steps);

  auto const save = [&] { run->save(out_, options_, data_state); };
  int signal = 0;
  {
    InterruptGuard const interrupt;
    Progress progress(run->steps(), options_.steps);
    std::vector<mf::Batch> batches(static_cast<std::size_t>(options_.accumulate));
    while (run->steps() < options_.steps && interrupt.signal() == 0) {
      for (mf::Index i = 0; i < options_.accumulate; ++i)
        std::visit([&](auto const& from) { from.read(run->steps() * options_.accumulate + i, batches[static_cast<std::size_t>(i)]); },
                   data);
      progress.show(run->step(batches));
      if (save_every_ > 0 && run->steps() % save_every_ == 0 && run->steps() < options_.steps) save();
    }
    signal = interrupt.signal();
    save();
  }
  if (signal != 0 && run->steps() < options_.steps) {
    fmt::print(stderr, "interrupted after step {} of {}; saved in {}, --resume goes on\n", run->steps(), options_.steps, out_);
    return 128 + signal;
  }
  fmt::print("saved {} after {} steps\n", out_, run->steps());
  if (!no_eval_ && options_.held_out > 0) evaluate(model, data);
  return success;
}

void Train::evaluate(LanguageModel const& model, Data const& data) const {
  bool const is_text = is_text_model(model.config());
  print_score(model.evaluate(data, device_options_.threads), is_text, options_.window);
  print_baselines(fit_baselines(data, model.config().vocab_size), is_text);
}

}  // namespace

std::optional<mf::Index> stored_window(std::string const& folder) {
  // This one number, also of a run of another version with other options.
  for (std::string_view const stem : {TrainOptions::file_stem, TrainedWindow::file_stem}) {
    auto const file = std::filesystem::path(folder) / (std::string(stem) + ".safetensors");
    if (!std::filesystem::exists(file)) continue;
    auto const values = nlohmann::json::parse(mf::SafetensorsFile{file}.metadata("state"), nullptr, false);
    auto const window = values.is_object() ? values.find("window") : values.end();
    if (window != values.end() && window->is_number_integer() && window->get<mf::Index>() > 0)
      return window->get<mf::Index>();
  }
  return {};
}

Run set_up_train(CLI::App& command) {
  return [train = std::make_shared<Train>(command)] { return train->run(); };
}

}  // namespace cli
