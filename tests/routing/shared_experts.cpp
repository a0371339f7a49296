// SPDX-License-Identifier: MIT
// Shared experts: a layer with them is the shared ones' sum beside a layer of the others; every token has them; what losses
// and observation see; numbers that no model can have; routes that lack them.

#include "support/layer.hpp"

#include <moduleformer/io/config_policies.hpp>
#include <moduleformer/model/causal_lm.hpp>
#include <moduleformer/model/count.hpp>
#include <moduleformer/training/trainer.hpp>

#include <algorithm>
#include <cmath>
#include <string>

namespace mf = moduleformer;
using mf::Index;
using namespace mf::test;

namespace {

constexpr mf::Shape shape{.vocab_size = 13, .hidden_size = 10, .layers = 2, .router_hidden_size = 5,
                          .attention = {.experts = 4, .top_k = 3, .heads = 2, .hidden_size = 8},
                          .feed_forward = {.experts = 7, .top_k = 4, .hidden_size = 6}};
template <class... P>
using Model = mf::CausalLM<shape, mf::Policies<mf::SharedExperts<1, 2>, P...>, mf::Cpu<double>>;
using Any = mf::CausalLM<mf::dynamic_shape, mf::dynamic_policies, mf::Cpu<double>>;

mf::Batch batch() {
  mf::Batch result{.rows = 2, .tokens = 9};
  for (std::uint64_t i = 0; i < 18; ++i) result.ids.push_back(static_cast<mf::TokenId>(mf::random_words({5, 0, 0}, i)[0] % 13));
  result.labels = result.ids;
  return result;
}

template <class F>
std::string complaint(F const& f) {
  try {
    f();
  } catch (mf::Error const& error) {
    return error.what();
  }
  return {};
}

mf::dynamic_policies with_shared(Index attention, Index feed_forward) {
  mf::dynamic_policies policies;
  policies.shared_experts = mf::SharedExperts<>{attention, feed_forward};
  return policies;
}

}  // namespace

BOOST_AUTO_TEST_CASE(a_layer_is_the_shared_experts_beside_a_layer_of_the_others) {
  Index const n = 21, d = 5, f = 6, e = 7, k = 4, shared = 2;
  using Together = mf::FeedForward<mf::Policies<mf::SharedExperts<2>, mf::Silu>, Double>;
  using Apart = mf::FeedForward<mf::Policies<mf::Silu>, Double>;
  mf::Policies<mf::SharedExperts<2>, mf::Silu> policies;
  mf::Policies<mf::Silu> plain;
  LayerUnderTest<Together> all(Together({d, 3, e}, k, f, policies), 0.8, 5);
  LayerUnderTest<Apart> routed(Apart({d, 3, e - shared}, k - shared, f, plain), 0.8, 5);
  // in, out, then the router's: those of the routed experts are the last ones.
  for (std::size_t i = 0; i < routed.table.count(); ++i) {
    BOOST_TEST(routed.table[i].name == all.table[i].name);
    auto const from = all.parameter(i), to = routed.parameter(i);
    std::copy(from.end() - static_cast<std::ptrdiff_t>(to.size()), from.end(), to.begin());
    if (i >= 2) BOOST_TEST(from.size() == to.size());
  }
  auto const x = random_values(n * d, 1);
  mf::Matrix<double const> const tokens{x.data(), {n, d}};
  auto pass = all.pass();
  auto const y = pass.allocate<double>(n * k, d);
  auto const context = all.layer.forward(pass, all.values, tokens, {}, y);
  auto routed_pass = routed.pass();
  auto const routed_y = routed_pass.allocate<double>(n * (k - shared), d);
  auto const routed_context = routed.layer.forward(routed_pass, routed.values, tokens, {}, routed_y);
  BOOST_TEST(*context.router.loss == *routed_context.router.loss);
  for (Index t = 0; t < n; ++t) {
    for (Index s = 0; s < shared; ++s) {
      BOOST_TEST(context.router.experts(t, s) == s);
      for (Index j = 0; j < d; ++j) {
        double expected = 0;
        for (Index h = 0; h < f; ++h) {
          double z = 0;
          for (Index i = 0; i < d; ++i) z += tokens(t, i) * all.values.in(s, i, h);
          expected += z / (1 + std::exp(-z)) * all.values.out(s, h, j);
        }
        BOOST_TEST(std::abs(y(t * k + s, j) - expected) < 1e-12);
      }
    }
    for (Index s = 0; s < k - shared; ++s) {
      BOOST_TEST(context.router.experts(t, shared + s) == routed_context.router.experts(t, s) + shared);
      for (Index j = 0; j < d; ++j)
        BOOST_TEST(std::abs(y(t * k + shared + s, j) - routed_y(t * (k - shared) + s, j)) < 1e-12);
    }
  }
}

