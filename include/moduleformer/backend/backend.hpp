// SPDX-License-Identifier: MIT
#pragma once
// What a backend is: one type (scalars, memory, workspace) plus one free function per primitive,
// found by argument-dependent lookup. Layers and models call these and name no backend; a backend
// names no layer. This page lists every primitive with its formula; letters are those of
// core/types.hpp. "y =" overwrites, "y +=" accumulates. Null views mean "not wanted".
//
// Two scalars: S, of activations and of the weights that products read, and A, what a backend adds in: of
// sums, router arithmetic, gradients, moments and the weights that train. On the CPU they are one type.
//
// Order of arguments: backend, sizes and policies, inputs, outputs. Every sum runs in an order that
// depends on shapes only, so the bits do not depend on the number of threads. No primitive but to_host and a
// mailbox gives the host a number, so that a backend may run behind the host: losses and norms land in its memory.

#include <moduleformer/backend/arguments.hpp>
#include <moduleformer/backend/workspace.hpp>
#include <moduleformer/core/functors.hpp>
#include <moduleformer/core/platform.hpp>
#include <moduleformer/core/policy.hpp>

#include <concepts>
#include <cstdint>

namespace moduleformer {

/// The stick-breaking variants (policies of role Attention provide one): whether a query sees its
/// own token, and whether what is left of the stick goes to the query's own value.
struct StickBreakingVariant {
  bool inclusive = true;
  bool keep_remainder = false;
};

namespace detail {

/// What invoke() and invoke_each() are asked to run, in the concept below.
struct DoNothing {
  MODULEFORMER_HOST_DEVICE void operator()() const {}
  MODULEFORMER_HOST_DEVICE void operator()(Index) const {}
};

}  // namespace detail

namespace concepts {

/// Type members, workspace, and moving values between host and backend.
template <class B>
concept Memory = requires(B& b, Vector<typename B::Scalar> x, Vector<typename B::Scalar const> c, typename B::Scalar* host,
                          Vector<typename B::Accumulator> a, Vector<typename B::Accumulator const> ca,
                          Vector<ExpertId> i, Vector<ExpertId const> ci, ExpertId* ids, Vector<double const> numbers,
                          double* host_numbers) {
  typename B::Scalar;                                          // S
  typename B::Accumulator;                                     // A
  typename B::Memory;                                          // allocate / deallocate
  typename B::Mailbox;                                         // send(b, numbers), receive() later: backend/mailbox.hpp
  { b.workspace() } -> std::same_as<Workspace<typename B::Memory>&>;
  fill(b, x, typename B::Scalar{});                            // x = value
  fill(b, a, typename B::Accumulator{});
  copy(b, c, x);                                               // x = c
  copy(b, ci, i);
  convert(b, ca, x);                                           // x = c, in the other scalar
  convert(b, c, a);
  to_host(b, c, host);                                         // host memory, complete on return
  to_host(b, ci, ids);
  from_host(b, static_cast<typename B::Scalar const*>(host), x);
  from_host(b, static_cast<ExpertId const*>(ids), i);
  to_host(b, numbers, host_numbers);
  invoke(b, detail::DoNothing{});                              // f() where the backend's memory can be read
  invoke_each(b, Index{}, detail::DoNothing{});                // f(i) there for each i below a number, in any order
};

/// Dense products with W (N,K) as PyTorch's Linear stores it.
template <class B, class S = typename B::Scalar, class A = typename B::Accumulator>
concept Dense = requires(B& b, Matrix<S const> m, Vector<S const> v, Matrix<S> out, Matrix<A> sums, Vector<A> vec, Index first,
                         bool add) {
  linear(b, m, m, v, out);                        // y (M,N) = x (M,K) W^T + bias (N or null)
  linear(b, m, m, v, sums);
  linear_input_gradient(b, m, m, out, add);       // dx (M,K) = or += dy (M,N) W
  linear_weight_gradient(b, m, m, first, sums);   // dW (n,K) += dy[:, first:first+n]^T x
  bias_gradient(b, m, first, vec);                // db (n) += column sums of dy[:, first:first+n]
};

/// Products of ragged experts, W (E,K,N), over the slots of a RoutingPlan; p runs over sorted slots,
/// e is p's expert, x[p] means the row that a Rows map names for p.
template <class B, class S = typename B::Scalar, class A = typename B::Accumulator, class Act = Silu>
concept Experts = requires(B& b, RoutingPlan plan, Matrix<S const> m, Rows rows, TensorView<S const, 3> w, Vector<A const> v,
                           Matrix<S> out, Vector<A> vec, TensorView<A, 3> dw, Index first, Act act) {
  // z = x[p] W[e] ; pre[p sorted] = z (or null) ; y[p] = gate[slot] act(z)      (gate null: 1)
  expert_forward(b, plan, act, m, rows, w, v, out, out, rows);
  // g = dy[p] W[e]^T ; h = act(z[p]) ; dgate[slot] = <g, h> ; dz[p] = gate g act'(z) ; scaled[p] = gate h
  // (z, dz and scaled share one row map)
  expert_backward(b, plan, act, m, rows, w, v, m, rows, vec, out, out);
  expert_input_gradient(b, plan, m, rows, w, out, rows);           // dx[p] = dy[p] W[e]^T
  expert_weight_gradient(b, plan, m, rows, m, rows, first, dw);    // dW[e-first] += sum_p x[p]^T dy[p]
};

template <class B, class S = typename B::Scalar, class A = typename B::Accumulator, class Act = Silu>
concept Elementwise = requires(B& b, Matrix<S const> m, Matrix<S> out, Matrix<A const> sum, Matrix<A> sums,
                               Vector<A const> v, Vector<A> vec, Dropout drop, Jitter jitter, Index k, Act act) {
  combine(b, k, m, drop, m, out);            // out[t] = residual[t] + dropout(sum_s y[t*K+s]), s ascending
  apply_dropout(b, drop, m, out);            // out = dropout(x); also its own backward
  apply_jitter(b, jitter, m, out);           // out = jitter(x); also its own backward
  activation_forward(b, act, m, out);        // y = act(z)
  activation_backward(b, act, m, m, out);    // dy, z -> dz = dy act'(z)
  add(b, sum, sums);                         // out += x
  scale_by(b, v, sum, sums);                 // out = x * factor[0], the factor in backend memory
  dot(b, sum, sum, vec);                     // out[0] = <x, y> over all elements
};

/// Layer norm over rows, biased variance: y = (x - mean) / sqrt(var + eps) * weight + bias; and the same of sums over
/// slots, in one pass over memory.
template <class B, class S = typename B::Scalar, class A = typename B::Accumulator>
concept Normalisation = requires(B& b, Matrix<S const> m, Vector<S const> v, Matrix<S> out, Vector<A> vec,
                                 Vector<A const> sums, double eps, Dropout drop, Index k) {
  layer_norm(b, m, v, v, eps, out, vec, vec);                   // y, mean (N), 1/deviation (N)
  layer_norm_backward(b, m, m, v, sums, sums, out, vec, vec);   // dy, x, weight, mean, 1/dev -> dx +=, dweight +=, dbias +=
  combine_layer_norm(b, k, m, drop, m, v, v, eps, out, out, vec, vec);  // h = as combine ; y, mean, 1/deviation of h
  // dy[t] = residual[t] + sum_s y[t*K+s]: k, y, residual, x, weight, mean, 1/dev -> as layer_norm_backward
  combine_layer_norm_backward(b, k, m, m, m, v, sums, sums, out, vec, vec);
};

/// Routing: top-k on logits, descending, ties to the lowest expert; counting sort; sums; gradients.
template <class B, class S = typename B::Scalar, class A = typename B::Accumulator>
concept Routing = requires(B& b, Matrix<A const> m, Matrix<A> out, Vector<A> vec, Vector<A const> cvec, Matrix<ExpertId> ids,
                           Matrix<ExpertId const> cids, Index n, RandomSource random, Vector<ExpertId const> flat,
                           Vector<std::int32_t> order, Vector<Index> offsets, RoutingStatistics stats, RoutingGradient grad,
                           Matrix<S const> x, Matrix<S> y, GateFunction function, Vector<double const> sums, double scale,
                           Vector<Sequence const> documents) {
  softmax(b, m, out, vec);                      // probs (N,E) = softmax(logits) ; lse (N) = logsumexp
  top_k(b, m, ids);                             // ids (N,K) by logits
  // the first K-n slots by logits; then n drawn without replacement with probability proportional to
  // probs + 1e-6 among those not chosen yet (Gumbel noise of random_words(random.key(), token*E + e))
  sampled_top_k(b, m, m, n, random, ids);
  gather_columns(b, m, cids, out);              // gates (N,K): gates_ts = probs_t,ids_ts
  chosen_gates(b, function, m, cids, out);      // gates (N,K) of the chosen's logits (N,E); see gate_rows.hpp
  // logits, ids, gates, dgates (or null), grad of each expert's summed gates (E, or null) -> dlogits +=
  chosen_gates_backward(b, function, m, cids, m, m, sums, out);
  gumbel_scores(b, scale, random, m, out);      // logits - scale log(-log u), u of random_words(random.key(), token*E + e)
  biased_scores(b, m, cvec, out);               // sigmoid(logits) + bias (E)
  // logits = -infinity for experts outside the pool (of a size drawn from n ... n) of their document, by summed probabilities
  restrict_to_pools(b, documents, n, n, random, m, out);
  // ids (N,M): the experts that have the token among their n tokens of largest score, by descending score, then -1
  expert_choice(b, m, n, ids);
  sort_by_expert(b, flat, n, order, offsets);   // stable counting sort of P slots over n experts
  sort_by_expert(b, flat, n, order, offsets, true);  // the same where some slots are empty (-1)
  sum_routing(b, m, m, cvec, m, cids, stats);   // logits, probs, lse, gates, ids -> every sum of stats (=)
  // logits, probs, lse, ids, dgates, grad -> dlogits = p (v - <p, v>) + 2 grad.lse2 lse p, where
  // v_e = grad.probability_sum_e + grad.entropy (log p_e) + [e chosen as s] (dgate_s + grad.gate_sum_e)
  routing_backward(b, m, m, cvec, cids, m, grad, out);
  normalise_rows(b, x, y, vec);                 // y = x / max(|x|, 1e-12), norms (N)
  normalise_rows_backward(b, x, x, cvec, y);    // dy, y, norms -> dx =
};

/// Stick-breaking attention (arXiv 2306.04640 section 2.2), l_ij = q_i . k_j / sqrt(d):
///   a_ij = sigmoid(l_ij) prod_{j<m<=i} (1 - sigmoid(l_im)) ; y_i = sum_j a_ij v_j (+ r_i v_i)
/// strict: j, m < i. r_i = 1 - sum_j a_ij. log_stick (P,H) = ln r_i and stop (P,H) = first visited key,
/// both kept for backward (null: not wanted).
template <class B, class S = typename B::Scalar, class A = typename B::Accumulator>
concept Attention = requires(B& b, StickBreakingVariant variant, AttentionExtents extents, Vector<Sequence const> sequences,
                             Matrix<S const> m, Matrix<S> out, Matrix<A> log_stick, Matrix<A const> clog, Matrix<std::int32_t> stop,
                             Matrix<std::int32_t const> cstop, TensorView<A, 4> weights) {
  stick_breaking_forward(b, variant, extents, sequences, m, m, m, out, log_stick, stop);  // q, k, v -> y, log_stick, stop
  // dy, q, k, v, log_stick, stop -> dq =, dk +=, dv += (dk and dv may be one matrix)
  stick_breaking_backward(b, variant, extents, sequences, m, m, m, m, clog, cstop, out, out, out);
  append_rows(b, sequences, m, out);  // each sequence's new rows x[query rows] to the end of its rows of a cache
  // slow, for observation: a (K,H,T,S) of one sequence from q, k; sums exactly as written above
  stick_breaking_weights(b, variant, extents, Sequence{}, m, m, weights);
};

template <class B, class S = typename B::Scalar, class A = typename B::Accumulator>
concept Tokens = requires(B& b, Matrix<S const> table, Vector<TokenId const> ids, Matrix<S> out, Matrix<A> sums,
                          Vector<std::int32_t const> rows, Vector<double const> scale, Vector<double> loss) {
  embedding(b, table, ids, out);                        // out[t] = table[ids[t]]
  embedding_backward(b, ids, table, sums);              // dtable[ids[t]] += dout[t], t ascending
  gather_rows(b, table, rows, out);                     // out[i] = x[rows[i]]
  scatter_rows(b, table, rows, out);                    // out[rows[i]] += x[i], rows distinct
  // logits = x W^T in chunks of rows, never stored whole; over labels != ignore_label:
  // loss[0] = sum of -log softmax(logits)[label]; with gradients: d = scale[0] (softmax - onehot),
  // dx = d W (or null), dW += d^T x (or null)
  cross_entropy(b, table, table, ids, scale, out, sums, loss);
};

template <class B, class S = typename B::Scalar, class A = typename B::Accumulator>
concept Update = requires(B& b, Vector<A> x, Vector<A const> g, Vector<S> rounded, AdamWConstants constants,
                          Vector<AdamWStep const> step, Vector<double> sum) {
  // gradient -> weight, its copy rounded to S (or null), m, v; all stays if step[0].clip is not finite
  adamw(b, constants, step, g, x, rounded, x, x);
  squared_norm(b, g, sum);         // sum[0] += |g|^2
};

}  // namespace concepts

template <class B>
concept Backend = concepts::Memory<B> && concepts::Dense<B> && concepts::Experts<B> && concepts::Elementwise<B> &&
                  concepts::Normalisation<B> && concepts::Routing<B> && concepts::Attention<B> && concepts::Tokens<B> &&
                  concepts::Update<B>;

}  // namespace moduleformer
