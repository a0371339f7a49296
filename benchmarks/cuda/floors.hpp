// SPDX-License-Identifier: MIT
#pragma once
// The least time that a primitive can take: what it must compute and move over what the machine does at best. Bytes
// count each operand once, as bfloat16 where the library stores that; accumulators and router arithmetic are floats.
// A multiply-add is two operations. Elementwise work beside a product is not counted.

#include <moduleformer/core/types.hpp>

#include <algorithm>
#include <string_view>

namespace bench {

using moduleformer::Index;

/// Rates of a device. The defaults: an H200 as measured by others (products), and by its units at 1.755 GHz.
struct Machine {
  double flops = 790e12;                // products of bfloat16, a second
  double bytes = 4.3e12;                // of device memory, a second
  double special = 16 * 132 * 1.755e9;  // exp2, log2, reciprocals, a second
  double issue = 4 * 132 * 1.755e9;     // instructions of warps, a second

  constexpr void set_units(int processors, double hertz) {
    special = 16.0 * processors * hertz;
    issue = 4.0 * processors * hertz;
  }
};

/// What a call must do.
struct Cost {
  double flops = 0;
  double bytes = 0;
  double special = 0;
  double issue = 0;
  friend constexpr Cost operator+(Cost a, Cost b) {
    return {a.flops + b.flops, a.bytes + b.bytes, a.special + b.special, a.issue + b.issue};
  }
  friend constexpr Cost operator*(double n, Cost c) { return {n * c.flops, n * c.bytes, n * c.special, n * c.issue}; }
};

/// Seconds, and what they go to.
struct Floor {
  double seconds = 0;
  std::string_view bound = "";
};

constexpr Floor floor_of(Machine const& machine, Cost const& cost) {
  Floor floor{};
  for (Floor const part :
       {Floor{cost.flops / machine.flops, "products"}, Floor{cost.bytes / machine.bytes, "bytes"},
        Floor{cost.special / machine.special, "special"}, Floor{cost.issue / machine.issue, "issue"}})
    if (part.seconds > floor.seconds) floor = part;
  return floor;
}

namespace cost {

constexpr double scalar = 2, sum = 4, number = 8;  // bytes of S, of A, of Index and double

constexpr double real(Index n) { return static_cast<double>(n); }

/// Reads and writes of so many bytes.
constexpr Cost moved(double bytes) { return {.bytes = bytes}; }

/// x (M,K) times a matrix (K,N).
constexpr Cost product(Index m, Index k, Index n, double result = scalar) {
  return {2.0 * real(m) * real(k) * real(n),
          scalar * real(m) * real(k) + scalar * real(k) * real(n) + result * real(m) * real(n)};
}

/// dW (N,K) += dy (M,N)^T x (M,K), dW read and written.
constexpr Cost weight_gradient(Index m, Index k, Index n) {
  return {2.0 * real(m) * real(k) * real(n), scalar * real(m) * (real(k) + real(n)) + 2 * sum * real(k) * real(n)};
}

/// A layer of experts: K inputs, N outputs; `touched` of the experts have slots.
struct Experts {
  Index tokens, top_k, experts, inputs, outputs;
  double touched;
  [[nodiscard]] constexpr Index slots() const { return tokens * top_k; }
  [[nodiscard]] constexpr double flops() const { return 2.0 * real(slots()) * real(inputs) * real(outputs); }
  [[nodiscard]] constexpr double weights() const { return touched * real(inputs) * real(outputs); }
};

/// How many of E experts so many tokens touch that choose K each, alike and at random.
constexpr double touched_experts(Index tokens, Index top_k, Index experts) {
  double missed = 1;
  for (Index t = 0; t < tokens && missed > 1e-12; ++t) missed *= 1 - real(top_k) / real(experts);
  return real(experts) * (1 - missed);
}
constexpr Experts experts(Index tokens, Index top_k, Index count, Index inputs, Index outputs) {
  return {tokens, top_k, count, inputs, outputs, touched_experts(tokens, top_k, count)};
}

/// Rows of x are tokens' (read once, though gathered K times) or slots'.
constexpr Cost expert_forward(Experts const& s, bool by_token, bool keeps_z) {
  double const x = real(by_token ? s.tokens : s.slots()) * real(s.inputs), y = real(s.slots()) * real(s.outputs);
  return {s.flops(), scalar * (x + s.weights() + (keeps_z ? 2 : 1) * y)};
}
/// dy by token (N,outputs); z, dz and the scaled activations (P,inputs); the gates' gradient.
constexpr Cost expert_backward(Experts const& s) {
  double const dy = real(s.tokens) * real(s.outputs), z = real(s.slots()) * real(s.inputs);
  return {s.flops(), scalar * (dy + s.weights() + 3 * z) + sum * real(s.slots())};
}
constexpr Cost expert_input_gradient(Experts const& s) {
  return {s.flops(), scalar * (real(s.slots()) * (real(s.inputs) + real(s.outputs)) + s.weights())};
}
/// dW (E,K,N) in float, read and written. One of the operands by token.
constexpr Cost expert_weight_gradient(Experts const& s, bool x_by_token) {
  double const x = real(x_by_token ? s.tokens : s.slots()) * real(s.inputs);
  double const dy = real(x_by_token ? s.slots() : s.tokens) * real(s.outputs);
  return {s.flops(), scalar * (x + dy) + 2 * sum * s.weights()};
}

/// Stick-breaking attention over sequences of equal length T: H heads of size d, K rows a token that share keys.
struct Attention {
  Index tokens, length, heads, head_size, rows_per_token;
  bool shared = false;  // keys are the values
  [[nodiscard]] constexpr Index width() const { return heads * head_size; }
  [[nodiscard]] constexpr double logits() const {
    return real(tokens) * real(rows_per_token) * real(heads) * (real(length) + 1) / 2;
  }
};

/// Per logit: two products of the head's size; 1.56 special functions (e, a reciprocal and a logarithm for four); of a
/// warp's 1024 logits about 420 instructions.
constexpr Cost attention_forward(Attention const& s, double logits) {
  double const q = real(s.tokens) * real(s.rows_per_token) * real(s.width()), k = real(s.tokens) * real(s.width());
  double const states = real(s.tokens) * real(s.rows_per_token) * real(s.heads) * 2 * sum;
  return {4.0 * real(s.head_size) * logits, scalar * (2 * q + (s.shared ? 1 : 2) * k) + states, 1.56 * logits,
          420.0 / 1024 * logits};
}
/// Five products; dq written, dk and dv added to. Its instructions are taken as the forward's and products' alone.
constexpr Cost attention_backward(Attention const& s, double logits) {
  double const q = real(s.tokens) * real(s.rows_per_token) * real(s.width()), k = real(s.tokens) * real(s.width());
  double const states = real(s.tokens) * real(s.rows_per_token) * real(s.heads) * 2 * sum;
  return {10.0 * real(s.head_size) * logits, scalar * (3 * q + (s.shared ? 1 : 2) * 3 * k) + states, 1.6 * logits,
          420.0 / 1024 * logits};
}
/// One new token for each of B sequences with S keys.
constexpr Cost attention_decode(Index sequences, Index keys, Index width, Index rows_per_token, bool shared) {
  double const cache = real(sequences) * real(keys) * real(width) * (shared ? 1 : 2);
  return {4.0 * real(sequences) * real(rows_per_token) * real(keys) * real(width),
          scalar * (cache + 2 * real(sequences) * real(rows_per_token) * real(width))};
}

/// Cross-entropy of N rows over V outputs: the logits once; with gradients also dx = d W and dW += d^T x.
constexpr Cost cross_entropy(Index n, Index width, Index vocabulary, bool gradients) {
  Cost const logits{2.0 * real(n) * real(width) * real(vocabulary),
                    scalar * (real(n) + real(vocabulary)) * real(width)};
  return gradients ? 3 * logits + moved(scalar * real(n) * real(width) + 2 * sum * real(vocabulary) * real(width) -
                                        2 * logits.bytes)
                   : logits;
}

/// Gradient, weight, two moments (float) read, all but the gradient written, and the rounded copy.
constexpr Cost adamw(double parameters) { return moved(parameters * (4 * sum + 3 * sum + scalar)); }

}  // namespace cost

}  // namespace bench
