// SPDX-License-Identifier: MIT
#pragma once
// Every primitive of the CUDA backend that is worth compiling once, as a list for explicit instantiation on platform P:
// MODULEFORMER_CUDA_INSTANCES(extern, float, Gpu) declares, MODULEFORMER_CUDA_INSTANCES(, float, Gpu) defines them;
// for bfloat16, MODULEFORMER_CUDA_FLOAT_RESULTS goes with it. Its groups are lists of their own, so that files compile
// in parallel. Activations are the library's own; a user's one is instantiated where it is used.

#define MODULEFORMER_CUDA_PRODUCTS(prefix, S, P)                                                                       \
  prefix template void linear<S, P>(CudaBackend<S, P>&, Matrix<S const>, Matrix<S const>, Vector<S const>, Matrix<S>); \
  prefix template void linear_input_gradient<S, P>(CudaBackend<S, P>&, Matrix<S const>, Matrix<S const>, Matrix<S>,    \
                                                   bool);                                                              \
  prefix template void linear_weight_gradient<S, P>(CudaBackend<S, P>&, Matrix<S const>, Matrix<S const>, Index,       \
                                                    Matrix<float>);                                                    \
  prefix template void bias_gradient<S, P>(CudaBackend<S, P>&, Matrix<S const>, Index, Vector<float>);                 \
  prefix template void expert_input_gradient<S, P>(CudaBackend<S, P>&, RoutingPlan const&, Matrix<S const>, Rows,      \
                                                   TensorView<S const, 3>, Matrix<S>, Rows);                           \
  prefix template void expert_weight_gradient<S, P>(CudaBackend<S, P>&, RoutingPlan const&, Matrix<S const>, Rows,     \
                                                    Matrix<S const>, Rows, Index, TensorView<float, 3>);               \
  prefix template void cross_entropy<S, P>(CudaBackend<S, P>&, Matrix<S const>, Matrix<S const>,                       \
                                           Vector<TokenId const>, Vector<double const>, Matrix<S>, Matrix<float>,      \
                                           Vector<double>);

// Where S is not float, results in float are functions of their own.
#define MODULEFORMER_CUDA_FLOAT_RESULTS(prefix, S, P)                                                                  \
  prefix template void linear<S, P>(CudaBackend<S, P>&, Matrix<S const>, Matrix<S const>, Vector<S const>,             \
                                    Matrix<float>);                                                                    \
  prefix template void add<S, P>(CudaBackend<S, P>&, Matrix<float const>, Matrix<float>);

#define MODULEFORMER_CUDA_ACTIVATION(prefix, S, P, Act)                                                                \
  prefix template void expert_forward<S, P, Act>(CudaBackend<S, P>&, RoutingPlan const&, Act const&, Matrix<S const>,  \
                                                 Rows, TensorView<S const, 3>, Vector<float const>, Matrix<S>,         \
                                                 Matrix<S>, Rows);                                                     \
  prefix template void expert_backward<S, P, Act>(CudaBackend<S, P>&, RoutingPlan const&, Act const&, Matrix<S const>, \
                                                  Rows, TensorView<S const, 3>, Vector<float const>, Matrix<S const>,  \
                                                  Rows, Vector<float>, Matrix<S>, Matrix<S>);                          \
  prefix template void activation_forward<S, P, Act>(CudaBackend<S, P>&, Act const&, Matrix<S const>, Matrix<S>);      \
  prefix template void activation_backward<S, P, Act>(CudaBackend<S, P>&, Act const&, Matrix<S const>,                 \
                                                      Matrix<S const>, Matrix<S>);

