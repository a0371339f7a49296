// SPDX-License-Identifier: MIT
// Whole models in double: numeric gradients of the total loss (auxiliary losses included) for both heads,
// recomputation, given routes, observation.

#include "support/gradient_check.hpp"

#include <moduleformer/model/causal_lm.hpp>
#include <moduleformer/model/sequence_classifier.hpp>

namespace mf = moduleformer;
using namespace mf::test;

namespace {

constexpr mf::Shape shape{.vocab_size = 13, .hidden_size = 10, .layers = 2, .router_hidden_size = 5,
                          .attention = {.experts = 3, .top_k = 2, .heads = 2, .hidden_size = 8},
                          .feed_forward = {.experts = 4, .top_k = 2, .hidden_size = 7}, .labels = 3};
using Double = mf::Cpu<double>;
using Recomputing = mf::Policies<mf::RecomputeBlocks>;

mf::Batch sample_batch() {
  mf::Batch batch{.rows = 3, .tokens = 6};
  for (std::uint64_t i = 0; i < 18; ++i) batch.ids.push_back(static_cast<mf::TokenId>(1 + mf::random_words({5, 0, 0}, i)[0] % 12));
  batch.labels = batch.ids;
  batch.labels[4] = mf::ignore_label;
  batch.mask = {0, 0, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 0, 0};
  return batch;
}

template <class Model>
Model larger_parameters(mf::Settings settings, mf::Config config = mf::Config::of(shape)) {
  auto model = Model::random(3, config, settings);
  for (std::size_t i = 0; i < model.table().count(); ++i)  // away from the near-linear regime of a fresh model
    for (double& x : model.writable(i)) x *= model.table()[i].is_matrix() ? 6 : 1;
  return model;
}

template <class Model>
void check_gradients(Model& model, mf::Batch const& batch) {
  mf::Session session{model, {.threads = 2}};
  auto gradient = model.make_gradient();
  fill(session.backend(), gradient.values(), 0.0);
  auto const report = model.gradients(session, batch, gradient);
  BOOST_TEST(report.total == model.loss(session, batch).total);
  for (std::size_t i = 0; i < model.table().count(); ++i) {
    auto const& segment = model.table()[i];
    auto const values = model.writable(i);
    auto const analytic = gradient.segment(segment);
    check_gradient(segment.name, {values.data(), static_cast<std::size_t>(values.size())},
                   {analytic.data(), static_cast<std::size_t>(analytic.size())},
                   [&] { return model.loss(session, batch).total; }, 1e-6, 6);
  }
}

}  // namespace

BOOST_AUTO_TEST_CASE(language_model_gradients) {
  auto model = larger_parameters<mf::CausalLM<shape, mf::Policies<>, Double>>({.aux_loss_weight = 0.2});
  check_gradients(model, sample_batch());
}

BOOST_AUTO_TEST_CASE(classifier_gradients) {
  auto config = mf::Config::of(shape);
  config.pad_token_id = 0;
  auto model = larger_parameters<mf::SequenceClassifier<shape, mf::Policies<mf::GmmRouter>, Double>>({}, config);
  mf::Batch batch{.rows = 3, .tokens = 4, .ids = {3, 4, 5, 6, 1, 2, 0, 0, 7, 0, 0, 0}, .labels = {2, 0, 1}};
  check_gradients(model, batch);
  mf::Session session{model};
  BOOST_TEST(model.logits(session, batch).values.size() == 9u);
  auto some = batch;
  some.labels[1] = mf::ignore_label;
  mf::Batch const two{.rows = 2, .tokens = 4, .ids = {3, 4, 5, 6, 7, 0, 0, 0}, .labels = {2, 1}};
  BOOST_TEST(model.loss(session, some).counted == 2);
  BOOST_TEST(std::abs(model.loss(session, some).task - model.loss(session, two).task) < 1e-12);
  batch.ids[5] = 0;  // a pad before the last real token
  batch.ids[6] = 2;
  BOOST_CHECK_THROW((void)model.logits(session, batch), mf::Error);
  batch.ids = {0, 0, 0, 0, 1, 2, 0, 0, 7, 0, 0, 0};
  BOOST_CHECK_THROW((void)model.logits(session, batch), mf::Error);
}

BOOST_AUTO_TEST_CASE(recomputation_gives_the_same_bits) {
  mf::Settings const settings{.aux_loss_weight = 0.2, .embedding_dropout = 0.1, .residual_dropout = 0.2, .router_dropout = 0.1, .router_jitter = 0.1,
                              .sampled_slots = 1};
  auto const keep = larger_parameters<mf::CausalLM<shape, mf::Policies<>, Double>>(settings);
  auto const recompute = larger_parameters<mf::CausalLM<shape, Recomputing, Double>>(settings);
  auto run = [](auto const& model) {
    mf::Session session{model, {.threads = 2, .seed = 9}};
    auto gradient = model.make_gradient();
    fill(session.backend(), gradient.values(), 0.0);
    model.gradients(session, sample_batch(), gradient, {}, true);
    return std::vector<double>(gradient.values().begin(), gradient.values().end());
  };
  BOOST_TEST(run(keep) == run(recompute));
}

