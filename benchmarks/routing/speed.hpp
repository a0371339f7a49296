// SPDX-License-Identifier: MIT
#pragma once
// Seconds of the layers of one block alone, forward and backward, in training: each router by its own choice, and what the
// experts take under given routes, even ones or those of a trained model's skew (of 32 experts about ten are effective, the
// busiest has some seven times its share, as measured of MoLM); and of a whole training step. Random tokens and weights. All
// policies are measured in turn, in several rounds, so that a machine that changes its pace does so for all. Times are worth
// something on a quiet machine only, so they are made apart from the cells.

#include "routing/cell.hpp"
#include "support.hpp"

#include <moduleformer/nn/parameter_storage.hpp>
#include <moduleformer/training/trainer.hpp>

#include <cmath>
#include <functional>
#include <vector>

namespace bench {

enum class Load { even, skewed };

inline char const* load_name(Load load) { return load == Load::even ? "even" : "skewed"; }

/// Routes of a router for tokens with K experts (N, slots): its shared ones, then experts drawn without replacement, the r-th
/// most used with a weight proportional to (3/4)^r if skewed; slots beyond K are empty.
template <class Router>
std::vector<mf::ExpertId> draw_routes(mf::Cpu<float>& backend, Index tokens, Router const& router, Index top_k,
                                      Load load) {
  Index const shared = router.shared_experts(), experts = router.experts() - shared, drawn = top_k - shared,
              slots = router.slots(true);
  double const log_ratio = load == Load::even ? 0 : std::log(0.75);
  std::vector<float> score(static_cast<std::size_t>(tokens * experts));
  for (Index i = 0; i < tokens * experts; ++i) {
    double const rank = static_cast<double>((i % experts * 7 + 3) % experts);
    double const unit =
        static_cast<double>(mf::to_unit(mf::random_words({11, 0, 0}, static_cast<std::uint64_t>(i))[0]));
    score[static_cast<std::size_t>(i)] = static_cast<float>(rank * log_ratio - std::log(-std::log(unit)));
  }
  std::vector<mf::ExpertId> chosen(static_cast<std::size_t>(tokens * drawn)),
      routes(static_cast<std::size_t>(tokens * slots), -1);
  mf::top_k(backend, mf::Matrix<float const>{score.data(), {tokens, experts}},
            mf::Matrix<mf::ExpertId>{chosen.data(), {tokens, drawn}});
  for (Index t = 0; t < tokens; ++t) {
    auto const row = routes.begin() + t * slots;
    for (Index s = 0; s < shared; ++s) row[s] = static_cast<mf::ExpertId>(s);
    for (Index s = 0; s < drawn; ++s)
      row[shared + s] = static_cast<mf::ExpertId>(shared + chosen[static_cast<std::size_t>(t * drawn + s)]);
  }
  return routes;
}

/// A layer with parameters, gradients and tokens of its own.
template <class Layer>
class LayerAlone {
 public:
  using Backend = mf::Cpu<float>;

  LayerAlone(Backend& backend, mf::Settings const& settings, Layer layer, Index tokens, Index hidden)
      : layer_(layer),
        backend_(backend),
        settings_(settings),
        x_(random(tokens * hidden, 1)),
        x{x_.data(), {tokens, hidden}} {
    mf::DeclareParameters declare(table_);
    layer_.visit_parameters(values_, declare);
    storage_ = mf::ParameterStorage<Backend>(table_);
    for (std::size_t i = 0; i < table_.count(); ++i)
      mf::initialize(table_[i], i, 5, 0.02, storage_.writable(table_, i));
    mf::BindValues<float, std::function<float const*(std::size_t)>> bind(
        [this](std::size_t i) { return storage_.place(i); });
    layer_.visit_parameters(values_, bind);
    gradient_.resize(static_cast<std::size_t>(table_.training_size()));
    mf::BindGradients<float> bind_gradients(table_, gradient_.data());
    layer_.visit_parameters(gradients_, bind_gradients);
  }
  LayerAlone(LayerAlone const&) = delete;

