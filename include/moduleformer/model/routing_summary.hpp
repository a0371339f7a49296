// SPDX-License-Identifier: MIT
#pragma once
// What routers did over any number of batches, for each domain of data. Of a router with E routed experts, over N tokens, with
// p(e|t) its probabilities, c_e the tokens that chose e, f_e = c_e / sum c, natural logarithms:
//   H(e) = entropy of mean_t p(e|t),  H(e|x) = mean_t entropy of p(.|t),  I(e;x) = H(e) - H(e|x)
//   effective experts = exp(entropy of f);  variation = deviation of c over experts / mean c
//   dropped gate = 1 - mean_t sum of p(e|t) over the chosen;  co-activation (E,E) = tokens that chose both
//   I(e;d) = H(f) - sum_d (share of slots in d) H(f of d): what a slot's expert tells of its domain
// Shared experts, which serve every token, have a load and a co-activation, and are in nothing else.

#include <moduleformer/core/error.hpp>
#include <moduleformer/model/observation.hpp>

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <string>
#include <utility>
#include <vector>

namespace moduleformer {

/// Sums of one router over some tokens, and what follows from them.
struct RouterSummary {
  std::string name{};                     // as in checkpoints
  double tokens = 0;                      // N
  std::size_t shared = 0;                 // experts 0..shared-1 serve every token: load only, none of the numbers below
  std::vector<double> load{};             // (E) c_e
  std::vector<double> probability{};      // (E) summed p(e|t)
  std::vector<double> coactivation{};     // (E,E), its diagonal is the load
  double conditional_entropy_sum = 0;
  double kept_probability = 0;            // of the chosen, summed

  [[nodiscard]] std::size_t experts() const { return load.size(); }
  [[nodiscard]] std::size_t routed_experts() const { return load.size() - shared; }
  [[nodiscard]] std::vector<double> routed_load() const {
    return {load.begin() + static_cast<std::ptrdiff_t>(shared), load.end()};
  }
  /// f (E): sums to 1, if anything was chosen.
  [[nodiscard]] std::vector<double> load_share() const { return shares(load); }
  [[nodiscard]] std::vector<double> mean_probability() const { return shares(probability); }
  [[nodiscard]] double marginal_entropy() const { return entropy(probability); }
  [[nodiscard]] double conditional_entropy() const { return tokens > 0 ? conditional_entropy_sum / tokens : 0; }
  [[nodiscard]] double mutual_information() const { return marginal_entropy() - conditional_entropy(); }
  [[nodiscard]] double effective_experts() const { return std::exp(entropy(routed_load())); }
  /// Largest load over the mean one.
  [[nodiscard]] double busiest() const {
    auto const routed = routed_load();
    double const mean = sum(routed) / static_cast<double>(routed.size());
    return mean > 0 ? *std::max_element(routed.begin(), routed.end()) / mean : 0;
  }
  [[nodiscard]] double variation() const {
    auto const routed = routed_load();
    double const n = static_cast<double>(routed.size()), mean = sum(routed) / n;
    double squares = 0;
    for (double const c : routed) squares += (c - mean) * (c - mean);
    return mean > 0 ? std::sqrt(squares / n) / mean : 0;
  }
  [[nodiscard]] std::size_t dead_experts() const {
    return static_cast<std::size_t>(std::count(load.begin(), load.end(), 0.0));
  }
  [[nodiscard]] double dropped_gate() const { return tokens > 0 ? 1 - kept_probability / tokens : 0; }

  template <class A>
  void add(RouterObservation<A> const& seen) {
    std::size_t const e_count = seen.load.size(), slots = static_cast<std::size_t>(seen.top_k);
    if (load.empty()) {
      name = seen.name;
      shared = static_cast<std::size_t>(seen.shared_experts);
      load.resize(e_count);
      probability.resize(e_count);
      coactivation.resize(e_count * e_count);
    }
    expects(load.size() == e_count, seen.name, ": expected ", load.size(), " experts as before, found ", e_count);
    double const n = static_cast<double>(seen.tokens);
    tokens += n;
    conditional_entropy_sum += seen.conditional_entropy * n;
    for (std::size_t e = 0; e < e_count; ++e) {
      load[e] += seen.load[e];
      probability[e] += seen.mean_probability[e] * n;
    }
    std::size_t const rows = slots == 0 ? 0 : seen.experts.size() / slots;
    for (std::size_t t = 0; t < rows; ++t) {
      ExpertId const* const chosen = &seen.experts[t * slots];
      for (std::size_t s = 0; s < slots; ++s) {
        if (chosen[s] < 0) continue;
        auto const e = static_cast<std::size_t>(chosen[s]);
        kept_probability += static_cast<double>(seen.probabilities[t * e_count + e]);
        for (std::size_t other = 0; other < slots; ++other)
          if (chosen[other] >= 0) coactivation[e * e_count + static_cast<std::size_t>(chosen[other])] += 1;
      }
    }
  }
  /// The tokens of another summary of the same router, too.
  void add(RouterSummary const& other) {
    if (load.empty()) {
      *this = other;
      return;
    }
    if (other.load.empty()) return;
    expects(load.size() == other.load.size(), name, ": expected ", load.size(), " experts, found ", other.load.size());
    auto const join = [](std::vector<double>& mine, std::vector<double> const& theirs) {
      for (std::size_t i = 0; i < mine.size(); ++i) mine[i] += theirs[i];
    };
    tokens += other.tokens;
    join(load, other.load);
    join(probability, other.probability);
    join(coactivation, other.coactivation);
    conditional_entropy_sum += other.conditional_entropy_sum;
    kept_probability += other.kept_probability;
  }

