// SPDX-License-Identifier: MIT
#pragma once
// What the benchmark of routing policies compares: a name, what it is, and how a model gets it. Weights of routing losses
// are those usual for each: mutual information 0.001 (arXiv 2306.04640), switch 0.01 (arXiv 2101.03961), importance 0.1
// (arXiv 1701.06538), router-z 0.001 (arXiv 2202.08906).

#include <moduleformer/model/causal_lm.hpp>

#include <array>
#include <string_view>

namespace bench {

namespace mf = moduleformer;

/// Every policy chosen at run time: one program for all of them.
using Model = mf::CausalLM<mf::dynamic_shape, mf::dynamic_policies>;

struct Routing {
  mf::dynamic_policies policies{};
  mf::Settings settings{};
};

struct Variant {
  std::string_view name;
  std::string_view what;
  void (*choose)(Routing&);
};

inline constexpr std::array variants{
    Variant{"mi", "published: mlp router, softmax gates, mutual information 0.001",
            [](Routing& r) { r.settings.aux_loss_weight = 1e-3; }},
    Variant{"mi-strong", "mutual information 0.01", [](Routing& r) { r.settings.aux_loss_weight = 1e-2; }},
    Variant{"none", "no routing loss", [](Routing& r) { r.policies.routing_loss = mf::NoRoutingLoss{}; }},
    Variant{"switch", "switch 0.01 and router-z 0.001",
            [](Routing& r) {
              r.policies.routing_loss = mf::SwitchLoss{};
              r.settings.aux_loss_weight = 1e-2;
            }},
    Variant{"router-z", "router-z 0.001",
            [](Routing& r) {
              r.policies.routing_loss = mf::RouterZLoss{};
              r.settings.aux_loss_weight = 1e-3;
            }},
    Variant{"importance", "squared variation of the gates 0.1",
            [](Routing& r) {
              r.policies.routing_loss = mf::ImportanceLoss{};
              r.settings.aux_loss_weight = 1e-1;
            }},
    Variant{"concentration", "load concentration 0.001, as before pruning",
            [](Routing& r) {
              r.policies.routing_loss = mf::LoadConcentrationLoss{};
              r.settings.aux_loss_weight = 1e-3;
            }},
    Variant{"linear", "linear router, mutual information 0.001",
            [](Routing& r) {
              r.policies.router = mf::LinearRouter{};
              r.settings.aux_loss_weight = 1e-3;
            }},
    Variant{"cosine", "cosine router, mutual information 0.001",
            [](Routing& r) {
              r.policies.router = mf::GmmRouter{};
              r.settings.aux_loss_weight = 1e-3;
            }},
    Variant{"sampled", "one of the slots drawn in training, mutual information 0.001",
            [](Routing& r) {
              r.settings.sampled_slots = 1;
              r.settings.aux_loss_weight = 1e-3;
            }},
};

}  // namespace bench