  static std::vector<float> random(Index count, std::uint64_t seed) {
    std::vector<float> values;
    for (Index i = 0; i < count; ++i)
      values.push_back(mf::to_unit(mf::random_words({seed, 0, 0}, static_cast<std::uint64_t>(i))[0]) * 2 - 1);
    return values;
  }

  /// Median seconds of call(layer, pass, values, gradients, x) on tokens of these documents.
  template <class Call>
  double seconds(Index repeats, mf::Vector<mf::Sequence const> documents, Call&& call) {
    return median_seconds(repeats, [&] {
      backend_.workspace().release({});
      mf::Pass<Backend> pass{backend_, settings_, /*keep=*/true, /*training=*/true};
      pass.numbers = &numbers_;
      pass.documents = documents;
      call(layer_, pass, values_, gradients_, x);
    });
  }

 private:
  Layer layer_;
  Backend& backend_;
  mf::Settings settings_;
  mf::PassNumbers numbers_{.random = {7, 3, 0}, .routing_weight = 1e-3};
  mf::ParameterTable table_;
  mf::ParameterStorage<Backend> storage_;
  typename Layer::template Parameters<mf::Values<float>> values_{};
  typename Layer::template Parameters<mf::Gradients<float>> gradients_{};
  std::vector<float> gradient_;
  std::vector<float> x_;

