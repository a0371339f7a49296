// SPDX-License-Identifier: MIT
#pragma once
// What bench_model_cuda prints: the keys of bench_model and some more, and tables of floors and launches.

#include "model_count.hpp"

#include <utility>

namespace bench {

/// Fewer layers, if the model does not fit into the device's memory; says so.
inline ModelOptions fitted(ModelOptions o, std::size_t free, Facts& facts) {
  Index const wanted = o.layers;
  double const room = 0.97 * static_cast<double>(free);
  double const all = static_cast<double>(count_model(o).training_bytes);
  while (o.layers > 1 && static_cast<double>(count_model(o).training_bytes) > room) --o.layers;
  if (o.layers < wanted)
    facts.add("fitted", std::to_string(wanted) + " layers need " + Facts::number(all * 1e-9, 4) + " GB, " +
                            Facts::number(static_cast<double>(free) * 1e-9, 4) + " GB are free: measured with " +
                            std::to_string(o.layers) + " layers, and floors are those of so many");
  return o;
}

/// Floors, counts and (if there are any) times of a model, as key and value.
inline void add_model_facts(Facts& facts, ModelOptions const& o, Machine const& machine, Measured const* r) {
  mf::Counts const counts = mf::count(o.config(), mf::Policies<>{}, o.vocab);
  ModelSizes const sizes = o.sizes();
  double const n = cost::real(sizes.tokens), parameters = cost::real(counts.parameters);
  double const forward_flops = n * counts.mean_forward_flops(o.tokens),
               train_flops = n * counts.mean_training_flops(o.tokens);
  double const forward = forward_floor(machine, sizes), step = step_floor(machine, sizes, parameters);
  if (r != nullptr) {
    facts.add("train_tokens_per_second", n / r->step);
    facts.add("forward_tokens_per_second", n / r->forward);
    facts.add("decode_tokens_per_second", 1 / r->decoded.front().whole);
    facts.add("step_seconds", r->step);
    facts.add("step_seconds_launched", r->launched_step);
    facts.add("forward_seconds", r->forward);
    facts.add("backward_seconds", r->forward_backward - r->forward);
    facts.add("update_seconds", r->launched_step - r->forward_backward);
  }
  facts.add("step_floor_seconds", step);
  facts.add("forward_floor_seconds", forward);
  facts.add("layer_forward_floor_seconds", layer_floor(machine, sizes));
  facts.add("update_floor_seconds", update_floor(machine, parameters));
  if (r != nullptr) {
    facts.add("step_fraction_of_floor", step / r->step);
    facts.add("forward_fraction_of_floor", forward / r->forward);
    facts.add("train_fraction_of_peak", train_flops / r->forward_backward / machine.flops);
    facts.add("forward_fraction_of_peak", forward_flops / r->forward / machine.flops);
    double const dense = n * cost::real(counts.dense_flops);
    facts.add("train_parameter_products_fraction_of_peak", 3 * dense / r->forward_backward / machine.flops);
    facts.add("forward_parameter_products_fraction_of_peak", dense / r->forward / machine.flops);
    facts.add("busiest_expert_over_mean", r->busiest);
    facts.add("effective_experts", r->effective);
  }
  for (Index const b : o.decoded_sequences) {
    std::string const key = "decode_batch_" + std::to_string(b) + "_";
    double const floor = floor_of(machine, decode_cost(sizes, b, o.context + 3 * o.decoded / 2)).seconds;
    facts.add(key + "floor_seconds", floor);
    if (r == nullptr) continue;
    for (Decoded const& d : r->decoded) {
      if (d.sequences != b) continue;
      facts.add(key + "seconds", d.device);
      facts.add(key + "seconds_launched", d.launched);
      facts.add(key + "seconds_with_choice", d.whole);
      facts.add(key + "fraction_of_floor", floor / d.device);
      facts.add(key + "tokens_per_second", cost::real(b) / d.whole);
    }
  }
  ModelCounts const model = count_model(o), layer = count_layer(o);
  facts.add("kernels_a_step", model.step.kernels);
  facts.add("kernels_a_layer_and_step", layer.step.kernels);
  facts.add("kernels_a_layer_forward", layer.forward.kernels);
  facts.add("kernels_a_layer_decoding", layer.decode.kernels);
  facts.add("training_memory_bytes", static_cast<Index>(model.training_bytes));
  facts.add("forward_memory_bytes", static_cast<Index>(model.forward_bytes));
  facts.add("parameters", counts.parameters);
  facts.add("active_parameters", counts.active_parameters);
}

/// The pieces of a layer's forward, for people.
inline void print_pieces(ModelOptions const& o, Machine const& machine) {
  std::printf(
      "\n### Floors of one layer's forward, %lld tokens in rows of %lld\n\n| piece | GFLOP | MB | floor us | bound by "
      "|\n|---|---|---|---|---|\n",
      static_cast<long long>(o.rows * o.tokens), static_cast<long long>(o.tokens));
  auto const row = [&](char const* name, Cost const& cost) {
    Floor const floor = floor_of(machine, cost);
    std::printf("| %s | %s | %s | %s | %s |\n", name, Facts::number(cost.flops * 1e-9, 4).c_str(),
                Facts::number(cost.bytes * 1e-6, 4).c_str(), Facts::number(floor.seconds * 1e6, 4).c_str(),
                std::string(floor.bound).c_str());
  };
  for (Piece const& piece : layer_pieces(o.sizes())) row(piece.name, piece.cost);
  std::printf("| **layer** | | | **%s** | |\n", Facts::number(layer_floor(machine, o.sizes()) * 1e6, 4).c_str());
  row("head, once a model", head_cost(o.sizes()));
}

/// All of it; `measured` null: floors and counts alone.
inline void print_model(ModelOptions const& o, Machine const& machine, Facts facts, Measured const* measured) {
  add_model_facts(facts, o, machine, measured);
  if (o.json) return (void)std::printf("%s\n", facts.json().c_str());
  facts.print("- %s: %s\n");
  print_pieces(o, machine);
  if (!o.kernels) return;
  ModelCounts const layer = count_layer(o);
  print_kernels("training step", layer.step);
  print_kernels("decoding", layer.decode);
}

inline Facts model_facts(ModelOptions const& o) {
  Facts facts;
  facts.add("model", (o.preset.empty() ? std::string() : o.preset + ": ") + std::to_string(o.rows) + " x " +
                         std::to_string(o.tokens) + " tokens, D " + std::to_string(o.hidden) + ", L " +
                         std::to_string(o.layers) + ", H " + std::to_string(o.heads) + ", A " +
                         std::to_string(o.attention_hidden) + ", F " + std::to_string(o.ffn_hidden) + ", " +
                         std::to_string(o.attention_experts) + " + " + std::to_string(o.ffn_experts) + " experts, k " +
                         std::to_string(o.top_k) + ", V " + std::to_string(o.vocab) + ", load " + o.load);
  return facts;
}

}  // namespace bench
