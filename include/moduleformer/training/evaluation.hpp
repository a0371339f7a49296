// SPDX-License-Identifier: MIT
#pragma once
// Evaluation: cross-entropy over all batches of a range, and how each router spread their tokens. With s the sum
// of -ln p(target) over n targets: nats per token s/n, perplexity exp(s/n), bits per token s/(n ln 2), which are
// bits per byte where tokens are bytes. Targets without context count ln V each.

#include <moduleformer/model/model.hpp>

#include <cmath>
#include <numbers>
#include <string>
#include <vector>

namespace moduleformer {

/// How one router spread the tokens.
struct RouterUse {
  std::string name;                      // as in checkpoints
  Index top_k = 0;
  std::vector<double> load;              // (E) share of all slots that chose each expert, sums to 1
  std::vector<double> mean_probability;  // (E) sums to 1
  double conditional_entropy = 0;        // H(e|x), nats: how undecided the router is about a token

  /// H(e) of the mean probabilities, nats: ln E if all experts are used alike.
  [[nodiscard]] double marginal_entropy() const { return entropy(mean_probability); }
  /// exp of the load's entropy: how many experts, used alike, would be as spread.
  [[nodiscard]] double effective_experts() const { return std::exp(entropy(load)); }

 private:
  static double entropy(std::vector<double> const& shares) {
    double sum = 0;
    for (double const p : shares) sum -= p > 0 ? p * std::log(p) : 0;
    return sum;
  }
};

struct Evaluation {
  Index tokens = 0;  // targets that count, those without context included
  double nats = 0;   // summed over them
  std::vector<RouterUse> routers;  // (2L) attention and feed-forward of each layer

  [[nodiscard]] double nats_per_token() const { return nats / static_cast<double>(tokens); }
  [[nodiscard]] double perplexity() const { return std::exp(nats_per_token()); }
  [[nodiscard]] double bits_per_token() const { return nats_per_token() / std::numbers::ln2; }
  /// The same where a token is a byte.
  [[nodiscard]] double bits_per_byte() const { return bits_per_token(); }
};

/// Runs the model, without dropout and sampled slots, over every batch of a range such as
/// ByteBatches{...}.held_out(), on the recorded routes if given. Throws Error if nothing counts.
template <class Model, class Batches>
Evaluation evaluate(Model const& model, typename Model::SessionType& session, Batches const& batches,
                    RouteRecord const* replayed = nullptr) {
  Evaluation result;
  Index number = 0;
  Observation<typename Model::Accumulator> seen;
  double routed = 0;
  for (Batch const& batch : batches) {
    Replay const replay = replayed != nullptr ? replayed->replay(number++) : Replay{};
    LossReport const loss = model.loss(session, batch, {.observation = &seen, .replay = replay});
    result.tokens += loss.counted;
    result.nats += loss.task * static_cast<double>(loss.counted);
    auto const n = static_cast<double>(session.packed.tokens());
    routed += n;
    result.routers.resize(seen.routers.size());
    for (std::size_t i = 0; i < seen.routers.size(); ++i) {
      auto const& from = seen.routers[i];
      RouterUse& use = result.routers[i];
      use.name = from.name;
      use.top_k = from.top_k;
      use.load.resize(from.load.size());
      use.mean_probability.resize(from.load.size());
      for (std::size_t e = 0; e < from.load.size(); ++e) {
        use.load[e] += from.load[e];
        use.mean_probability[e] += from.mean_probability[e] * n;
      }
      use.conditional_entropy += from.conditional_entropy * n;
    }
  }
  if constexpr (requires { batches.without_context(); }) {
    result.tokens += batches.without_context();
    result.nats += static_cast<double>(batches.without_context()) * std::log(static_cast<double>(model.outputs()));
  }
  expects(result.tokens > 0, "evaluate: expected at least one batch with a target that counts");
  for (RouterUse& use : result.routers) {
    for (double& share : use.load) share /= routed * static_cast<double>(use.top_k);
    for (double& p : use.mean_probability) p /= routed;
    use.conditional_entropy /= routed;
  }
  return result;
}

}  // namespace moduleformer
