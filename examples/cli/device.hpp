// SPDX-License-Identifier: MIT
#pragma once
// What commands do with a model, wherever it computes: an interface of plain values, so that what parses and prints is
// compiled once and never by nvcc. A backend's file (cpu_float.cpp, cuda/float.cu, ...) implements it by the one text
// of device_on.hpp. Sizes and policies are known at run time only, so that any folder of the published layout fits.

#include <moduleformer/core/settings.hpp>
#include <moduleformer/model/config.hpp>
#include <moduleformer/model/generation.hpp>
#include <moduleformer/model/route_record.hpp>
#include <moduleformer/modular/extract.hpp>
#include <moduleformer/modular/insert.hpp>
#include <moduleformer/modular/merge.hpp>
#include <moduleformer/nn/parameters.hpp>
#include <moduleformer/routing/policies.hpp>
#include <moduleformer/training/data.hpp>
#include <moduleformer/training/evaluation.hpp>
#include <moduleformer/training/trainer.hpp>

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <type_traits>
#include <variant>
#include <vector>

namespace cli {

struct TrainOptions;

/// Text or ids.
using Data = std::variant<moduleformer::ByteBatches, moduleformer::TokenBatches>;

/// What must not change while a run is stopped, stored beside it.
struct DataState {
  static constexpr std::string_view file_stem = "data";
  Data const* data;

  template <class Self, class Visitor>
  static void visit(Self& self, Visitor&& visit) {
    std::visit([&](auto const& batches) { std::decay_t<decltype(batches)>::visit(batches, visit); }, *self.data);
  }
};

/// A trainer of a language model.
class TrainingRun {
 public:
  virtual ~TrainingRun() = default;
  [[nodiscard]] virtual moduleformer::Index steps() const = 0;
  /// `old_data`: for a guard of routers that new experts joined.
  virtual moduleformer::StepReport step(std::span<moduleformer::Batch const> micro_batches,
                                        std::span<moduleformer::Batch const> old_data = {}) = 0;
  /// Takes over the state that stands beside a stopped run's weights.
  virtual void load(std::string const& folder) = 0;
  /// Weights, and all that `train --resume` needs.
  virtual void save(std::string const& folder, TrainOptions const& options, DataState const& data) const = 0;
};

/// One expert of a model, and its file.
struct ExpertFile {
  moduleformer::ExpertLayer where{};
  moduleformer::Index expert = 0;
  std::string file;
};

class LanguageModel {
 public:
  virtual ~LanguageModel() = default;
  [[nodiscard]] virtual moduleformer::Config const& config() const = 0;
  [[nodiscard]] virtual moduleformer::ParameterTable const& table() const = 0;
  [[nodiscard]] virtual moduleformer::dynamic_policies const& policies() const = 0;
  [[nodiscard]] virtual moduleformer::Settings const& settings() const = 0;
  /// Whether training computes blocks again in backward.
  virtual void set_recomputation(bool recompute) = 0;

  /// On recorded routes, if given.
  [[nodiscard]] virtual moduleformer::Evaluation evaluate(Data const& held_out, int threads,
                                                          moduleformer::RouteRecord const* replayed = nullptr) const = 0;
  [[nodiscard]] virtual moduleformer::RouteRecord record_routes(Data const& held_out, int threads) const = 0;
  /// Calls on_token(sequence, id) for each new token.
  virtual std::vector<moduleformer::Generated> generate(
      std::vector<std::vector<moduleformer::TokenId>> const& prompts, moduleformer::GenerationOptions const& options,
      std::function<void(moduleformer::Index, moduleformer::TokenId)> const& on_token) const = 0;
  /// With new experts, dormant or taking part.
  [[nodiscard]] virtual std::unique_ptr<LanguageModel> grown(moduleformer::InsertOptions const& options, bool active) const = 0;
  [[nodiscard]] virtual std::unique_ptr<LanguageModel> pruned(moduleformer::ExpertMap const& kept,
                                                              moduleformer::RemovedExperts removed) const = 0;
  [[nodiscard]] virtual std::unique_ptr<LanguageModel> merged(moduleformer::ExpertMap const& kept,
                                                              std::vector<moduleformer::RouterSummary> const& use) const = 0;
  /// With its dormant experts taking part, of which alone and whose rows of routers train. Throws Error if it has none.
  [[nodiscard]] virtual std::unique_ptr<LanguageModel> training_new() const = 0;
  /// Only tensors of this pattern train. Throws Error if no name is of it.
  virtual void train_only(std::string const& pattern) = 0;
  /// And over what it runs.
  virtual void set_routing_loss(moduleformer::dynamic_policies const& with_loss, double weight) = 0;
  /// Writes an expert; reads one and takes it in.
  virtual void extract(ExpertFile const& to) const = 0;
  [[nodiscard]] virtual std::unique_ptr<LanguageModel> with_expert(ExpertFile const& from) const = 0;
  /// With the window of the text that the weights learnt from, if that is known.
  virtual void save(std::string const& folder, std::optional<moduleformer::Index> window) const = 0;
  /// The model must outlive the run.
  virtual std::unique_ptr<TrainingRun> train(TrainOptions const& options, moduleformer::TrainerOptions const& trainer) = 0;
};

struct LogitsOptions {
  std::string model, input, output;
  bool gradients = false;
  int threads = 0;
};

/// A backend in one precision.
class Device {
 public:
  virtual ~Device() = default;
  /// For training the values are copied into memory; else they may stay in the mapped file.
  [[nodiscard]] virtual std::unique_ptr<LanguageModel> load(std::string const& folder, bool for_training) const = 0;
  [[nodiscard]] virtual std::unique_ptr<LanguageModel> random(std::uint64_t seed, moduleformer::Config const& config,
                                                              moduleformer::Settings const& settings,
                                                              moduleformer::dynamic_policies const& policies) const = 0;
  /// Reads the input, runs the model of the folder, writes the output. Throws Error.
  virtual void write_logits(LogitsOptions const& options, bool classifies) const = 0;
};

}  // namespace cli