  /// Of weights that need not sum to 1, nats.
  static double entropy(std::vector<double> const& weights) {
    double h = 0;
    for (double const share : shares(weights)) h -= share > 0 ? share * std::log(share) : 0;
    return h;
  }
  static double sum(std::vector<double> const& x) {
    double total = 0;
    for (double const value : x) total += value;
    return total;
  }

 private:
  static std::vector<double> shares(std::vector<double> x) {
    double const total = sum(x);
    if (total > 0)
      for (double& value : x) value /= total;
    return x;
  }
};

/// All routers of a model, over domains of data.
class RoutingSummary {
 public:
  /// Throws Error for domains without a name, or of one name.
  explicit RoutingSummary(std::vector<std::string> domains = {"all"})
      : domains_(std::move(domains)), by_domain_(domains_.size()) {
    for (auto name = domains_.begin(); name != domains_.end(); ++name) {
      expects(!name->empty(), "routing summary: domain ", name - domains_.begin(), ": expected a name, found none");
      expects(std::find(domains_.begin(), name, *name) == name, "routing summary: the domain ", *name,
              " is named twice");
    }
  }

  /// What a forward on a batch of this domain observed (want_routing).
  template <class A>
  void add(std::size_t domain, Observation<A> const& seen) {
    add_all(domain, seen.routers);
  }

  /// What routers did over some tokens of this domain.
  void add(std::size_t domain, std::vector<RouterSummary> const& seen) {
    add_all(domain, seen);
  }

  [[nodiscard]] std::vector<std::string> const& domains() const { return domains_; }
  /// Attention and feed-forward of each layer in turn.
  [[nodiscard]] std::vector<RouterSummary> const& routers(std::size_t domain) const { return by_domain_[domain]; }
  /// The same over all domains.
  [[nodiscard]] std::vector<RouterSummary> routers() const {
    std::vector<RouterSummary> all;
    for (auto const& routers : by_domain_) {
      all.resize(std::max(all.size(), routers.size()));
      for (std::size_t r = 0; r < routers.size(); ++r) all[r].add(routers[r]);
    }
    return all;
  }
  /// I(e;d) of a router, nats; 0 for one domain.
  [[nodiscard]] double domain_information(std::size_t router) const {
    std::vector<double> all;
    double within = 0;
    for (auto const& routers : by_domain_) {
      if (router >= routers.size()) continue;
      auto const load = routers[router].routed_load();
      all.resize(load.size());
      for (std::size_t e = 0; e < load.size(); ++e) all[e] += load[e];
      within += RouterSummary::sum(load) * RouterSummary::entropy(load);
    }
    double const slots = RouterSummary::sum(all);
    return slots > 0 ? std::max(0.0, RouterSummary::entropy(all) - within / slots) : 0;
  }

 private:
  template <class Router>
  void add_all(std::size_t domain, std::vector<Router> const& seen) {
    expects(domain < domains_.size(), "routing summary: expected a domain below ", domains_.size(), ", found ", domain);
    auto& routers = by_domain_[domain];
    expects(!seen.empty(), "routing summary: expected an observation of routers, found none of them");
    expects(routers.empty() || routers.size() == seen.size(), "routing summary: expected ", routers.size(),
            " routers as before, found ", seen.size());
    routers.resize(seen.size());
    for (std::size_t r = 0; r < seen.size(); ++r) routers[r].add(seen[r]);
  }

  std::vector<std::string> domains_;
  std::vector<std::vector<RouterSummary>> by_domain_;
};

}  // namespace moduleformer
