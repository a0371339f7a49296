// SPDX-License-Identifier: MIT
#pragma once
// Every primitive of the CPU backend that is worth compiling once, as a list for explicit instantiation:
// MODULEFORMER_CPU_INSTANCES(extern, float) declares, MODULEFORMER_CPU_INSTANCES(, float) defines them.
// Activations are the library's own; a user's one is instantiated where it is used.

#define MODULEFORMER_CPU_PRODUCTS(prefix, S)                                                                           \
  prefix template void gemm<S>(Trans, Trans, Index, Index, Index, S, S const*, Index, S const*, Index, S, S*, Index,   \
                               S*);                                                                                    \
  prefix template void linear<S>(Cpu<S>&, Matrix<S const>, Matrix<S const>, Vector<S const>, Matrix<S>);               \
  prefix template void linear_input_gradient<S>(Cpu<S>&, Matrix<S const>, Matrix<S const>, Matrix<S>, bool);           \
  prefix template void linear_weight_gradient<S>(Cpu<S>&, Matrix<S const>, Matrix<S const>, Index, Matrix<S>);         \
  prefix template void bias_gradient<S>(Cpu<S>&, Matrix<S const>, Index, Vector<S>);                                   \
  prefix template void expert_input_gradient<S>(Cpu<S>&, RoutingPlan const&, Matrix<S const>, Rows,                    \
                                                TensorView<S const, 3>, Matrix<S>, Rows);                              \
  prefix template void expert_weight_gradient<S>(Cpu<S>&, RoutingPlan const&, Matrix<S const>, Rows, Matrix<S const>,  \
                                                 Rows, Index, TensorView<S, 3>);

#define MODULEFORMER_CPU_ACTIVATION(prefix, S, Act)                                                                    \
  prefix template void expert_forward<S, Act>(Cpu<S>&, RoutingPlan const&, Act const&, Matrix<S const>, Rows,          \
                                              TensorView<S const, 3>, Vector<S const>, Matrix<S>, Matrix<S>, Rows);    \
  prefix template void expert_backward<S, Act>(Cpu<S>&, RoutingPlan const&, Act const&, Matrix<S const>, Rows,         \
                                               TensorView<S const, 3>, Vector<S const>, Matrix<S const>, Rows,         \
                                               Vector<S>, Matrix<S>, Matrix<S>);                                       \
  prefix template void activation_forward<S, Act>(Cpu<S>&, Act const&, Matrix<S const>, Matrix<S>);                    \
  prefix template void activation_backward<S, Act>(Cpu<S>&, Act const&, Matrix<S const>, Matrix<S const>, Matrix<S>);

#define MODULEFORMER_CPU_ELEMENTWISE(prefix, S)                                                                        \
  prefix template void combine<S>(Cpu<S>&, Index, Matrix<S const>, Dropout, Matrix<S const>, Matrix<S>);               \
  prefix template void apply_dropout<S>(Cpu<S>&, Dropout, Matrix<S const>, Matrix<S>);                                 \
  prefix template void apply_jitter<S>(Cpu<S>&, Jitter, Matrix<S const>, Matrix<S>);                                   \
  prefix template void add<S>(Cpu<S>&, Matrix<S const>, Matrix<S>);                                                    \
  prefix template void scale_by<S>(Cpu<S>&, Vector<S const>, Matrix<S const>, Matrix<S>);                              \
  prefix template void dot<S>(Cpu<S>&, Matrix<S const>, Matrix<S const>, Vector<S>);                                   \
  prefix template void fill<S>(Cpu<S>&, Vector<S>, S);                                                                 \
  prefix template void layer_norm<S>(Cpu<S>&, Matrix<S const>, Vector<S const>, Vector<S const>, double, Matrix<S>,    \
                                     Vector<S>, Vector<S>);                                                            \
  prefix template void layer_norm_backward<S>(Cpu<S>&, Matrix<S const>, Matrix<S const>, Vector<S const>,              \
                                              Vector<S const>, Vector<S const>, Matrix<S>, Vector<S>, Vector<S>);      \
  prefix template void combine_layer_norm<S>(Cpu<S>&, Index, Matrix<S const>, Dropout, Matrix<S const>,                \
                                             Vector<S const>, Vector<S const>, double, Matrix<S>, Matrix<S>,           \
                                             Vector<S>, Vector<S>);                                                    \
  prefix template void combine_layer_norm_backward<S>(Cpu<S>&, Index, Matrix<S const>, Matrix<S const>,                \
                                                      Matrix<S const>, Vector<S const>, Vector<S const>,               \
                                                      Vector<S const>, Matrix<S>, Vector<S>, Vector<S>);               \
  prefix template void embedding<S>(Cpu<S>&, Matrix<S const>, Vector<TokenId const>, Matrix<S>);                       \
  prefix template void embedding_backward<S>(Cpu<S>&, Vector<TokenId const>, Matrix<S const>, Matrix<S>);              \
  prefix template void gather_rows<S>(Cpu<S>&, Matrix<S const>, Vector<std::int32_t const>, Matrix<S>);                \
  prefix template void scatter_rows<S>(Cpu<S>&, Matrix<S const>, Vector<std::int32_t const>, Matrix<S>);               \
  prefix template void cross_entropy<S>(Cpu<S>&, Matrix<S const>, Matrix<S const>, Vector<TokenId const>,             \
                                        Vector<double const>, Matrix<S>, Matrix<S>, Vector<double>);                   \
  prefix template void adamw<S>(Cpu<S>&, AdamWConstants const&, Vector<AdamWStep const>, Vector<S const>, Vector<S>,   \
                                Vector<S>, Vector<S>, Vector<S>);                                                      \
  prefix template void squared_norm<S>(Cpu<S>&, Vector<S const>, Vector<double>);

