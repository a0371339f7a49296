// SPDX-License-Identifier: MIT
#pragma once
// Evaluation: cross-entropy over all batches of a range, and how each router spread their tokens. With s the sum
// of -ln p(target) over n targets: nats per token s/n, perplexity exp(s/n), bits per token s/(n ln 2), which are
// bits per byte where tokens are bytes. Targets without context count ln V each.

#include <moduleformer/model/model.hpp>
#include <moduleformer/model/routing_summary.hpp>

#include <cmath>
#include <numbers>
#include <string>
#include <vector>

namespace moduleformer {

struct Evaluation {
  Index tokens = 0;  // targets that count, those without context included
  double nats = 0;   // summed over them
  std::vector<RouterSummary> routers;  // (2L) attention and feed-forward of each layer

  [[nodiscard]] double nats_per_token() const { return nats / static_cast<double>(tokens); }
  [[nodiscard]] double perplexity() const { return std::exp(nats_per_token()); }
  [[nodiscard]] double bits_per_token() const { return nats_per_token() / std::numbers::ln2; }
  /// The same where a token is a byte.
  [[nodiscard]] double bits_per_byte() const { return bits_per_token(); }
};

/// Runs the model, without dropout and sampled slots, over every batch of a range such as
/// ByteBatches{...}.held_out(), on the recorded routes if given. Throws Error if nothing counts, or the record is of more.
template <class Model, class Batches>
Evaluation evaluate(Model const& model, typename Model::SessionType& session, Batches const& batches,
                    RouteRecord const* replayed = nullptr) {
  Evaluation result;
  Index number = 0;
  Observation<typename Model::Accumulator> seen;
  for (Batch const& batch : batches) {
    Replay const replay = replayed != nullptr ? replayed->replay(number++) : Replay{};
    LossReport const loss = model.loss(session, batch, {.observation = &seen, .replay = replay});
    result.tokens += loss.counted;
    result.nats += loss.task * static_cast<double>(loss.counted);
    result.routers.resize(seen.routers.size());
    for (std::size_t i = 0; i < seen.routers.size(); ++i) result.routers[i].add(seen.routers[i]);
  }
  expects(replayed == nullptr || replayed->size() == number, "evaluate: the record has ",
          replayed == nullptr ? 0 : replayed->size(), " batches, the text only ", number);
  if constexpr (requires { batches.without_context(); }) {
    result.tokens += batches.without_context();
    result.nats += static_cast<double>(batches.without_context()) * std::log(static_cast<double>(model.outputs()));
  }
  expects(result.tokens > 0, "evaluate: expected at least one batch with a target that counts");
  return result;
}

}  // namespace moduleformer