BOOST_AUTO_TEST_CASE(every_token_has_them_and_losses_do_not_see_them) {
  auto const model = Model<mf::SwitchLoss>::random(3, {.initializer_range = 0});  // uniform routing: exactly 1 of E - S
  mf::Session session{model, {.threads = 2}};
  mf::Observation<double> seen;
  (void)model.loss(session, batch(), {.observation = &seen});
  for (std::size_t r = 0; r < seen.routers.size(); ++r) {
    auto const& router = seen.routers[r];
    Index const shared = r % 2 == 0 ? 1 : 2, k = r % 2 == 0 ? 3 : 4, e = router.expert_count;
    BOOST_TEST(router.shared_experts == shared);
    BOOST_TEST(e == (r % 2 == 0 ? 4 : 7));
    for (std::size_t i = 0; i < router.experts.size(); ++i) {
      Index const s = static_cast<Index>(i) % k;
      if (s < shared) BOOST_TEST(router.experts[i] == s);
      else BOOST_TEST(router.experts[i] >= shared);
      BOOST_TEST(std::abs(router.gates[i] - (s < shared ? 1 : 1.0 / static_cast<double>(e - shared))) < 1e-15);
    }
    double total = 0;
    for (Index i = 0; i < e; ++i) {
      auto const at = static_cast<std::size_t>(i);
      total += router.mean_probability[at];
      if (i < shared) {
        BOOST_TEST(router.load[at] == 18);
        BOOST_TEST(router.probabilities[at] == 0);
      }
    }
    BOOST_TEST(std::abs(total - 1) < 1e-14);
    BOOST_TEST(std::abs(router.conditional_entropy - std::log(static_cast<double>(e - shared))) < 1e-14);
  }
}

BOOST_AUTO_TEST_CASE(their_routers_are_smaller) {
  auto const model = Model<mf::BiasedTopK>::random(3);
  auto const find = [&](std::string const& name) { return model.table()[model.table().find("transformer.h.1." + name)]; };
  BOOST_TEST(find("mlpf.gate.w_gate.3.weight").rows() == 5);
  BOOST_TEST(find("mlpf.gate.expert_bias").rows() == 5);
  BOOST_TEST(find("mlpf.experts.weight").rows() == 7);
  BOOST_TEST(find("attn.q_proj.gate.w_gate.3.weight").rows() == 3);
  constexpr auto counts = mf::count<shape, mf::Policies<mf::SharedExperts<1, 2>, mf::BiasedTopK>>();
  BOOST_TEST(counts.parameters == model.parameter_count());
  auto const any = Any::random(3, mf::Config::of(shape), {}, with_shared(1, 2));
  auto const at_run_time = mf::count(any.config(), any.policies(), any.outputs());
  BOOST_TEST(at_run_time.parameters == any.parameter_count());
  constexpr auto unshared = mf::count<shape>();
  BOOST_TEST(unshared.parameters - at_run_time.parameters == 2 * 5 * (1 + 2));  // rows of W2 (E,R) in two layers
  BOOST_TEST(unshared.dense_flops - at_run_time.dense_flops == 2 * 2 * 5 * (1 + 2));
}

BOOST_AUTO_TEST_CASE(chosen_at_run_time_they_are_the_same) {
  auto const model = Model<>::random(3, {.initializer_range = 0.4});
  auto const any = Any::random(3, mf::Config::of(shape), {.initializer_range = 0.4}, with_shared(1, 2));
  mf::Session session{model}, any_session{any};
  BOOST_TEST((model.logits(session, batch()).values == any.logits(any_session, batch()).values));
  auto const none = Any::random(3, mf::Config::of(shape), {.initializer_range = 0.4}, with_shared(0, 0));
  auto const published = Any::random(3, mf::Config::of(shape), {.initializer_range = 0.4});
  mf::Session none_session{none}, published_session{published};
  BOOST_TEST((none.logits(none_session, batch()).values == published.logits(published_session, batch()).values));
}