 public:
  mf::Matrix<float const> x;
};

/// Of one block, forward and backward, seconds.
struct BlockSeconds {
  double routers = 0;          // both, each with its own choice
  double attention = 0;        // under the given load, without its router
  double feed_forward = 0;
};

/// What a policy costs.
struct SpeedResult {
  std::string policy;
  BlockSeconds even, skewed;
  double step = 0;             // seconds of a training step of the whole model
  double layers = 0;
  double tokens = 0;           // of a step
  [[nodiscard]] double tokens_per_second() const { return tokens / step; }
  /// Of a step, in routers and in what they serve.
  [[nodiscard]] double router_seconds() const { return layers * even.routers; }
  [[nodiscard]] double expert_seconds() const { return layers * (even.attention + even.feed_forward); }
};

NLOHMANN_DEFINE_TYPE_NON_INTRUSIVE(BlockSeconds, routers, attention, feed_forward)
NLOHMANN_DEFINE_TYPE_NON_INTRUSIVE(SpeedResult, policy, even, skewed, step, layers, tokens)

inline BlockSeconds block_seconds(RoutingOptions const& o, Routing const& routing, Load load, Index repeats) {
  using Backend = mf::Cpu<float>;
  using Policies = mf::dynamic_policies;
  Backend backend(o.threads);
  Index const n = o.tokens_per_step(), d = o.hidden;
  auto const dy = LayerAlone<mf::RouterLayer<Policies, Backend>>::random(n * d, 3);
  mf::Matrix<float const> const dout{dy.data(), {n, d}};
  std::vector<mf::Sequence> rows;
  for (Index begin = 0; begin < n; begin += o.window) rows.push_back({begin, o.window, begin, o.window});
  mf::Vector<mf::Sequence const> const sequences{rows.data(), {static_cast<Index>(rows.size())}};

  BlockSeconds result;
  auto const measure = [&](mf::RandomSite site, auto layer, double& seconds, auto&& call) {
    Index const slots = layer.router().slots(true);
    auto const routes = draw_routes(backend, n, layer.router(), o.top_k, load);
    mf::Matrix<mf::ExpertId const> const given{routes.data(), {n, slots}};
    auto const dgate = LayerAlone<mf::RouterLayer<Policies, Backend>>::random(n * slots, 4);
    mf::Matrix<float const> const dgates{dgate.data(), {n, slots}};
    auto const route = [&](mf::Matrix<mf::ExpertId const> choice) {
      LayerAlone alone(backend, routing.settings, layer.router(), n, d);
      return alone.seconds(repeats, sequences, [&](auto const& router, auto& pass, auto const& p, auto const& g, auto x) {
        auto const context = router.forward(pass, p, x, choice, site);
        router.backward(pass, p, g, context, site, x, dgates, pass.template allocate<float>(n, d));
      });
    };
    result.routers += route({});
    LayerAlone alone(backend, routing.settings, layer, n, d);
    seconds = alone.seconds(repeats, sequences, [&](auto const& l, auto& pass, auto const& p, auto const& g, auto x) {
      call(l, pass, p, g, x, given, pass.template allocate<float>(n * slots, d), pass.template allocate<float>(n, d),
           pass.template allocate<float>(n * slots, d));
    }) - route(given);
  };
  measure(
      mf::RandomSite::attention_router,
      mf::Attention<Policies, Backend>({d, o.router_hidden, o.attention_experts}, o.top_k, o.heads, d,
                                       routing.policies),
      result.attention,
      [&](auto const& l, auto& pass, auto const& p, auto const& g, auto x, auto given, auto y, auto dx, auto dx_slots) {
        auto const context = l.forward(pass, p, x, sequences, {}, given, y);
        l.backward(pass, p, g, context, x, sequences, dout, dx, dx_slots);
      });
  measure(
      mf::RandomSite::feed_forward_router,
      mf::FeedForward<Policies, Backend>({d, o.router_hidden, o.ffn_experts}, o.top_k, o.ffn_hidden, routing.policies),
      result.feed_forward,
      [&](auto const& l, auto& pass, auto const& p, auto const& g, auto x, auto given, auto y, auto dx, auto dx_slots) {
        auto const context = l.forward(pass, p, x, given, y);
        l.backward(pass, p, g, context, x, dout, dx, dx_slots);
      });
  return result;
}

/// A step's batch of random bytes.
inline mf::Batch random_batch(RoutingOptions const& o) {
  mf::Batch batch{.rows = o.tokens_per_step() / o.window, .tokens = o.window};
  for (Index i = 0; i < o.tokens_per_step(); ++i)
    batch.ids.push_back(static_cast<mf::TokenId>(mf::random_words({17, 0, 0}, static_cast<std::uint64_t>(i))[0] % 256));
  batch.targets = batch.ids;
  return batch;
}

/// Of training steps of the whole model.
inline double step_seconds(RoutingOptions const& o, Routing const& routing, Index repeats) {
  Model model = Model::random(1, o.config(), routing.settings, routing.policies);
  mf::Trainer trainer{model, mf::AdamW{.learning_rate = 1e-6}, mf::Constant{}, {.threads = o.threads}};
  mf::Batch const batch = random_batch(o);
  return median_seconds(repeats, [&] { trainer.step(batch); });
}

inline SpeedResult measure_speed(RoutingOptions const& o, Variant const& variant) {
  constexpr Index repeats = 3;
  Routing routing;
  variant.choose(routing);
  return {std::string(variant.name),
          block_seconds(o, routing, Load::even, repeats),
          block_seconds(o, routing, Load::skewed, repeats),
          step_seconds(o, routing, repeats),
          static_cast<double>(o.layers),
          static_cast<double>(o.tokens_per_step())};
}

/// Each number's median over rounds.
inline SpeedResult median_of(std::vector<SpeedResult> const& rounds) {
  SpeedResult result = rounds.front();
  auto const take = [&](auto const& number) {
    std::vector<double> values;
    for (SpeedResult r : rounds) values.push_back(number(r));
    number(result) = median(values);
  };
  for (auto const load : {&SpeedResult::even, &SpeedResult::skewed})
    for (auto const part : {&BlockSeconds::routers, &BlockSeconds::attention, &BlockSeconds::feed_forward})
      take([=](SpeedResult& r) -> double& { return r.*load.*part; });
  take([](SpeedResult& r) -> double& { return r.step; });
  return result;
}

inline std::filesystem::path speed_file(RoutingOptions const& o, Variant const& variant) {
  return o.out / fmt::format("{}.speed.json", variant.name);
}

}  // namespace bench
