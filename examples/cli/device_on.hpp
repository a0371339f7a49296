// SPDX-License-Identifier: MIT
#pragma once
// The interface of device.hpp on any backend. A file that instantiates it includes its backend before this.

#include "device.hpp"
#include "logits_on.hpp"
#include "train_options.hpp"

#include <moduleformer/io/checkpoint.hpp>
#include <moduleformer/io/file_commit.hpp>
#include <moduleformer/io/routing_history.hpp>

#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <variant>
#include <vector>

namespace cli {

template <class B>
using LanguageModelOf = moduleformer::Model<moduleformer::LanguageModelHead, moduleformer::dynamic_shape,
                                            moduleformer::dynamic_policies, B>;
template <class B>
using ClassifierOf = moduleformer::Model<moduleformer::ClassificationHead, moduleformer::dynamic_shape,
                                         moduleformer::dynamic_policies, B>;

template <class B>
class TrainingRunOn final : public TrainingRun {
 public:
  TrainingRunOn(LanguageModelOf<B>& model, TrainOptions const& options, moduleformer::TrainerOptions const& trainer)
      : trainer_(model, options.optimizer(), options.rates(), trainer), observe_every_(options.observe_load) {}

  [[nodiscard]] moduleformer::Index steps() const override { return trainer_.steps(); }
  moduleformer::StepReport step(std::span<moduleformer::Batch const> batches,
                                std::span<moduleformer::Batch const> old_data) override {
    auto const report = trainer_.step(batches, {}, old_data);
    if (observe_every_ > 0 && report.step % observe_every_ == 0) history_.add(report.step, trainer_.routing_load());
    return report;
  }
  void load(std::string const& folder) override {
    moduleformer::load_state(folder, trainer_.model(), trainer_);
    if (!moduleformer::has_state<moduleformer::RoutingHistory>(folder)) return;
    auto const& model = std::as_const(trainer_.model());
    moduleformer::load_state(folder, model, history_);
    history_.expect_experts(moduleformer::routed_experts(model.config(), model.policies()));
  }
  void save(std::string const& folder, TrainOptions const& options, DataState const& data) const override {
    if (history_.empty()) moduleformer::save(trainer_.model(), folder, {}, trainer_, options, data);
    else moduleformer::save(trainer_.model(), folder, {}, trainer_, options, data, history_);
  }

 private:
  moduleformer::RoutingHistory history_;
  moduleformer::Trainer<LanguageModelOf<B>, moduleformer::AnySchedule> trainer_;
  moduleformer::Index observe_every_;
};

template <class B>
class LanguageModelOn final : public LanguageModel {
 public:
  explicit LanguageModelOn(LanguageModelOf<B> model) : model_(std::move(model)) {}

  [[nodiscard]] moduleformer::Config const& config() const override { return model_.config(); }
  [[nodiscard]] moduleformer::ParameterTable const& table() const override { return model_.table(); }
  [[nodiscard]] moduleformer::dynamic_policies const& policies() const override { return model_.policies(); }
  [[nodiscard]] moduleformer::Settings const& settings() const override { return model_.settings(); }
  void set_recomputation(bool recompute) override { model_.policies().checkpointing.recompute_blocks = recompute; }

