// SPDX-License-Identifier: MIT
#pragma once
// One cell of the comparison: a policy and a seed. What was measured of it, and its file.

#include "cells/result_file.hpp"
#include "routing/options.hpp"

namespace bench {

/// The routers of one kind (attention or feed-forward), of held-out text: means over layers, dead experts in all.
struct KindResult {
  double effective = 0;            // exp of the load's entropy
  double busiest = 0;              // largest load over the mean one
  double dead = 0;                 // experts without a token, in all layers
  double mutual_information = 0;   // I(expert; token) = H(e) - H(e|x), nats
  double domain_information = 0;   // I(expert; domain), nats, of the chosen slots
  double dropped_gate = 0;         // probability of the experts that were not chosen
};

/// A moment of the training, on a part of the held-out text.
struct Moment {
  Index tokens = 0;
  double bits_per_byte = 0;
  double effective_attention = 0;
  double effective_feed_forward = 0;
};

struct CellResult {
  std::string policy;
  std::uint64_t seed = 0;
  std::vector<double> domain_bits{};  // held-out bits per byte of each domain
  KindResult attention{}, feed_forward{};
  double task_gradient = 0;           // norm of the cross-entropy's gradient, after training
  double routing_gradient = 0;        // norm of the weighted routing losses' gradient
  std::vector<Moment> moments{};

  [[nodiscard]] double bits_per_byte() const {
    double sum = 0;
    for (double const bits : domain_bits) sum += bits;
    return sum / static_cast<double>(domain_bits.size());
  }
};

NLOHMANN_DEFINE_TYPE_NON_INTRUSIVE(KindResult, effective, busiest, dead, mutual_information, domain_information,
                                   dropped_gate)
NLOHMANN_DEFINE_TYPE_NON_INTRUSIVE(Moment, tokens, bits_per_byte, effective_attention, effective_feed_forward)
NLOHMANN_DEFINE_TYPE_NON_INTRUSIVE(CellResult, policy, seed, domain_bits, attention, feed_forward, task_gradient,
                                   routing_gradient, moments)

struct Cell {
  Variant const* variant = nullptr;
  std::uint64_t seed = 0;
  [[nodiscard]] std::string name() const { return fmt::format("{}-{}", variant->name, seed); }
  /// All that its result depends on, beside the sources.
  [[nodiscard]] std::string settings(RoutingOptions const& o) const { return o.settings(); }
  [[nodiscard]] std::filesystem::path file(RoutingOptions const& o) const { return o.out / (name() + ".json"); }
  /// Where a stopped run goes on.
  [[nodiscard]] std::filesystem::path run(RoutingOptions const& o) const { return o.out / (name() + ".run"); }
};

/// Cells in the order in which they run: one seed of every policy, then the next.
inline std::vector<Cell> cells(RoutingOptions const& o) {
  std::vector<Cell> all;
  for (auto const seed : o.seeds)
    for (auto const& name : o.policies) all.push_back({&find_variant(name), seed});
  return all;
}

}  // namespace bench
