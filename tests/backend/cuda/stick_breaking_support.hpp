// SPDX-License-Identifier: MIT
#pragma once
// Calls of stick-breaking attention on a backend of CUDA with inputs and outputs as doubles on the host.

#include "../stick_breaking_cases.hpp"
#include "support.hpp"

#include <moduleformer/backend/cuda/stick_breaking.cuh>
#include <moduleformer/backend/cuda/stick_breaking_backward.cuh>
#include <moduleformer/backend/cuda/stick_breaking_weights.cuh>

#include <algorithm>
#include <cstdint>
#include <sstream>
#include <string>
#include <type_traits>
#include <vector>

namespace moduleformer::test {

template <class S>
inline constexpr double forward_bound = std::is_same_v<S, float> ? 5e-6 : 1e-2;
template <class S>
inline constexpr double gradient_bound = std::is_same_v<S, float> ? 2e-5 : 2e-2;

/// Rounds to what S holds.
template <class S>
void round_to(AttentionInputs<double>& in) {
  for (auto* array : {&in.q, &in.k, &in.v, &in.dy})
    for (double& value : array->values()) value = number<double>(number<S>(value));
}

template <class S>
AttentionInputs<double> stored_inputs(AttentionCase const& c, std::uint64_t seed, double mean = -1,
                                      double deviation = 1) {
  auto in = random_inputs(c, seed, mean, deviation);
  round_to<S>(in);
  return in;
}

inline std::string describe(AttentionCase const& c, StickBreakingVariant variant) {
  std::ostringstream text;
  text << "tokens " << c.query_tokens << " keys " << c.keys << " heads " << c.extents.heads << " size "
       << c.extents.head_size << " slots " << c.extents.rows_per_token << " inclusive " << variant.inclusive
       << " remainder " << variant.keep_remainder;
  return text.str();
}

/// Head sizes that bfloat16 has kernels of its own for, and wide ones on tensor cores; lengths around tiles of 64 and
/// 128 rows and blocks of 64 keys.
inline std::vector<AttentionCase> tensor_cases() {
  std::vector<AttentionCase> cases;
  cases.push_back(single(70, 70, 1, 136, 2));
  cases.push_back(single(9, 70, 1, 1024, 1));
  // Of wide heads scores are whole rows: more keys than a warp breaks at a time, several sequences and heads.
  cases.push_back(single(40, 600, 1, 136, 2));
  cases.push_back({{2, 144, 2, 0}, {{1, 9, 0, 9}, {12, 66, 9, 66}, {80, 0, 77, 3}, {80, 1, 83, 140}}, 88, 230});
  for (Index const size : {32, 64, 96, 128}) {
    cases.push_back(single(1, 1, 1, size, 1));
    cases.push_back(single(65, 129, 2, size, 1));
    cases.push_back(single(43, 64, 1, size, 3));
    cases.push_back({{1, size, 2, 0}, {{1, 9, 0, 9}, {12, 66, 9, 66}, {80, 0, 77, 3}, {80, 1, 83, 140}}, 88, 230});
  }
  return cases;
}

/// For more keys than a block has, with heads of fused kernels for bfloat16.
inline std::vector<AttentionCase> fused_cases() { return {single(150, 250, 1, 64, 1), single(150, 250, 1, 128, 1)}; }

/// Means of logits that, at a deviation of 15, reach from -80 to 80: a stick that is used up at once, and keys that
/// hardly use any.
inline constexpr double large_means[] = {-25.0, 0.0, 25.0};

inline std::vector<AttentionCase> all_cases() {
  auto cases = attention_cases();
  for (auto const& c : tensor_cases()) cases.push_back(c);
  return cases;
}

struct Attended {
  std::vector<double> y, log_stick;
  std::vector<std::int32_t> stop;
  std::vector<double> dq, dk, dv;  // where gradients were asked for
};

/// The error of log_stick, of sticks that a float holds: a call ends where nothing of any stick is left.
inline double log_stick_error(std::vector<double> found, std::vector<double> expected, double smallest = -87) {
  for (auto* logs : {&found, &expected})
    for (double& x : *logs) x = std::max(x, smallest);
  return relative_error(found, expected);
}

/// What to ask of a call beside its sizes.
struct AttentionOptions {
  bool gradients = false;
  bool shared_keys = false;      // v is k, dv is dk
  Index state_bytes = 64 << 20;  // for backward
};

/// dk and dv begin as initial_gradient.
inline constexpr double initial_gradient = 0x1p-6;

template <class B>
Attended attend(Device<B>& device, AttentionCase const& c, StickBreakingVariant variant,
                AttentionInputs<double> const& in, AttentionOptions options = {}) {
  using S = typename B::Scalar;
  auto const sequences = device.upload(c.sequences);
  auto const matrix = [&](Array<double, 2> const& host) -> Matrix<S const> {
    return device.template upload<S>(host.values(), host.view().extent(0), host.view().extent(1));
  };
  auto const q = matrix(in.q), k = matrix(in.k), v = options.shared_keys ? k : matrix(in.v);
  auto const y = device.template allocate<S>(c.rows(), c.width());
  auto const log_stick = device.template allocate<float>(c.rows(), c.extents.heads);
  auto const stop = device.template allocate<std::int32_t>(c.rows(), c.extents.heads);
  stick_breaking_forward(device.backend(), variant, c.extents, sequences, q, k, v, y, log_stick, stop);
  Attended out{device.template download<double>(y),
               device.template download<double>(log_stick),
               device.download(stop),
               {},
               {},
               {}};
  if (!options.gradients) return out;
  auto const dq = device.template allocate<S>(c.rows(), c.width());
  auto const begun = [&] {
    auto const gradient = device.template allocate<S>(c.keys, c.width());
    fill(device.backend(), gradient.reshape(gradient.size()), number<S>(initial_gradient));
    return gradient;
  };
  auto const dk = begun(), dv = options.shared_keys ? dk : begun();
  detail::attend_backward<S>(device.backend(), variant, c.extents, sequences, matrix(in.dy), q, k, v, log_stick, stop,
                             dq, dk, dv, options.state_bytes);
  out.dq = device.template download<double>(dq);
  out.dk = device.template download<double>(dk);
  out.dv = device.template download<double>(dv);
  for (auto* gradient : {&out.dk, &out.dv})
    for (double& x : *gradient) x -= initial_gradient;
  return out;
}

template <class B>
Attended attend(AttentionCase const& c, StickBreakingVariant variant, AttentionInputs<double> const& in,
                AttentionOptions options = {}) {
  Device<B> device;
  return attend(device, c, variant, in, options);
}

}  // namespace moduleformer::test
