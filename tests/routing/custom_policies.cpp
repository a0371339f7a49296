// SPDX-License-Identifier: MIT
// The policies that docs/policies.md builds: numeric gradients of whole models with them, what they choose, and the
// same on the CUDA backend, emulated.
#include <moduleformer/backend/cuda_emulated.cuh>

#include "../examples/custom_policies.hpp"
#include "support/gradient_check.hpp"

#include <moduleformer/model/causal_lm.hpp>

#include <boost/mpl/list.hpp>

#include <cmath>
#include <vector>

using namespace mf::test;

namespace {

constexpr mf::Shape shape{.vocab_size = 13, .hidden_size = 10, .layers = 2, .router_hidden_size = 5,
                          .attention = {.experts = 3, .top_k = 2, .heads = 2, .hidden_size = 8},
                          .feed_forward = {.experts = 5, .top_k = 2, .hidden_size = 7}};

using Sets = boost::mpl::list<mf::Policies<BiasedRouter, SquaredImbalance>, mf::Policies<InTurn>,
                              mf::Policies<EvenGates, mf::ImportanceLoss>,
                              mf::Policies<BiasedRouter, InTurn, EvenGates, SquaredImbalance>>;

mf::Batch batch() {
  mf::Batch result{.rows = 2, .tokens = 7};
  for (std::uint64_t i = 0; i < 14; ++i)
    result.ids.push_back(static_cast<mf::TokenId>(mf::random_words({5, 0, 0}, i)[0] % 13));
  result.labels = result.ids;
  return result;
}

template <class Policies, class B>
auto model() {
  return mf::CausalLM<shape, Policies, B>::random(3, {.aux_loss_weight = 0.3, .initializer_range = 0.4});
}

}  // namespace

BOOST_AUTO_TEST_CASE_TEMPLATE(gradients, Policies, Sets) {
  auto tested = model<Policies, mf::Cpu<double>>();
  mf::Session session{tested, {.threads = 2}};
  auto gradient = tested.make_gradient();
  fill(session.backend(), gradient.values(), 0.0);
  (void)tested.gradients(session, batch(), gradient);
  for (std::size_t i = 0; i < tested.table().count(); ++i) {
    auto const& segment = tested.table()[i];
    auto const values = tested.writable(i);
    auto const analytic = gradient.segment(segment);
    check_gradient(segment.name, {values.data(), static_cast<std::size_t>(values.size())},
                   {analytic.data(), static_cast<std::size_t>(analytic.size())},
                   [&] { return tested.loss(session, batch()).total; }, 1e-6, 6);
  }
}

BOOST_AUTO_TEST_CASE_TEMPLATE(the_same_on_cuda, Policies, Sets) {
  auto const here = model<Policies, mf::Cpu<float>>();
  auto const there = model<Policies, mf::CudaEmulated<float>>();
  mf::Session session_here{here, {.threads = 2}};
  mf::Session session_there{there};
  mf::LossReport const a = here.loss(session_here, batch()), b = there.loss(session_there, batch());
  BOOST_TEST(std::abs(a.task - b.task) < 1e-5);
  BOOST_TEST(std::abs(a.auxiliary - b.auxiliary) < 1e-5);
}

BOOST_AUTO_TEST_CASE(what_is_chosen) {
  auto const tested = model<mf::Policies<InTurn, EvenGates>, mf::Cpu<double>>();
  mf::Session session{tested};
  mf::Observation<double> seen;
  (void)tested.logits(session, batch(), {.observation = &seen});
  for (auto const& router : seen.routers) {
    for (std::size_t slot = 0; slot < router.experts.size(); ++slot) {
      BOOST_TEST(router.experts[slot] ==
                 static_cast<mf::ExpertId>(slot) % static_cast<mf::ExpertId>(router.expert_count));
      BOOST_TEST(router.gates[slot] == 0.5);
    }
  }
  auto const one =
      mf::CausalLM<shape, mf::Policies<SquaredImbalance>, mf::Cpu<double>>::random(3, {.initializer_range = 0});
  mf::Session session_of_one{one};
  BOOST_TEST(std::abs(one.loss(session_of_one, batch()).auxiliary) < 1e-30);  // even use is no imbalance
}
