// SPDX-License-Identifier: MIT
// ctest timeout: 600
// Whole models with each routing policy on the CUDA backend, emulated. In float: the CPU's losses, gradients, routes and
// generated tokens. In bfloat16: blocks computed again give the same bits. A cache gives the logits of the whole text.
#include <moduleformer/backend/cuda_emulated.cuh>

#include "model/generation_support.hpp"

#include <moduleformer/backend/cpu.hpp>
#include <moduleformer/model/generation.hpp>

#include <boost/test/unit_test.hpp>

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <string>
#include <utility>
#include <vector>

namespace mf = moduleformer;
using namespace moduleformer::test;
using mf::Index;

namespace {

using Float = mf::CudaEmulated<float>;
using Bfloat16 = mf::CudaEmulated<mf::bfloat16>;

struct Named {
  std::string name;
  mf::dynamic_policies policies;
  double jitter = 0;
};

template <class Selection, class Gating, class Loss = mf::MutualInformationLoss>
Named named(std::string name, Selection selection, Gating gating, Loss loss = {}, mf::SharedExperts<> shared = {0, 0}, double jitter = 0) {
  Named result{std::move(name), {}, jitter};
  result.policies.selection = selection;
  result.policies.gating = gating;
  result.policies.routing_loss = loss;
  if (shared.feed_forward > 0) result.policies.shared_experts = shared;
  return result;
}

std::vector<Named> all_policies() {
  using namespace moduleformer;
  GumbelTopK gumbel;
  gumbel.scale = 0.7;
  ExpertChoice few;
  few.capacity = 1.3;
  few.most_experts = 3;
  DocumentPool small;
  small.smallest = 2;
  small.largest = 3;
  return {
      named("top-k softmax", TopK{}, TopKSoftmaxGates{}, ImportanceLoss{}),
      named("sigmoid", TopK{}, SigmoidGates{}, ImportanceLoss{}),
      named("normalised sigmoid", TopK{}, NormalisedSigmoidGates{}, LoadLoss{}),
      named("gumbel", gumbel, NormalisedSigmoidGates{}),
      named("biased", BiasedTopK{}, SigmoidGates{}, NoRoutingLoss{}),
      named("expert choice", ExpertChoice{}, SoftmaxGates{}),
      named("expert choice, few", few, TopKSoftmaxGates{}, RouterZLoss{}),
      named("document pools", DocumentPool{}, SoftmaxGates{}),
      named("jitter", TopK{}, SoftmaxGates{}, RouterZLoss{}, {0, 0}, 0.2),
      named("shared", TopK{}, SoftmaxGates{}, MutualInformationLoss{}, {1, 2}),
      named("shared, biased", BiasedTopK{}, NormalisedSigmoidGates{}, SwitchLoss{}, {0, 1}, 0.1),
      named("shared, expert choice", ExpertChoice{}, TopKSoftmaxGates{}, ImportanceLoss{}, {0, 1}),
      named("shared, document pools", small, SigmoidGates{}, LoadLoss{}, {1, 2}),
  };
}

template <class B>
ModelOn<B> model_with(Named const& with, bool recompute = false) {
  mf::Config config;
  config.vocab_size = 23;
  config.hidden_size = 12;
  config.layers = 2;
  config.router_hidden_size = 8;
  config.attention = {5, 2, 3, 12};
  config.feed_forward = {7, 3, 10};
  mf::dynamic_policies policies = with.policies;
  policies.checkpointing.recompute_blocks = recompute;
  auto model = ModelOn<B>::random(3, config, {.aux_loss_weight = 0.2, .residual_dropout = 0.1, .router_jitter = with.jitter,
                                              .initializer_range = 0.5}, policies);
  B backend(1);
  for (std::size_t i = 0; i < model.table().count(); ++i) {  // a bias, as after some training
    if (!model.table()[i].name.ends_with("expert_bias")) continue;
    std::vector<float> const bias{0.25f, -0.125f, 0.0f, 0.5f, -0.25f, 0.125f, -0.5f};
    from_host(backend, bias.data(), model.writable(i));
  }
  model.refresh(backend);
  return model;
}

struct Outcome {
  mf::LossReport report;
  std::vector<float> gradient;
  mf::Observation<float> seen;
};

template <class B>
Outcome train(Named const& with, bool recompute = false) {
  auto const model = model_with<B>(with, recompute);
  mf::Batch batch = mf::Batch::packed({some_ids(1, 1), some_ids(19, 2), some_ids(12, 3)});
  batch.labels = batch.ids;
  mf::Session<B> session{mf::SessionOptions{.threads = 2, .seed = 9}};
  auto gradient = model.make_gradient();
  fill(session.backend(), gradient.values(), 0.0f);
  Outcome result;
  result.report = model.gradients(session, batch, gradient, {}, true, {.observation = &result.seen});
  result.gradient.resize(static_cast<std::size_t>(gradient.values().size()));
  to_host(session.backend(), gradient.values(), result.gradient.data());
  return result;
}

double norm(std::vector<float> const& x) {
  double sum = 0;
  for (float const v : x) sum += static_cast<double>(v) * static_cast<double>(v);
  return std::sqrt(sum);
}

/// Logits of the last token through a cache, in pieces, beside those of the whole text at once.
template <class B>
double error_of_cache(Named const& with) {
  auto const model = model_with<B>(with);
  mf::Session<B> session{mf::SessionOptions{.threads = 2}};
  auto const ids = some_ids(17, 4);
  auto const whole = model.logits(session, one_row(ids));
  mf::KvCache<B> cache(model, 1, 17);
  double error = 0;
  for (Index begin = 0; begin < 17;) {
    Index const end = std::min<Index>(17, begin + 5);
    mf::CacheExtension const extension{.sequence = 0, .tokens = {ids.data() + begin, ids.data() + end}};
    auto const logits = model.extend(session, cache, std::span(&extension, 1));
    std::vector<float> host(23);
    to_host(session.backend(), logits.reshape(23), host.data());
    for (std::size_t i = 0; i < 23; ++i)
      error = std::max(error, static_cast<double>(std::abs(host[i] - whole.values[static_cast<std::size_t>(end - 1) * 23 + i])));
    begin = end;
  }
  return error;
}

}  // namespace

