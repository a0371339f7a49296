// SPDX-License-Identifier: MIT
#pragma once
// A model with random weights on a backend, and what is measured of it: a training step, a forward, decoding.

#include "arrays.hpp"
#include "model_options.hpp"
#include "runner.hpp"

#include <moduleformer/model/causal_lm.hpp>
#include <moduleformer/training/trainer.hpp>

#include <algorithm>
#include <cmath>
#include <span>
#include <string_view>
#include <vector>

namespace bench {

template <class B>
using ModelOf = mf::CausalLM<mf::dynamic_shape, mf::Policies<>, B>;

/// Random weights, made on the device: the host would take minutes for milliards. Skewed: every router's choice is that
/// of a trained model, by a hidden unit that is always on and brings the experts' mean logits, beside as much noise.
template <class B>
ModelOf<B> random_model(ModelOptions const& o) {
  ModelOf<B> model(o.config(), mf::Settings{.aux_loss_weight = 1e-3});
  B backend;
  Arrays<B> arrays(backend);
  bool const skewed = o.load == "skewed";
  constexpr float always_on = 10;
  double const noise =
      1.28 / (std::sqrt(static_cast<double>(o.router_hidden)) * 0.58 * 0.02 * std::sqrt(static_cast<double>(o.hidden)));
  for (std::size_t i = 0; i < model.table().count(); ++i) {
    mf::Segment const& s = model.table()[i];
    auto const values = model.writable(i);
    auto const ends = [&](std::string_view with) { return skewed && std::string_view(s.name).ends_with(with); };
    switch (s.initial) {
      case mf::Initial::zero:
      case mf::Initial::state: fill(backend, values, 0.0f); break;
      case mf::Initial::one: fill(backend, values, 1.0f); break;
      case mf::Initial::normal:
        arrays.randomise(values, ends("gate.w_gate.3.weight") ? static_cast<float>(noise) : 0.02f);
        break;
      case mf::Initial::standard_normal: arrays.randomise(values); break;
      case mf::Initial::expert_uniform: arrays.randomise(values, 0.577f / static_cast<float>(s.shape[1])); break;
    }
    if (ends("gate.w_gate.0.bias")) fill(backend, values.rows(0, 1), always_on);
    if (!ends("gate.w_gate.3.weight")) continue;
    for (Index e = 0; e < s.shape[0]; ++e)
      fill(backend, values.rows(e * s.shape[1], 1),
           static_cast<float>((e * 7 + 3) % s.shape[0]) * log_ratio(Load::skewed) / always_on);
  }
  model.refresh(backend);
  return model;
}

inline mf::Batch random_batch(ModelOptions const& o) {
  mf::Batch batch;
  batch.rows = o.rows;
  batch.tokens = o.tokens;
  batch.ids = random_ids(o.rows * o.tokens, o.vocab, false);
  batch.labels = batch.ids;
  return batch;
}

/// Seconds; of decoding, per step of all sequences.
struct Decoded {
  Index sequences = 0;
  double launched = 0;  // of `extend` alone, by marks in the stream, each kernel launched
  double device = 0;    // the same, recorded work repeated
  double whole = 0;     // that, and the choice of the next token on the host
};
struct Measured {
  double forward = 0, forward_backward = 0;
  double step = 0;                    // of a trainer that records its steps and reports late
  double launched_step = 0;           // of one that launches each kernel and waits for each step
  double busiest = 0, effective = 0;  // of the feed-forward experts: load over its mean, and how many share it
  std::vector<Decoded> decoded;
};

/// How uneven the routers' choice is: the largest of the layers' shares, and the mean of their effective experts.
template <class B>
void observe_load(ModelOf<B> const& model, mf::Session<B>& session, mf::Batch const& batch, Measured& result) {
  mf::Observation<typename B::Accumulator> seen;
  (void)model.loss(session, batch, {.observation = &seen});
  double layers = 0;
  for (auto const& router : seen.routers) {
    if (router.name.find("mlpf") == std::string::npos) continue;
    double total = 0, largest = 0, entropy = 0;
    for (double const n : router.load) total += n;
    for (double const n : router.load) {
      largest = std::max(largest, n);
      if (n > 0) entropy -= n / total * std::log(n / total);
    }
    result.busiest += largest / total * static_cast<double>(router.load.size());
    result.effective += std::exp(entropy);
    layers += 1;
  }
  result.busiest /= layers;
  result.effective /= layers;
}

/// Greedy, as bench_model: each sequence begins with a prompt, then come tokens in two runs, the second one with
/// recorded work.
template <class B>
Decoded decode(ModelOf<B> const& model, mf::Session<B>& session, ModelOptions const& o, Index sequences) {
  auto const vocabulary = static_cast<std::size_t>(o.vocab);
  mf::KvCache<B> cache(model, sequences, o.context + 2 * o.decoded);
  auto const prompt = random_ids(o.context, o.vocab, false);
  std::vector<mf::TokenId> next(static_cast<std::size_t>(sequences), prompt.front());
  std::vector<float> host(next.size() * vocabulary);
  std::vector<mf::CacheExtension> extensions;
  for (Index i = 0; i < sequences; ++i) {
    mf::CacheExtension const whole{i, prompt};
    (void)model.extend(session, cache, {&whole, 1});
  }
  for (std::size_t i = 0; i < next.size(); ++i) extensions.push_back({static_cast<Index>(i), {&next[i], 1}});
  auto const run = [&](mf::Repeated<B>* repeated, double& device) {
    typename Traits<typename B::Platform>::Marks marks;
    std::vector<double> taken, whole;
    for (Index i = 0; i < o.decoded; ++i) {
      double const begin = now();
      marks.mark(session.backend().stream());
      auto const logits = model.extend(session, cache, extensions, repeated);
      marks.mark(session.backend().stream());
      to_host(session.backend(), logits.reshape(logits.size()), host.data());
      for (std::size_t row = 0; row < next.size(); ++row) {
        auto const values = std::span(host).subspan(row * vocabulary, vocabulary);
        next[row] = static_cast<mf::TokenId>(std::ranges::max_element(values) - values.begin());
      }
      whole.push_back(now() - begin);
    }
    auto const between = marks.differences();
    for (std::size_t i = 0; i < between.size(); i += 2) taken.push_back(between[i]);
    device = median(taken);
    return median(whole);
  };
  Decoded result{.sequences = sequences};
  (void)run(nullptr, result.launched);
  mf::Repeated<B> repeated;
  result.whole = run(&repeated, result.device);
  return result;
}

template <class Call>
double median_host_seconds(Index repeats, Call&& call) {
  std::vector<double> times;
  for (Index i = 0; i < repeats + 2; ++i) {
    double const begin = now();
    call();
    if (i >= 2) times.push_back(now() - begin);  // the first runs as it is, the second may be recorded
  }
  return median(times);
}

/// Every call ends with numbers that the host has waited for, so the host's clock is right.
template <class B>
Measured measure(ModelOptions const& o) {
  auto model = random_model<B>(o);
  auto const batch = random_batch(o);
  Measured r;
  {
    mf::Session<B> session{model};
    observe_load<B>(model, session, batch, r);
    r.forward = median_host_seconds(o.steps, [&] { (void)model.loss(session, batch); });
  }
  {
    mf::Session<B> session{model};
    for (Index const sequences : o.decoded_sequences) r.decoded.push_back(decode<B>(model, session, o, sequences));
  }
  {
    mf::Session<B> session{model};
    auto gradient = model.make_gradient();
    fill(session.backend(), gradient.values(), 0.0f);
    r.forward_backward = median_host_seconds(o.steps, [&] { (void)model.gradients(session, batch, gradient); });
  }
  for (bool const record : {false, true}) {
    mf::Trainer trainer(model, mf::AdamW{.learning_rate = 1e-4}, {},
                        mf::TrainerOptions{.record_steps = record, .late_reports = record});
    (record ? r.step : r.launched_step) = median_host_seconds(3,
                                                              [&] {
                                                                for (Index i = 0; i < o.steps; ++i)
                                                                  (void)trainer.step(batch);
                                                                (void)trainer.finish();
                                                              }) /
                                          cost::real(o.steps);
  }
  return r;
}

}  // namespace bench
