// SPDX-License-Identifier: MIT
// Policies of one's own (custom_policies.hpp) as template arguments of a model. Trains the published choices, a router
// and a loss of one's own, and a model that does not route at all, for some steps on this source, and compares loss and
// balance. Returns 1 if one did not learn.
#include "custom_policies.hpp"

#include <moduleformer/moduleformer.hpp>

#include <algorithm>
#include <exception>
#include <iostream>
#include <string_view>

constexpr mf::Shape shape{
    .vocab_size = 256, .hidden_size = 64, .layers = 2, .router_hidden_size = 32,
    .attention    = {.experts = 4, .top_k = 2, .heads = 2, .hidden_size = 64},
    .feed_forward = {.experts = 8, .top_k = 2, .hidden_size = 128},
};
using Published = mf::CausalLM<shape>;
using Custom = mf::CausalLM<shape, mf::Policies<BiasedRouter, SquaredImbalance>>;
using Unrouted = mf::CausalLM<shape, mf::Policies<InTurn, EvenGates, mf::NoRoutingLoss>>;

/// Trains a fresh model; whether its loss fell.
template <class Model>
bool train(std::string_view what, double loss_weight) {
  constexpr mf::Index steps = 80;
  auto model = Model::random(1, {.aux_loss_weight = loss_weight});
  mf::Trainer trainer{model, mf::AdamW{.learning_rate = 5e-3}, mf::WarmupCosine{.warmup = 10, .total = steps}};
  mf::ByteBatches const batches{__FILE__, {.rows = 4, .tokens = 64, .steps = steps, .seed = 1, .held_out = 0.1}};
  double first = 0, last = 0;
  for (auto const& batch : batches) {
    mf::StepReport const report = trainer.step(batch);
    if (report.step == 1) first = report.task;
    last = report.task;
  }
  mf::Session session{model};
  auto const evaluation = mf::evaluate(model, session, batches.held_out());
  std::cout << what << ": loss " << first << " -> " << last << ", busiest expert of each router:";
  for (auto const& router : evaluation.routers) std::cout << ' ' << std::ranges::max(router.load_share());
  std::cout << '\n';
  return last < 0.7 * first;
}

int main() {
  try {
    bool const published = train<Published>("published", 1e-3), custom = train<Custom>("custom", 1),
               unrouted = train<Unrouted>("unrouted", 0);
    return published && custom && unrouted ? 0 : 1;
  } catch (std::exception const& error) {
    std::cerr << "custom_policy: " << error.what() << '\n';
    return 1;
  }
}
