// SPDX-License-Identifier: MIT
#pragma once
// How the routers of a model spread held-out text of several domains, summed up for a table: means over the routers of one
// kind.

#include "routing/cell.hpp"

#include <moduleformer/model/observation.hpp>

#include <algorithm>
#include <cmath>
#include <string_view>
#include <vector>

namespace bench {

enum class Kind { attention, feed_forward };

class RoutersUse {
 public:
  explicit RoutersUse(std::size_t domains) : domains_(domains) {}

  void add(std::size_t domain, mf::Observation<float> const& seen) {
    routers_.resize(seen.routers.size());
    for (std::size_t i = 0; i < routers_.size(); ++i) {
      auto const& from = seen.routers[i];
      Router& r = routers_[i];
      r.kind = from.name.find(".attn.") != std::string::npos ? Kind::attention : Kind::feed_forward;
      r.load.resize(domains_, std::vector<double>(from.load.size()));
      r.probability.resize(from.load.size());
      double tokens = 0;
      for (double const c : from.load) tokens += c / static_cast<double>(from.top_k);
      for (std::size_t e = 0; e < from.load.size(); ++e) {
        r.load[domain][e] += from.load[e];
        r.probability[e] += from.mean_probability[e] * tokens;
      }
      r.conditional += from.conditional_entropy * tokens;
      r.tokens += tokens;
      for (std::size_t t = 0; t < from.experts.size(); ++t)
        if (from.experts[t] >= 0)
          r.kept += static_cast<double>(from.probabilities[t / static_cast<std::size_t>(from.top_k) * from.load.size() +
                                                           static_cast<std::size_t>(from.experts[t])]);
    }
  }

  [[nodiscard]] KindResult result(Kind kind) const {
    KindResult mean;
    double count = 0;
    for (Router const& r : routers_) {
      if (r.kind != kind) continue;
      count += 1;
      std::vector<double> all(r.probability.size());
      std::vector<double> of_domains;
      double within = 0;
      for (auto const& load : r.load) {
        for (std::size_t e = 0; e < load.size(); ++e) all[e] += load[e];
        of_domains.push_back(sum(load));
        within += sum(load) * entropy(load);
      }
      mean.effective += std::exp(entropy(all));
      mean.busiest += *std::ranges::max_element(all) / (sum(all) / static_cast<double>(all.size()));
      mean.dead += static_cast<double>(std::ranges::count(all, 0.0));
      mean.mutual_information += entropy(r.probability) - r.conditional / r.tokens;
      mean.domain_information += entropy(all) - within / sum(all);
      mean.dropped_gate += 1 - r.kept / r.tokens;
    }
    for (double* const x : {&mean.effective, &mean.busiest, &mean.mutual_information, &mean.domain_information, &mean.dropped_gate})
      *x /= count;
    return mean;
  }

 private:
  struct Router {
    Kind kind = Kind::attention;
    std::vector<std::vector<double>> load{};  // of each domain
    std::vector<double> probability{};        // summed
    double conditional = 0, tokens = 0, kept = 0;
  };
  static double sum(std::vector<double> const& x) {
    double total = 0;
    for (double const v : x) total += v;
    return total;
  }
  static double entropy(std::vector<double> const& weights) {
    double const total = sum(weights);
    double h = 0;
    for (double const w : weights) h -= w > 0 ? w / total * std::log(w / total) : 0;
    return h;
  }

  std::size_t domains_;
  std::vector<Router> routers_{};
};

}  // namespace bench
