// SPDX-License-Identifier: MIT
// The dense model to compare a modular one with: active parameters within 2 %, at compile time and at run time; it trains.
#include "training/support.hpp"

#include <moduleformer/model/dense_baseline.hpp>

#include <boost/test/unit_test.hpp>

#include <cmath>
#include <string>
#include <vector>

namespace mf = moduleformer;
using namespace mf::test;
using mf::Index;

namespace {

double off(mf::Counts const& dense, mf::Counts const& modular) {
  return std::abs(static_cast<double>(dense.active_parameters) / static_cast<double>(modular.active_parameters) - 1);
}

/// About the published MoLM-350M-4B and a small one.
constexpr mf::Shape published{.vocab_size = 50304, .hidden_size = 1024, .layers = 24, .router_hidden_size = 256,
                              .attention = {.experts = 32, .top_k = 2, .heads = 1, .hidden_size = 1024},
                              .feed_forward = {.experts = 32, .top_k = 2, .hidden_size = 2048}};
constexpr mf::Shape small{.vocab_size = 256, .hidden_size = 128, .layers = 4, .router_hidden_size = 64,
                          .attention = {.experts = 16, .top_k = 2, .heads = 2, .hidden_size = 64},
                          .feed_forward = {.experts = 32, .top_k = 2, .hidden_size = 128}};

}  // namespace

BOOST_AUTO_TEST_CASE(active_parameters_of_static_shapes) {
  constexpr auto of_published = mf::dense_baseline(published), of_small = mf::dense_baseline(small);
  BOOST_TEST(of_published.feed_forward.hidden_size == 4096);
  BOOST_TEST(of_published.attention.experts == 1);
  BOOST_TEST(off(mf::count<of_published, mf::DensePolicies>(), mf::count<published>()) <= 0.02);
  BOOST_TEST(off(mf::count<of_small, mf::DensePolicies>(), mf::count<small>()) <= 0.02);
  BOOST_TEST(of_small.attention.hidden_size % 8 == 0);  // whole vectors a head, where that is near enough
}

BOOST_AUTO_TEST_CASE(active_parameters_of_configs) {
  int found = 0;
  for (Index const k : {1, 2, 4})
    for (Index const hidden : {48, 64, 200})
      for (Index const heads : {1, 3, 8}) {
        mf::Config config;
        config.vocab_size = 300;
        config.hidden_size = hidden;
        config.layers = 2;
        config.router_hidden_size = 16;
        config.attention = {8, k, heads, 48};
        config.feed_forward = {12, k, 40};
        auto const dense = mf::dense_baseline(config);
        BOOST_TEST(dense.attention.heads == heads);
        BOOST_TEST(dense.attention.hidden_size % heads == 0);
        BOOST_TEST(dense.feed_forward.hidden_size == 40 * k);
        BOOST_TEST(off(mf::count(dense, mf::DensePolicies{}, 300), mf::count(config, mf::Policies<>{}, 300)) <= 0.02);
        ++found;
      }
  BOOST_TEST(found == 27);
  auto const complains = [](mf::Config const& of, std::string const& words) {
    BOOST_CHECK_EXCEPTION(mf::dense_baseline(of), mf::Error,
                          [&](mf::Error const& e) { return std::string(e.what()).find(words) != std::string::npos; });
  };
  mf::Config config = mf::Config::of(tiny_shape);
  config.feed_forward.dormant = 1;
  complains(config, "expected no dormant or removed experts, found 1");
  config = mf::Config::of(tiny_shape);
  config.attention.experts = std::vector<Index>{3, 4};
  complains(config, "expected as many experts in every layer, found 3 to 4");
  config = mf::Config::of(tiny_shape);
  config.hidden_size = 1024;
  config.attention = {2, 2, 512, 512};  // no multiple of 512 heads is near
  config.feed_forward = {1, 1, 8};
  complains(config, "within 2 %");
}

BOOST_AUTO_TEST_CASE(it_trains_with_gates_of_one) {
  constexpr auto shape = mf::dense_baseline(small);
  auto model = mf::CausalLM<shape, mf::DensePolicies>::random(1);
  mf::Session session{model, {.threads = 1}};
  mf::Observation<float> seen;
  mf::Batch batch;
  tiny_batches(30).read(0, batch);
  double const before = model.loss(session, batch, {.observation = &seen}).task;
  for (auto const& router : seen.routers)
    for (float const gate : router.gates) BOOST_TEST(gate == 1.0f);
  mf::Trainer trainer{model, mf::AdamW{.learning_rate = 3e-3}, mf::Constant{}, {.threads = 1}};
  for (Index step = 0; step < 30; ++step) {
    tiny_batches(30).read(step, batch);
    BOOST_TEST(trainer.step(batch).auxiliary == 0);
  }
  tiny_batches(30).read(0, batch);
  BOOST_TEST(model.loss(session, batch).task < 0.7 * before);
}