#define MODULEFORMER_CUDA_ELEMENTWISE(prefix, S, P)                                                                    \
  prefix template void combine<S, P>(CudaBackend<S, P>&, Index, Matrix<S const>, Dropout, Matrix<S const>, Matrix<S>); \
  prefix template void apply_dropout<S, P>(CudaBackend<S, P>&, Dropout, Matrix<S const>, Matrix<S>);                   \
  prefix template void apply_jitter<S, P>(CudaBackend<S, P>&, Jitter, Matrix<S const>, Matrix<S>);                     \
  prefix template void add<S, P>(CudaBackend<S, P>&, Matrix<S const>, Matrix<S>);                                      \
  prefix template void scale_by<S, P>(CudaBackend<S, P>&, Vector<float const>, Matrix<float const>, Matrix<float>);    \
  prefix template void dot<S, P>(CudaBackend<S, P>&, Matrix<float const>, Matrix<float const>, Vector<float>);         \
  prefix template void layer_norm<S, P>(CudaBackend<S, P>&, Matrix<S const>, Vector<S const>, Vector<S const>, double, \
                                        Matrix<S>, Vector<float>, Vector<float>);                                      \
  prefix template void layer_norm_backward<S, P>(CudaBackend<S, P>&, Matrix<S const>, Matrix<S const>,                 \
                                                 Vector<S const>, Vector<float const>, Vector<float const>, Matrix<S>, \
                                                 Vector<float>, Vector<float>);                                        \
  prefix template void combine_layer_norm<S, P>(CudaBackend<S, P>&, Index, Matrix<S const>, Dropout, Matrix<S const>,  \
                                                Vector<S const>, Vector<S const>, double, Matrix<S>, Matrix<S>,        \
                                                Vector<float>, Vector<float>);                                         \
  prefix template void combine_layer_norm_backward<S, P>(                                                              \
      CudaBackend<S, P>&, Index, Matrix<S const>, Matrix<S const>, Matrix<S const>, Vector<S const>,                   \
      Vector<float const>, Vector<float const>, Matrix<S>, Vector<float>, Vector<float>);                              \
  prefix template void embedding<S, P>(CudaBackend<S, P>&, Matrix<S const>, Vector<TokenId const>, Matrix<S>);         \
  prefix template void embedding_backward<S, P>(CudaBackend<S, P>&, Vector<TokenId const>, Matrix<S const>,            \
                                                Matrix<float>);                                                        \
  prefix template void gather_rows<S, P>(CudaBackend<S, P>&, Matrix<S const>, Vector<std::int32_t const>, Matrix<S>);  \
  prefix template void scatter_rows<S, P>(CudaBackend<S, P>&, Matrix<S const>, Vector<std::int32_t const>, Matrix<S>); \
  prefix template void append_rows<S, P>(CudaBackend<S, P>&, Vector<Sequence const>, Matrix<S const>, Matrix<S>);      \
  prefix template void adamw<S, P>(CudaBackend<S, P>&, AdamWConstants const&, Vector<AdamWStep const>,                 \
                                   Vector<float const>, Vector<float>, Vector<S>, Vector<float>, Vector<float>);       \
  prefix template void squared_norm<S, P>(CudaBackend<S, P>&, Vector<float const>, Vector<double>);