namespace {

/// Layer norm that is given x and dy, not what they are sums of.
struct PlainNorm {
  using Role = mf::role::Norm;
  static constexpr std::string_view name = "plain";
  template <class Access>
  using Parameters = mf::LayerNorm::Parameters<Access>;
  template <class B>
  using Context = mf::LayerNorm::Context<B>;
  template <class Views, class Visitor>
  static constexpr void visit_parameters(mf::Index hidden_size, Views& p, Visitor& visit) {
    mf::LayerNorm::visit_parameters(hidden_size, p, visit);
  }
  template <mf::Backend B, class S = typename B::Scalar>
  static Context<B> forward(mf::Pass<B>& pass, Parameters<mf::Values<S>> const& p, mf::Matrix<S const> x,
                            mf::Matrix<S> y) {
    return mf::LayerNorm::forward(pass, p, x, y);
  }
  template <mf::Backend B, class S = typename B::Scalar, class A = typename B::Accumulator>
  static void backward(mf::Pass<B>& pass, Parameters<mf::Values<S>> const& p,
                       Parameters<mf::Gradients<A>> const& gradients, Context<B> const& context, mf::Matrix<S const> x,
                       mf::Matrix<S const> dy, mf::Matrix<S> dx) {
    mf::LayerNorm::backward(pass, p, gradients, context, x, dy, dx);
  }
};

}  // namespace

BOOST_AUTO_TEST_CASE(a_norm_that_cannot_add_up_gives_the_same_bits) {
  static_assert(mf::FusesCombination<mf::LayerNorm, Double> && !mf::FusesCombination<PlainNorm, Double>);
  mf::Settings const settings{.aux_loss_weight = 0.2, .residual_dropout = 0.2};
  auto run = [](auto const& model) {
    mf::Session session{model, {.threads = 2, .seed = 9}};
    auto gradient = model.make_gradient();
    fill(session.backend(), gradient.values(), 0.0);
    model.gradients(session, sample_batch(), gradient, {}, true);
    auto values = model.logits(session, sample_batch()).values;
    values.insert(values.end(), gradient.values().begin(), gradient.values().end());
    return values;
  };
  BOOST_TEST(run(larger_parameters<mf::CausalLM<shape, mf::Policies<>, Double>>(settings)) ==
             run(larger_parameters<mf::CausalLM<shape, mf::Policies<PlainNorm>, Double>>(settings)));
}

BOOST_AUTO_TEST_CASE(given_routes_replace_the_choice) {
  auto const model = larger_parameters<mf::CausalLM<shape, mf::Policies<>, Double>>({});
  mf::Session session{model, {.threads = 1}};
  auto batch = sample_batch();
  batch.mask.clear();
  mf::Observation<double> seen{.want_hidden_states = true, .want_attention = true};
  auto const logits = model.logits(session, batch, {.observation = &seen});
  BOOST_TEST(seen.hidden_states.size() == 3u);
  BOOST_TEST(seen.routers.size() == 4u);
  BOOST_TEST(seen.attentions.size() == 2u);
  BOOST_TEST(seen.attentions[0].size() == 3u * 2 * 2 * 6 * 6);
  std::vector<mf::BlockRoutes> routes;
  for (std::size_t i = 0; i < 2; ++i)
    routes.push_back({{seen.routers[2 * i].experts.data(), {18, 2}}, {seen.routers[2 * i + 1].experts.data(), {18, 2}}});
  BOOST_TEST(model.logits(session, batch, {.routes = routes}).values == logits.values);
  std::vector<mf::ExpertId> all_first(36);
  for (std::size_t i = 0; i < all_first.size(); ++i) all_first[i] = static_cast<mf::ExpertId>(i % 2);
  routes[1].feed_forward = {all_first.data(), {18, 2}};
  mf::Observation<double> forced;
  BOOST_TEST(model.logits(session, batch, {.observation = &forced, .routes = routes}).values != logits.values);
  BOOST_TEST(forced.routers[3].load == (std::vector<double>{18, 18, 0, 0}), boost::test_tools::per_element());
  all_first[7] = 4;
  BOOST_CHECK_THROW((void)model.logits(session, batch, {.routes = routes}), mf::Error);
}

BOOST_AUTO_TEST_CASE(observation_spreads_masked_tokens) {
  auto const model = larger_parameters<mf::CausalLM<shape, mf::Policies<>, Double>>({});
  mf::Session session{model};
  mf::Observation<double> seen{.want_hidden_states = true};
  (void)model.logits(session, sample_batch(), {.observation = &seen});
  BOOST_TEST(seen.routers[0].experts[0] == -1);
  BOOST_TEST(seen.hidden_states[0][0] == 0.0);
  BOOST_TEST(seen.routers[0].experts[2 * 2] >= 0);
  double load = 0, probability = 0;
  for (double const l : seen.routers[0].load) load += l;
  for (double const p : seen.routers[0].mean_probability) probability += p;
  BOOST_TEST(load == 14 * 2);
  BOOST_TEST(std::abs(probability - 1) < 1e-12);
}

BOOST_AUTO_TEST_CASE(batches_that_do_not_fit) {
  auto const model = larger_parameters<mf::CausalLM<shape, mf::Policies<>, Double>>({});
  mf::Session session{model};
  auto batch = sample_batch();
  batch.labels.assign(18, mf::ignore_label);
  BOOST_CHECK_THROW((void)model.loss(session, batch), mf::Error);
  batch.labels.clear();
  BOOST_CHECK_THROW((void)model.loss(session, batch), mf::Error);
  BOOST_CHECK_NO_THROW((void)model.logits(session, batch));
}