BOOST_AUTO_TEST_CASE(training_in_float_is_the_cpus) {
  for (Named const& with : all_policies()) {
    BOOST_TEST_CONTEXT(with.name) {
      Outcome const cpu = train<mf::Cpu<float>>(with), cuda = train<Float>(with);
      BOOST_TEST(std::abs(cuda.report.task - cpu.report.task) < 1e-5);
      BOOST_TEST(std::abs(cuda.report.auxiliary - cpu.report.auxiliary) < 1e-5);
      for (std::size_t r = 0; r < cpu.seen.routers.size(); ++r) {
        BOOST_TEST(cuda.seen.routers[r].experts == cpu.seen.routers[r].experts);
        BOOST_TEST(cuda.seen.routers[r].load == cpu.seen.routers[r].load);
      }
      std::vector<float> difference;
      for (std::size_t i = 0; i < cpu.gradient.size(); ++i) difference.push_back(cuda.gradient[i] - cpu.gradient[i]);
      BOOST_TEST(norm(difference) < 1e-4 * norm(cpu.gradient));
      BOOST_TEST(norm(cpu.gradient) > 0.1);
    }
  }
}

BOOST_AUTO_TEST_CASE(blocks_computed_again_in_bfloat16_give_the_same_bits) {
  for (Named const& with : all_policies()) {
    BOOST_TEST_CONTEXT(with.name) {
      Outcome const kept = train<Bfloat16>(with), again = train<Bfloat16>(with, true);
      BOOST_TEST((kept.gradient == again.gradient));
      BOOST_TEST(std::isfinite(norm(kept.gradient)));
      BOOST_TEST(norm(kept.gradient) > 0.1);
      double const exact = train<mf::Cpu<float>>(with).report.task;
      BOOST_TEST(std::abs(kept.report.task - exact) < 0.05 * exact);  // some routes differ
    }
  }
}

BOOST_AUTO_TEST_CASE(a_cache_gives_the_logits_of_the_whole_text) {
  for (Named const& with : all_policies()) {
    BOOST_TEST_CONTEXT(with.name) {
      BOOST_TEST(error_of_cache<mf::Cpu<float>>(with) < 2e-5);
      BOOST_TEST(error_of_cache<Float>(with) < 2e-5);
    }
  }
}

BOOST_AUTO_TEST_CASE(generated_tokens) {
  std::vector<std::vector<mf::TokenId>> const prompts{some_ids(5, 1), some_ids(1, 2), some_ids(30, 3)};
  for (Named const& with : all_policies()) {
    BOOST_TEST_CONTEXT(with.name) {
      mf::GenerationOptions options{.max_new_tokens = 6, .temperature = 0};
      auto const cpu = mf::generate(model_with<mf::Cpu<float>>(with), prompts, options);
      auto const cuda = mf::generate(model_with<Float>(with), prompts, options);
      auto const rounded = mf::generate(model_with<Bfloat16>(with), prompts, options);
      options.record_steps = true;
      auto const recorded = mf::generate(model_with<Bfloat16>(with), prompts, options);
      for (std::size_t i = 0; i < prompts.size(); ++i) {
        BOOST_TEST(cuda[i].tokens == cpu[i].tokens, boost::test_tools::per_element());
        BOOST_TEST(recorded[i].tokens == rounded[i].tokens, boost::test_tools::per_element());
      }
    }
  }
}