  [[nodiscard]] moduleformer::Evaluation evaluate(Data const& data, int threads,
                                                  moduleformer::RouteRecord const* replayed) const override {
    moduleformer::Session<B> session{moduleformer::SessionOptions{.threads = threads}};
    return std::visit([&](auto const& batches) { return moduleformer::evaluate(model_, session, batches.held_out(), replayed); }, data);
  }
  [[nodiscard]] moduleformer::RouteRecord record_routes(Data const& data, int threads) const override {
    moduleformer::Session<B> session{moduleformer::SessionOptions{.threads = threads}};
    return std::visit([&](auto const& batches) { return moduleformer::record_routes(model_, session, batches.held_out()); }, data);
  }
  std::vector<moduleformer::Generated> generate(
      std::vector<std::vector<moduleformer::TokenId>> const& prompts, moduleformer::GenerationOptions const& options,
      std::function<void(moduleformer::Index, moduleformer::TokenId)> const& on_token) const override {
    return moduleformer::generate(model_, prompts, options, std::cref(on_token));
  }
  [[nodiscard]] std::unique_ptr<LanguageModel> grown(moduleformer::InsertOptions const& options, bool active) const override {
    auto model = moduleformer::insert_experts(model_, options).model;
    if (active) model = moduleformer::activate(model).model;
    return std::make_unique<LanguageModelOn>(std::move(model));
  }
  [[nodiscard]] std::unique_ptr<LanguageModel> pruned(moduleformer::ExpertMap const& kept,
                                                      moduleformer::RemovedExperts removed) const override {
    return std::make_unique<LanguageModelOn>(moduleformer::prune(model_, kept, removed).model);
  }
  [[nodiscard]] std::unique_ptr<LanguageModel> merged(moduleformer::ExpertMap const& kept,
                                                      std::vector<moduleformer::RouterSummary> const& use) const override {
    return std::make_unique<LanguageModelOn>(moduleformer::merge(model_, kept, use).model);
  }
  [[nodiscard]] std::unique_ptr<LanguageModel> training_new() const override {
    moduleformer::expects(
        config().attention.dormant.largest() > 0 || config().feed_forward.dormant.largest() > 0,
        "--train new: expected a model with dormant experts, found none; extend without --activate makes them");
    // What is dormant is what is new: the rows behind the active ones.
    moduleformer::RowMap fresh;
    for (auto const& s : model_.table().segments()) {
      auto& rows = fresh.tensors.emplace_back().rows;
      for (moduleformer::Index row = 0; s.active_rows < s.rows() && row < s.rows(); ++row)
        rows.push_back(row < s.active_rows ? row : moduleformer::fresh_row);
    }
    auto active = moduleformer::activate(model_).model;
    moduleformer::train_only_new(active, fresh);
    return std::make_unique<LanguageModelOn>(std::move(active));
  }
  void train_only(std::string const& pattern) override {
    moduleformer::freeze_all(model_);
    moduleformer::train(model_, pattern);
  }
  void set_routing_loss(moduleformer::dynamic_policies const& with_loss, double weight) override {
    model_.policies().routing_loss = with_loss.routing_loss;
    model_.policies().statistics = with_loss.statistics;
    moduleformer::Settings settings = model_.settings();
    settings.aux_loss_weight = weight;
    model_.set_settings(settings);
    moduleformer::check_policies(std::as_const(model_).policies());
  }
  void extract(ExpertFile const& to) const override {
    moduleformer::FileCommit commit{to.file};
    moduleformer::write_state_file(commit.temporary(), moduleformer::extract_expert(model_, to.where, to.expert));
    commit.finish();
  }
  [[nodiscard]] std::unique_ptr<LanguageModel> with_expert(ExpertFile const& from) const override {
    auto expert = moduleformer::detail::empty_expert(model_, from.where);
    moduleformer::read_state(moduleformer::SafetensorsFile{from.file}, expert);
    return std::make_unique<LanguageModelOn>(moduleformer::insert_expert(model_, from.where, from.expert, expert).model);
  }
  void save(std::string const& folder, std::optional<moduleformer::Index> window) const override {
    if (window) moduleformer::save(model_, folder, {}, TrainedWindow{*window});
    else moduleformer::save(model_, folder);
  }
  std::unique_ptr<TrainingRun> train(TrainOptions const& options, moduleformer::TrainerOptions const& trainer) override {
    return std::make_unique<TrainingRunOn<B>>(model_, options, trainer);
  }

 private:
  LanguageModelOf<B> model_;
};

template <class B>
class DeviceOn final : public Device {
 public:
  [[nodiscard]] std::unique_ptr<LanguageModel> load(std::string const& folder, bool for_training) const override {
    using Model = LanguageModelOf<B>;
    return std::make_unique<LanguageModelOn<B>>(moduleformer::load<Model>(folder, {.map = !for_training}));
  }
  [[nodiscard]] std::unique_ptr<LanguageModel> random(std::uint64_t seed, moduleformer::Config const& config,
                                                      moduleformer::Settings const& settings,
                                                      moduleformer::dynamic_policies const& policies) const override {
    return std::make_unique<LanguageModelOn<B>>(LanguageModelOf<B>::random(seed, config, settings, policies));
  }
  void write_logits(LogitsOptions const& options, bool classifies) const override {
    classifies ? run_batch<ClassifierOf<B>>(options) : run_batch<LanguageModelOf<B>>(options);
  }
};

}  // namespace cli
