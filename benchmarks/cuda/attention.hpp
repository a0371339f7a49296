// SPDX-License-Identifier: MIT
#pragma once
// Benchmarks of stick-breaking attention. Logits have mean -6, so that no stick is used up and every key is visited, as
// the floors count them; lines named "stops" have mean 0, their floors count the keys that were visited.

#include "runner.hpp"

namespace bench {

struct Heads {
  char const* name;
  Index heads, head_size;
  bool shared = false;  // keys are the values
};

/// q (P,A), k and v (N,A) with random numbers and a given mean of q.k / sqrt(d).
template <class B>
struct AttentionData {
  using S = typename B::Scalar;
  mf::Matrix<S> q, k, v, y;
  mf::Matrix<float> log_stick;
  mf::Matrix<std::int32_t> stop;
  mf::Vector<mf::Sequence> sequences;
  mf::AttentionExtents extents;

  AttentionData(Arrays<B>& a, cost::Attention const& s, Index key_rows, Index keys, double mean, double stop_below)
      : q(a.random(s.tokens * s.rows_per_token, s.width())),
        k(a.random(key_rows, s.width())),
        v(s.shared ? k : a.random(key_rows, s.width())),
        y(a.template allocate<S>(s.tokens * s.rows_per_token, s.width())),
        log_stick(a.template allocate<float>(s.tokens * s.rows_per_token, s.heads)),
        stop(a.template allocate<std::int32_t>(s.tokens * s.rows_per_token, s.heads)),
        sequences(a.sequences(s.tokens, s.length, keys)),
        extents{s.heads, s.head_size, s.rows_per_token, stop_below, keys > 0 ? keys : s.length} {
    auto const root = static_cast<float>(std::sqrt(-mean * std::sqrt(static_cast<double>(s.head_size))));
    if (mean < 0) {
      a.set_columns(q, s.head_size, root);
      a.set_columns(k, s.head_size, -root);
    }
  }
  void forward(B& backend) const {
    stick_breaking_forward(backend, {}, extents, sequences, q, k, v, y, log_stick, stop);
  }

  /// Logits that forward visited; each sequence's first query sees `first_keys` keys.
  [[nodiscard]] double visited(Arrays<B>& a, Index length, Index first_keys = 1) const {
    auto const first = a.download(stop.reshape(stop.size()));
    Index const each = extents.rows_per_token * extents.heads;
    double count = 0;
    for (std::size_t i = 0; i < first.size(); ++i)
      count += cost::real(first_keys + static_cast<Index>(i) / each % length - first[i]);
    return count;
  }
};

inline constexpr double stops_below = 0x1p-24;  // as the layer asks for with bfloat16

template <class B>
void attention_lines(Runner<B>& run, Heads const& heads, Index tokens, Index length) {
  using S = typename B::Scalar;
  cost::Attention const s{tokens, length, heads.heads, heads.head_size, 2, heads.shared};
  std::string const shape = text("N", tokens) + ", " + text("T", length) + ", " + text("H", s.heads) + ", " +
                            text("d", s.head_size) + ", K 2";
  auto const make = [=](Arrays<B>& a, double mean) { return AttentionData<B>(a, s, tokens, 0, mean, stops_below); };
  auto const backward = [=](Arrays<B>& a, AttentionData<B> const& data) {
    auto const dy = a.random(data.q.extent(0), s.width()), dq = a.template allocate<S>(data.q.extent(0), s.width());
    auto const dk = a.template zeros<S>(tokens, s.width());
    auto const dv = s.shared ? dk : a.template zeros<S>(tokens, s.width());
    data.forward(a.backend());
    return [=, &a] {
      stick_breaking_backward(a.backend(), {}, data.extents, data.sequences, dy, data.q, data.k, data.v, data.log_stick,
                              data.stop, dq, dk, dv);
    };
  };
  run.line("forward", shape, cost::attention_forward(s, s.logits()), [=](Arrays<B>& a, Cost&) {
    auto const data = make(a, -6);
    return [=, &a] { data.forward(a.backend()); };
  });
  run.line("backward", shape, cost::attention_backward(s, s.logits()),
           [=](Arrays<B>& a, Cost&) { return backward(a, make(a, -6)); });
  if (!run.measures()) return;  // what follows depends on the data
  run.line("forward, stops", shape, {}, [=](Arrays<B>& a, Cost& cost) {
    auto const data = make(a, 0);
    data.forward(a.backend());
    cost = cost::attention_forward(s, data.visited(a, length));
    return [=, &a] { data.forward(a.backend()); };
  });
  run.line("backward, stops", shape, {}, [=](Arrays<B>& a, Cost& cost) {
    auto const data = make(a, 0);
    auto const call = backward(a, data);
    cost = cost::attention_backward(s, data.visited(a, length));
    return call;
  });
}

template <class B>
void attention(Runner<B>& run) {
  Index const tokens = run.size(16384, 20);
  std::vector<Heads> const all =
      run.options().tiny
          ? std::vector<Heads>{{"64", 2, 64}, {"1024", 1, 80, true}}
          : std::vector<Heads>{{"64", 8, 64}, {"128", 8, 128}, {"1024, keys are values (MoLM)", 1, 1024, true}};
  std::vector<Index> const lengths =
      run.options().tiny ? std::vector<Index>{10} : std::vector<Index>{512, 1024, 2048, 4096};
  for (Heads const& heads : all) {
    if (!run.table(std::string("Stick-breaking attention, head size ") + heads.name)) continue;
    for (Index const length : lengths) attention_lines(run, heads, tokens, length);
  }
}

template <class B>
void decode_attention(Runner<B>& run) {
  if (!run.table("Stick-breaking attention of a decoding step")) return;
  Index const keys = run.size(4096, 11);
  for (Heads const& heads : {Heads{"", 8, 64}, Heads{"", 1, run.size(1024, 80), true}})
    for (Index const sequences : {Index{1}, Index{8}, run.size(32, 9)})
      for (double const mean : {-6.0, 0.0}) {
        if (mean == 0 && !run.measures()) continue;
        cost::Attention const s{sequences, 1, heads.heads, heads.head_size, 2, heads.shared};
        run.line(mean < 0 ? "all keys" : "stops",
                 text("B", sequences) + ", " + text("S", keys) + ", " + text("H", s.heads) + ", " +
                     text("d", s.head_size) + ", K 2",
                 cost::attention_decode(sequences, keys, s.width(), 2, s.shared), [=](Arrays<B>& a, Cost& cost) {
                   AttentionData<B> const data(a, s, sequences * keys, keys, mean, stops_below);
                   data.forward(a.backend());
                   if (mean == 0) {
                     double const each = data.visited(a, 1, keys) / cost::real(sequences * 2 * s.heads);
                     cost = cost::attention_decode(sequences, static_cast<Index>(each), s.width(), 2, s.shared);
                   }
                   return [=, &a] {
                     stick_breaking_forward(a.backend(), {}, data.extents, data.sequences, data.q, data.k, data.v,
                                            data.y, {}, {});
                   };
                 });
      }
}

}  // namespace bench
