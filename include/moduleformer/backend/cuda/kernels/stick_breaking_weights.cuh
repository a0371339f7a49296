// SPDX-License-Identifier: MIT
#pragma once
// The attention matrix of one sequence, for observation: slow, in double, in the form of the definition
//   a_ij = exp(log_sigmoid(l_ij) + sum_{j<m<=i} log_sigmoid(-l_im)),  l_ij = q_i.k_j / sqrt(d)
// A warp has a row and walks from the newest key to the oldest, 32 keys at a time, a key a lane.

#include <moduleformer/backend/arguments.hpp>
#include <moduleformer/backend/cuda/kernels/warp.cuh>
#include <moduleformer/core/platform.hpp>
#include <moduleformer/core/types.hpp>

#include <cmath>

namespace moduleformer::kernels {

/// log(1 / (1 + e^-x)).
MODULEFORMER_HOST_DEVICE inline double log_sigmoid(double x) {
  return (x < 0.0 ? x : 0.0) - std::log1p(std::exp(x < 0.0 ? x : -x));
}

template <class S>
struct StickBreakingWeights {
  static constexpr int threads = 128;

  Sequence sequence;
  AttentionExtents extents;
  bool inclusive;
  S const* q;
  S const* k;
  float* weights;  // (K,H,T,S)

  template <class Thread>
  MODULEFORMER_DEVICE void operator()(Thread const& thread) const {
    Index const heads = extents.heads, d = extents.head_size, queries = sequence.query_count, keys = sequence.key_count;
    Index const row = thread.block() * (threads / 32) + thread.warp();
    if (row >= extents.rows_per_token * heads * queries) return;
    Index const slot = row / (heads * queries), head = row / queries % heads, t = row % queries;
    S const* const query = q + ((sequence.query_begin + t) * extents.rows_per_token + slot) * heads * d + head * d;
    float* const out = weights + row * keys;
    Index const end = keys - queries + t + (inclusive ? 1 : 0);
    for (Index j = end + thread.lane(); j < keys; j += 32) out[j] = 0.0f;
    double const scale = 1.0 / std::sqrt(static_cast<double>(d));
    double log_stick = 0;
    for (Index last = end; last > 0; last -= 32) {
      Index const j = last - 1 - thread.lane();
      double logit = 0;
      if (j >= 0) {
        S const* const key = k + (sequence.key_begin + j) * heads * d + head * d;
        for (Index x = 0; x < d; ++x)
          logit += static_cast<double>(static_cast<float>(query[x])) * static_cast<double>(static_cast<float>(key[x]));
      }
      logit *= scale;
      double const own = j >= 0 ? log_sigmoid(-logit) : 0.0;
      double used = own;  // with all newer keys of the 32
      MODULEFORMER_UNROLL
      for (int lanes = 1; lanes < 32; lanes *= 2) {
        double const newer = thread.shuffle_up(used, lanes);
        if (thread.lane() >= lanes) used += newer;
      }
      if (j >= 0) out[j] = static_cast<float>(std::exp(log_sigmoid(logit) + log_stick + (used - own)));
      log_stick += thread.shuffle(used, 31);
    }
  }
};

}  // namespace moduleformer::kernels