#define MODULEFORMER_CUDA_ROUTING(prefix, S, P)                                                                        \
  prefix template void softmax<S, P>(CudaBackend<S, P>&, Matrix<float const>, Matrix<float>, Vector<float>);           \
  prefix template void top_k<S, P>(CudaBackend<S, P>&, Matrix<float const>, Matrix<ExpertId>);                         \
  prefix template void sampled_top_k<S, P>(CudaBackend<S, P>&, Matrix<float const>, Matrix<float const>, Index,        \
                                           RandomSource, Matrix<ExpertId>);                                            \
  prefix template void gather_columns<S, P>(CudaBackend<S, P>&, Matrix<float const>, Matrix<ExpertId const>,           \
                                            Matrix<float>);                                                            \
  prefix template void restrict_to_pools<S, P>(CudaBackend<S, P>&, Vector<Sequence const>, Index, Index, RandomSource, \
                                               Matrix<float const>, Matrix<float>);                                    \
  prefix template void expert_choice<S, P>(CudaBackend<S, P>&, Matrix<float const>, Index, Matrix<ExpertId>);          \
  prefix template void sort_by_expert<S, P>(CudaBackend<S, P>&, Vector<ExpertId const>, Index, Vector<std::int32_t>,   \
                                            Vector<Index>, bool);                                                      \
  prefix template void sum_routing<S, P>(CudaBackend<S, P>&, Matrix<float const>, Matrix<float const>,                 \
                                         Vector<float const>, Matrix<float const>, Matrix<ExpertId const>,             \
                                         RoutingStatistics);                                                           \
  prefix template void routing_backward<S, P>(CudaBackend<S, P>&, Matrix<float const>, Matrix<float const>,            \
                                              Vector<float const>, Matrix<ExpertId const>, Matrix<float const>,        \
                                              RoutingGradient, Matrix<float>);                                         \
  prefix template void chosen_gates<S, P>(CudaBackend<S, P>&, GateFunction, Matrix<float const>,                       \
                                          Matrix<ExpertId const>, Matrix<float>);                                      \
  prefix template void chosen_gates_backward<S, P>(CudaBackend<S, P>&, GateFunction, Matrix<float const>,              \
                                                   Matrix<ExpertId const>, Matrix<float const>, Matrix<float const>,   \
                                                   Vector<double const>, Matrix<float>);                               \
  prefix template void gumbel_scores<S, P>(CudaBackend<S, P>&, double, RandomSource, Matrix<float const>,              \
                                           Matrix<float>);                                                             \
  prefix template void biased_scores<S, P>(CudaBackend<S, P>&, Matrix<float const>, Vector<float const>,               \
                                           Matrix<float>);                                                             \
  prefix template void normalise_rows<S, P>(CudaBackend<S, P>&, Matrix<S const>, Matrix<S>, Vector<float>);            \
  prefix template void normalise_rows_backward<S, P>(CudaBackend<S, P>&, Matrix<S const>, Matrix<S const>,             \
                                                     Vector<float const>, Matrix<S>);

#define MODULEFORMER_CUDA_ATTENTION(prefix, S, P)                                                                      \
  prefix template void stick_breaking_forward<S, P>(CudaBackend<S, P>&, StickBreakingVariant, AttentionExtents,        \
                                                    Vector<Sequence const>, Matrix<S const>, Matrix<S const>,          \
                                                    Matrix<S const>, Matrix<S>, Matrix<float>, Matrix<std::int32_t>);  \
  prefix template void stick_breaking_weights<S, P>(CudaBackend<S, P>&, StickBreakingVariant, AttentionExtents,        \
                                                    Sequence, Matrix<S const>, Matrix<S const>, TensorView<float, 4>);

#define MODULEFORMER_CUDA_ATTENTION_BACKWARD(prefix, S, P)                                                             \
  prefix template void detail::attend_backward<S, P>(CudaBackend<S, P>&, StickBreakingVariant,                         \
                                                     AttentionExtents const&, Vector<Sequence const>, Matrix<S const>, \
                                                     Matrix<S const>, Matrix<S const>, Matrix<S const>,                \
                                                     Matrix<float const>, Matrix<std::int32_t const>, Matrix<S>,       \
                                                     Matrix<S>, Matrix<S>, Index);

#define MODULEFORMER_CUDA_INSTANCES(prefix, S, P)                                                                      \
  MODULEFORMER_CUDA_PRODUCTS(prefix, S, P)                                                                             \
  MODULEFORMER_CUDA_ACTIVATION(prefix, S, P, Identity)                                                                 \
  MODULEFORMER_CUDA_ACTIVATION(prefix, S, P, GeluTanh)                                                                 \
  MODULEFORMER_CUDA_ACTIVATION(prefix, S, P, Gelu)                                                                     \
  MODULEFORMER_CUDA_ACTIVATION(prefix, S, P, Relu)                                                                     \
  MODULEFORMER_CUDA_ACTIVATION(prefix, S, P, Silu)                                                                     \
  MODULEFORMER_CUDA_ACTIVATION(prefix, S, P, Tanh)                                                                     \
  MODULEFORMER_CUDA_ELEMENTWISE(prefix, S, P)                                                                          \
  MODULEFORMER_CUDA_ROUTING(prefix, S, P)                                                                              \
  MODULEFORMER_CUDA_ATTENTION(prefix, S, P)                                                                            \
  MODULEFORMER_CUDA_ATTENTION_BACKWARD(prefix, S, P)