#define MODULEFORMER_CPU_ROUTING(prefix, S)                                                                            \
  prefix template void softmax<S>(Cpu<S>&, Matrix<S const>, Matrix<S>, Vector<S>);                                     \
  prefix template void top_k<S>(Cpu<S>&, Matrix<S const>, Matrix<ExpertId>);                                           \
  prefix template void sampled_top_k<S>(Cpu<S>&, Matrix<S const>, Matrix<S const>, Index, RandomSource,                \
                                        Matrix<ExpertId>);                                                             \
  prefix template void restrict_to_pools<S>(Cpu<S>&, Vector<Sequence const>, Index, Index, RandomSource,                \
                                            Matrix<S const>, Matrix<S>);                                               \
  prefix template void expert_choice<S>(Cpu<S>&, Matrix<S const>, Index, Matrix<ExpertId>);                            \
  prefix template void sort_by_expert<S>(Cpu<S>&, Vector<ExpertId const>, Index, Vector<std::int32_t>, Vector<Index>,  \
                                         bool);                                                                        \
  prefix template void sum_routing<S>(Cpu<S>&, Matrix<S const>, Matrix<S const>, Vector<S const>, Matrix<S const>,     \
                                      Matrix<ExpertId const>, RoutingStatistics);                                      \
  prefix template void routing_backward<S>(Cpu<S>&, Matrix<S const>, Matrix<S const>, Vector<S const>,                 \
                                           Matrix<ExpertId const>, Matrix<S const>, RoutingGradient, Matrix<S>);       \
  prefix template void chosen_gates<S>(Cpu<S>&, GateFunction, Matrix<S const>, Matrix<ExpertId const>, Matrix<S>);     \
  prefix template void chosen_gates_backward<S>(Cpu<S>&, GateFunction, Matrix<S const>, Matrix<ExpertId const>,        \
                                                Matrix<S const>, Matrix<S const>, Vector<double const>, Matrix<S>);    \
  prefix template void gumbel_scores<S>(Cpu<S>&, double, RandomSource, Matrix<S const>, Matrix<S>);                    \
  prefix template void biased_scores<S>(Cpu<S>&, Matrix<S const>, Vector<S const>, Matrix<S>);                         \
  prefix template void normalise_rows<S>(Cpu<S>&, Matrix<S const>, Matrix<S>, Vector<S>);                              \
  prefix template void normalise_rows_backward<S>(Cpu<S>&, Matrix<S const>, Matrix<S const>, Vector<S const>, Matrix<S>);

#define MODULEFORMER_CPU_ATTENTION(prefix, S)                                                                          \
  prefix template void stick_breaking_forward<S>(Cpu<S>&, StickBreakingVariant, AttentionExtents,                      \
                                                 Vector<Sequence const>, Matrix<S const>, Matrix<S const>,             \
                                                 Matrix<S const>, Matrix<S>, Matrix<S>, Matrix<std::int32_t>);         \
  prefix template void stick_breaking_backward<S>(Cpu<S>&, StickBreakingVariant, AttentionExtents,                     \
                                                  Vector<Sequence const>, Matrix<S const>, Matrix<S const>,            \
                                                  Matrix<S const>, Matrix<S const>, Matrix<S const>,                   \
                                                  Matrix<std::int32_t const>, Matrix<S>, Matrix<S>, Matrix<S>);        \
  prefix template void stick_breaking_weights<S>(Cpu<S>&, StickBreakingVariant, AttentionExtents, Sequence,            \
                                                 Matrix<S const>, Matrix<S const>, TensorView<S, 4>);

#define MODULEFORMER_CPU_INSTANCES(prefix, S)                                                                          \
  MODULEFORMER_CPU_PRODUCTS(prefix, S)                                                                                 \
  MODULEFORMER_CPU_ACTIVATION(prefix, S, Identity)                                                                     \
  MODULEFORMER_CPU_ACTIVATION(prefix, S, GeluTanh)                                                                     \
  MODULEFORMER_CPU_ACTIVATION(prefix, S, Gelu)                                                                         \
  MODULEFORMER_CPU_ACTIVATION(prefix, S, Relu)                                                                         \
  MODULEFORMER_CPU_ACTIVATION(prefix, S, Silu)                                                                         \
  MODULEFORMER_CPU_ACTIVATION(prefix, S, Tanh)                                                                         \
  MODULEFORMER_CPU_ELEMENTWISE(prefix, S)                                                                              \
  MODULEFORMER_CPU_ROUTING(prefix, S)                                                                                  \
  MODULEFORMER_CPU_ATTENTION(prefix, S)
