// SPDX-License-Identifier: MIT
#pragma once
// What the benchmark of routing policies compares: a name, what it is, and how a model gets it. Weights of routing losses
// are those usual for each: mutual information 0.001 (arXiv 2306.04640), switch 0.01 (arXiv 2101.03961), importance and load 0.01
// (of the order of arXiv 1701.06538), router-z 0.001 (arXiv 2202.08906).

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

namespace detail {

template <class Loss>
void lose(Routing& r, double weight, Loss loss = {}) {
  r.policies.routing_loss = loss;
  r.settings.aux_loss_weight = weight;
}
/// Importance and load, as one loss: both squared variations.
inline void lose_variation(Routing& r, double weight) {
  auto& loss = r.policies.routing_loss;
  (void)mf::choose_policy(loss, "weighted_sum");
  mf::visit_policy_numbers(loss, [](std::string_view name, double& number) {
    if (name == "importance_cv2" || name == "load_cv2") number = 1;
  });
  r.settings.aux_loss_weight = weight;
}

}  // namespace detail

/// The first is what the others are compared with.
inline constexpr std::array variants{
    Variant{"mi", "published: mlp router, top-k, softmax gates, mutual information 0.001",
            [](Routing& r) { detail::lose<mf::MutualInformationLoss>(r, 1e-3); }},
    Variant{"mi-strong", "mutual information 0.01",
            [](Routing& r) { detail::lose<mf::MutualInformationLoss>(r, 1e-2); }},
    Variant{"none", "no routing loss", [](Routing& r) { detail::lose<mf::NoRoutingLoss>(r, 0); }},
    Variant{"switch", "switch with a tenth of router-z, 0.01",
            [](Routing& r) { detail::lose<mf::SwitchLoss>(r, 1e-2); }},
    Variant{"variation", "squared variation of importance and of load, 0.01",
            [](Routing& r) { detail::lose_variation(r, 1e-2); }},
    Variant{"router-z", "router-z 0.001", [](Routing& r) { detail::lose<mf::RouterZLoss>(r, 1e-3); }},
    Variant{"concentration", "load concentration 0.001, meant for before pruning",
            [](Routing& r) { detail::lose<mf::LoadConcentrationLoss>(r, 1e-3); }},
    Variant{"bias", "sigmoid gates, no loss, a bias that follows the load",
            [](Routing& r) {
              detail::lose<mf::NoRoutingLoss>(r, 0);
              r.policies.selection = mf::BiasedTopK{};
              r.policies.gating = mf::NormalisedSigmoidGates{};
            }},
    Variant{"top-k-softmax", "softmax over the chosen, switch 0.01",
            [](Routing& r) {
              detail::lose<mf::SwitchLoss>(r, 1e-2);
              r.policies.gating = mf::TopKSoftmaxGates{};
            }},
    Variant{"linear", "linear router, mutual information 0.001",
            [](Routing& r) {
              detail::lose<mf::MutualInformationLoss>(r, 1e-3);
              r.policies.router = mf::LinearRouter{};
            }},
    Variant{"cosine", "cosine router, mutual information 0.001",
            [](Routing& r) {
              detail::lose<mf::MutualInformationLoss>(r, 1e-3);
              r.policies.router = mf::GmmRouter{};
            }},
    Variant{"sampled", "one of the two slots drawn in training, mutual information 0.001",
            [](Routing& r) {
              detail::lose<mf::MutualInformationLoss>(r, 1e-3);
              r.settings.sampled_slots = 1;
            }},
    Variant{"gumbel", "top-k under Gumbel noise in training, mutual information 0.001",
            [](Routing& r) {
              detail::lose<mf::MutualInformationLoss>(r, 1e-3);
              r.policies.selection = mf::GumbelTopK{};
            }},
    Variant{"jitter", "the router's input times draws from 0.99 to 1.01 in training, switch 0.01",
            [](Routing& r) {
              detail::lose<mf::SwitchLoss>(r, 1e-2);
              r.settings.router_jitter = 0.01;
            }},
    Variant{"shared", "one feed-forward expert of each layer serves every token, switch 0.01",
            [](Routing& r) {
              detail::lose<mf::SwitchLoss>(r, 1e-2);
              r.policies.shared_experts = mf::SharedExperts<>{.attention = 0, .feed_forward = 1};
            }},
    Variant{"pools", "a pool of experts for each document in training, switch 0.01",
            [](Routing& r) {
              detail::lose<mf::SwitchLoss>(r, 1e-2);
              r.policies.selection = mf::DocumentPool{};
            }},
    Variant{"expert-choice", "experts choose tokens in training (top-k when evaluated), no loss",
            [](Routing& r) {
              detail::lose<mf::NoRoutingLoss>(r, 0);
              mf::ExpertChoice choice;
              choice.most_experts = 4;
              r.policies.selection = choice;
            }},
};

}  // namespace bench