BOOST_AUTO_TEST_CASE(blocks_that_are_computed_again_have_them) {
  auto const gradient_of = [](auto const& model) {
    mf::Session session{model, {.threads = 2, .seed = 9}};
    auto gradient = model.make_gradient();
    fill(session.backend(), gradient.values(), 0.0);
    model.gradients(session, batch(), gradient, {}, true);
    return std::vector<double>(gradient.values().begin(), gradient.values().end());
  };
  mf::Settings const settings{.aux_loss_weight = 0.1, .router_jitter = 0.1, .sampled_slots = 1, .initializer_range = 0.4};
  BOOST_TEST(gradient_of(Model<>::random(3, settings)) == gradient_of(Model<mf::RecomputeBlocks>::random(3, settings)));
}

BOOST_AUTO_TEST_CASE(their_number_is_checked) {
  auto const refused = [](Index attention, Index feed_forward, mf::Settings settings = {}) {
    return complaint([&] { (void)Any::random(3, mf::Config::of(shape), settings, with_shared(attention, feed_forward)); });
  };
  BOOST_TEST(refused(3, 1) == "shared_experts: attention: expected 0 to 2, fewer than k_att, found 3");
  BOOST_TEST(refused(1, -1) == "shared_experts: feed_forward: expected 0 to 3, fewer than k_mlp, found -1");
  BOOST_TEST(refused(2, 3).empty());
  BOOST_TEST(refused(2, 3, {.sampled_slots = 1}).empty());
  BOOST_TEST(refused(1, 3, {.sampled_slots = 2}) == "sample_topk: expected 0 to top-k 1, found 2");
}

BOOST_AUTO_TEST_CASE(a_file_names_them) {
  auto const stored = mf::store_policies(with_shared(1, 2));
  BOOST_TEST((stored.at("shared_experts") == mf::StoredPolicy{"shared", {{"attention", 1.0}, {"feed_forward", 2.0}}}));
  mf::StoredConfig config{.file = "config.json", .policies = stored};
  auto const counts = mf::shared_counts(mf::choose_policies<mf::dynamic_policies>(config).shared_experts);
  BOOST_TEST(counts.attention == 1);
  BOOST_TEST(counts.feed_forward == 2);
  (void)mf::choose_policies<mf::Policies<mf::SharedExperts<1, 2>>>(config);
  (void)mf::choose_policies<mf::Policies<mf::SharedExperts<mf::dynamic, 2>>>(config);
  BOOST_TEST(complaint([&] { (void)mf::choose_policies<mf::Policies<mf::SharedExperts<1, 1>>>(config); }) ==
             "\"config.json\": shared_experts: feed_forward: expected the number of the model's type, 1, found 2");
  BOOST_TEST(complaint([&] { (void)mf::choose_policies<mf::Policies<>>(config); }) ==
             "\"config.json\": shared_experts: the model's type has 'none', the file says 'shared'");
  config.policies.at("shared_experts").numbers["attention"] = 0.5;
  BOOST_TEST(complaint([&] { (void)mf::choose_policies<mf::dynamic_policies>(config); }) ==
             "\"config.json\": shared_experts: attention: expected an integer, found 0.5");
}

BOOST_AUTO_TEST_CASE(given_routes_have_them_first) {
  auto const model = Model<>::random(3, {.initializer_range = 0.4});
  mf::Session session{model};
  auto const record = mf::record_routes(model, session, std::vector<mf::Batch>{batch()});
  auto const expected = model.logits(session, batch());
  BOOST_TEST((model.logits(session, batch(), {.replay = record.replay(0)}).values == expected.values));
  auto broken = record;
  std::swap(broken.routers[1].experts[4], broken.routers[1].experts[5]);  // of token 1
  BOOST_TEST(complaint([&] { (void)model.logits(session, batch(), {.replay = broken.replay(0)}); }).find(
                 "batch 0: token 1, slot 0: expected the shared expert 0, found 1") != std::string::npos);
  auto const given = [&](std::vector<mf::ExpertId> const& attention, std::vector<mf::ExpertId> const& feed_forward) {
    mf::BlockRoutes const block{{attention.data(), {1, 3}}, {feed_forward.data(), {1, 4}}};
    mf::BlockRoutes const routes[] = {block, block};
    mf::Batch const one{.rows = 1, .tokens = 1, .ids = {3}};
    return complaint([&] { (void)model.logits(session, one, {.routes = routes}); });
  };
  BOOST_TEST(given({0, 2, 3}, {0, 1, 6, 2}).empty());
  BOOST_TEST(given({0, 0, 3}, {0, 1, 6, 2}) ==
             "routes of layer 0, attention: token 0, slot 1: expected a routed expert from 1, found 0");
  BOOST_TEST(given({0, 2, 3}, {1, 0, 6, 2}) ==
             "routes of layer 0, feed_forward: token 0, slot 0: expected the shared expert 0, found 1");
}
