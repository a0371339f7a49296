// SPDX-License-Identifier: MIT
#pragma once
// The golden cases' shapes and policies as types.

#include <moduleformer/backend/cpu.hpp>

#include "model/golden.hpp"

namespace moduleformer::test {

inline constexpr Shape golden_shape{
    .vocab_size = 61, .hidden_size = 24, .layers = 2, .router_hidden_size = 12,
    .attention    = {.experts = 4, .top_k = 2, .heads = 2, .hidden_size = 16},
    .feed_forward = {.experts = 6, .top_k = 2, .hidden_size = 40},
};
inline constexpr Shape dense_shape = [] {
  Shape shape = golden_shape;
  shape.attention.experts = 2;
  shape.feed_forward.experts = shape.feed_forward.top_k = 3;
  return shape;
}();
inline constexpr Shape linear_shape = [] {
  Shape shape = golden_shape;
  shape.feed_forward.experts = 5;
  shape.feed_forward.top_k = 3;
  return shape;
}();
inline constexpr Shape single_head_shape = [] {
  Shape shape = golden_shape;
  shape.attention = {.experts = 4, .top_k = 1, .heads = 1, .hidden_size = 24};
  return shape;
}();
inline constexpr Shape classifier_shape = [] {
  Shape shape = golden_shape;
  shape.labels = 3;
  return shape;
}();

/// The three routers.
template <class S>
void check_static_routers() {
  check_golden<CausalLM<golden_shape, Policies<>, Cpu<S>>>("mlp_router_mutual_information");
  check_golden<CausalLM<golden_shape, Policies<>, Cpu<S>>>("left_padded_batch");
  check_golden<CausalLM<linear_shape, Policies<LinearRouter, SwitchLoss>, Cpu<S>>>("linear_router_switch_loss");
  check_golden<CausalLM<golden_shape, Policies<GmmRouter, Gelu>, Cpu<S>>>("gmm_router_mutual_information");
}

/// Other shapes and the other head.
template <class S>
void check_static_shapes() {
  check_golden<CausalLM<dense_shape, Policies<Silu>, Cpu<S>>>("dense_all_experts");
  check_golden<CausalLM<single_head_shape, Policies<Relu>, Cpu<S>>>("single_head_shared_keys");
  check_golden<SequenceClassifier<classifier_shape, Policies<>, Cpu<S>>>("sequence_classification");
}

}  // namespace moduleformer::test
