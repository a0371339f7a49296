// SPDX-License-Identifier: MIT
#pragma once
// Options of `train`. One visitor lists them: it makes the command's options, and the file beside a stopped
// run that a resumed one takes them from.

#include "device.hpp"

#include <moduleformer/model/config.hpp>
#include <moduleformer/routing/policies.hpp>
#include <moduleformer/training/data.hpp>
#include <moduleformer/training/optimizer.hpp>
#include <moduleformer/training/schedule.hpp>

#include <map>
#include <optional>
#include <set>
#include <string>
#include <string_view>

namespace CLI {
class App;
class Option;
}  // namespace CLI

namespace cli {

struct TrainOptions {
  static constexpr std::string_view file_stem = "options";

  // Sizes.
  moduleformer::Index vocab = 256, hidden = 128, layers = 4, router_hidden = 64;
  moduleformer::Index attention_experts = 8, attention_top_k = 2, heads = 2, attention_hidden = 128;
  moduleformer::Index ffn_experts = 16, ffn_top_k = 2, ffn_hidden = 256;
  // Policies by role, as config.json names them, and numbers of some.
  std::string attention, activation, router, selection, gating, shared_experts, norm, routing_loss, statistics;
  std::string loss_numbers, selection_numbers, shared_numbers;
  // Settings.
  double aux_loss_weight = 0.001, embedding_dropout = 0, residual_dropout = 0, router_dropout = 0, router_jitter = 0;
  double initializer_range = 0.02;
  moduleformer::Index sampled_slots = 0;
  // Data.
  moduleformer::Index rows = 8, window = 256, steps = 1000, accumulate = 1;
  double held_out = 0.1;
  bool eos = false;
  // Optimizer and schedule.
  std::string schedule;
  double rate = 3e-3, floor = 0.1, weight_decay = 0.1, beta1 = 0.9, beta2 = 0.95, epsilon = 1e-8, clip = 1;
  moduleformer::Index warmup = -1, decay = -1;
  moduleformer::Index observe_load = 0;
  bool recompute = false;
  std::uint64_t seed = 1;

  /// Policies of the published model, and their names.
  TrainOptions();

  /// visit("option", member) for all that shape a run's result.
  template <class Self, class Visitor>
  static void visit(Self& self, Visitor&& visit);

  [[nodiscard]] moduleformer::Config config() const;
  [[nodiscard]] moduleformer::Settings settings() const;
  [[nodiscard]] moduleformer::dynamic_policies policies() const;
  [[nodiscard]] moduleformer::AdamW optimizer() const;
  [[nodiscard]] moduleformer::AnySchedule rates() const;
  /// Of micro-batches, from those of `step` on.
  [[nodiscard]] moduleformer::BatchOptions batches() const;
};

/// Stands beside a model that another command than `train` made: the window of the text that its weights learnt from.
struct TrainedWindow {
  static constexpr std::string_view file_stem = "window";
  moduleformer::Index window;

  template <class Self, class Visitor>
  static void visit(Self& self, Visitor&& visit) {
    visit("window", self.window);
  }
};

/// The window of the run that made a model, or of the model that it was made of, if that stands beside it.
std::optional<moduleformer::Index> stored_window(std::string const& folder);

/// A message of the library about a config, with the options of `train` for the keys of config.json.
std::string in_option_terms(std::string message);

/// Adds an option for each, or for those of some names; returns them by name.
std::map<std::string, CLI::Option*, std::less<>> add_train_options(CLI::App& command, TrainOptions& options,
                                                                   std::set<std::string, std::less<>> const& only = {});

template <class Self, class Visitor>
void TrainOptions::visit(Self& self, Visitor&& visit) {
  visit("vocab", self.vocab);
  visit("hidden", self.hidden);
  visit("layers", self.layers);
  visit("router-hidden", self.router_hidden);
  visit("attention-experts", self.attention_experts);
  visit("attention-top-k", self.attention_top_k);
  visit("heads", self.heads);
  visit("attention-hidden", self.attention_hidden);
  visit("ffn-experts", self.ffn_experts);
  visit("ffn-top-k", self.ffn_top_k);
  visit("ffn-hidden", self.ffn_hidden);
  visit("attention", self.attention);
  visit("activation", self.activation);
  visit("router", self.router);
  visit("selection", self.selection);
  visit("selection-numbers", self.selection_numbers);
  visit("gating", self.gating);
  visit("shared-experts", self.shared_experts);
  visit("shared-numbers", self.shared_numbers);
  visit("norm", self.norm);
  visit("routing-loss", self.routing_loss);
  visit("loss-numbers", self.loss_numbers);
  visit("statistics", self.statistics);
  visit("aux-loss-weight", self.aux_loss_weight);
  visit("embedding-dropout", self.embedding_dropout);
  visit("residual-dropout", self.residual_dropout);
  visit("router-dropout", self.router_dropout);
  visit("router-jitter", self.router_jitter);
  visit("sampled-slots", self.sampled_slots);
  visit("initializer-range", self.initializer_range);
  visit("rows", self.rows);
  visit("window", self.window);
  visit("steps", self.steps);
  visit("accumulate", self.accumulate);
  visit("held-out", self.held_out);
  visit("eos", self.eos);
  visit("schedule", self.schedule);
  visit("rate", self.rate);
  visit("warmup", self.warmup);
  visit("decay", self.decay);
  visit("floor", self.floor);
  visit("weight-decay", self.weight_decay);
  visit("beta1", self.beta1);
  visit("beta2", self.beta2);
  visit("epsilon", self.epsilon);
  visit("clip", self.clip);
  visit("observe-load", self.observe_load);
  visit("recompute", self.recompute);
  visit("seed", self.seed);
}

}  // namespace cli
