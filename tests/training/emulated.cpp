// SPDX-License-Identifier: MIT
// Training on the CUDA backend, emulated, beside training on the CPU, from the same seed on the same batches: losses step
// by step in float, and in bfloat16 with the CPU's routes replayed; the mean loss after many steps.
#include <moduleformer/backend/cpu.hpp>
#include <moduleformer/backend/cuda_emulated.cuh>
#include <moduleformer/model/causal_lm.hpp>
#include <moduleformer/training/trainer.hpp>

#include <boost/test/unit_test.hpp>

#include <cmath>
#include <vector>

namespace mf = moduleformer;
using mf::Index;

namespace {

constexpr mf::Shape shape{
    .vocab_size = 23, .hidden_size = 16, .layers = 2, .router_hidden_size = 8,
    .attention = {.experts = 4, .top_k = 2, .heads = 2, .hidden_size = 16},
    .feed_forward = {.experts = 6, .top_k = 2, .hidden_size = 24},
};
template <class B>
using Model = mf::CausalLM<shape, mf::Policies<>, B>;
using Cpu = mf::Cpu<float>;

/// Rows of a sequence in which each token follows from the two before it, with some noise (without, the loss comes so
/// low that routes chosen by rounding show in it).
mf::Batch batch(Index step, Index rows, Index tokens) {
  mf::Batch b{.rows = rows, .tokens = tokens};
  for (Index r = 0; r < rows; ++r) {
    Index before = 1, last = (step + r) % 7;
    for (Index t = 0; t < tokens; ++t) {
      auto const noise = mf::random_words({5, static_cast<std::uint32_t>(step)}, static_cast<std::uint64_t>(r * tokens + t))[0];
      Index const next = noise % 8 == 0 ? static_cast<Index>(noise / 8 % 23) : (3 * last + before + 2) % 23;
      b.ids.push_back(static_cast<mf::TokenId>(next));
      before = last;
      last = next;
    }
  }
  b.labels = b.ids;
  return b;
}

template <class B>
std::vector<double> losses(Index steps, double dropout, bool record = false, bool late = false) {
  auto model = Model<B>::random(3, {.aux_loss_weight = 1e-2, .residual_dropout = dropout});
  mf::Trainer trainer{model, mf::AdamW{.learning_rate = 1e-2}, mf::Constant{}, {.threads = 1, .seed = 9, .record_steps = record, .late_reports = late}};
  std::vector<double> all;
  for (Index i = 0; i < steps; ++i) {
    mf::StepReport const report = trainer.step(batch(i, 2, 12));
    BOOST_TEST(report.step == (late ? i : i + 1));
    if (report.step > 0) all.push_back(report.total);
  }
  if (late) all.push_back(trainer.finish().total);
  return all;
}

double mean_of_last(std::vector<double> const& values, std::size_t count) {
  double sum = 0;
  for (std::size_t i = values.size() - count; i < values.size(); ++i) sum += values[i];
  return sum / static_cast<double>(count);
}

/// One run of gradients and updates that records its routes, or replays another's.
template <class B>
struct Run {
  using M = Model<B>;
  M model = M::random(3, {.aux_loss_weight = 1e-2});
  typename M::SessionType session{mf::SessionOptions{.threads = 1}};
  typename M::Gradient gradient = model.make_gradient();
  mf::AdamWState<B> state{session.backend(), model.table()};
  mf::Buffer<double, typename B::Memory> norm{1};
  mf::Buffer<mf::AdamWStep, typename B::Memory> step_numbers{1};

  double step(Index i, mf::Observation<float>* record, mf::Observation<float> const* replay) {
    std::vector<mf::Buffer<mf::ExpertId, typename B::Memory>> buffers;
    std::vector<mf::BlockRoutes> routes;
    if (replay != nullptr) {
      auto const upload = [&](auto const& router) -> mf::Matrix<mf::ExpertId const> {
        auto& buffer = buffers.emplace_back(static_cast<Index>(router.experts.size()));
        from_host(session.backend(), router.experts.data(), buffer.view());
        return {buffer.data(), {buffer.size() / router.top_k, router.top_k}};
      };
      for (std::size_t r = 0; r < replay->routers.size(); r += 2) {
        auto const attention = upload(replay->routers[r]);
        routes.push_back({attention, upload(replay->routers[r + 1])});
      }
    }
    fill(session.backend(), gradient.values(), 0.0f);
    double const loss = model.gradients(session, batch(i, 2, 12), gradient, {}, false, {record, routes}).total;
    mf::AdamW const optimizer{.learning_rate = 1e-2};
    mf::AdamWStep const numbers = optimizer.step_numbers(optimizer.learning_rate, i + 1);
    from_host(session.backend(), &numbers, step_numbers.view());
    measure_gradient(session.backend(), optimizer, model.table(), gradient, {}, norm.view(), step_numbers.view());
    update(session.backend(), optimizer, step_numbers.view(), gradient, state, model);
    return loss;
  }
};

}  // namespace

BOOST_AUTO_TEST_CASE(twenty_steps_in_float) {
  for (double const dropout : {0.0, 0.2}) {
    auto const cpu = losses<Cpu>(20, dropout), cuda = losses<mf::CudaEmulated<float>>(20, dropout);
    for (std::size_t i = 0; i < cpu.size(); ++i)
      BOOST_TEST(std::abs(cuda[i] - cpu[i]) <= 1e-4 * cpu[i], "dropout " << dropout << ", step " << i << ": " << cuda[i] << " and " << cpu[i]);
  }
}

BOOST_AUTO_TEST_CASE(twenty_steps_in_bfloat16_on_the_same_routes) {
  Run<Cpu> cpu;
  Run<mf::CudaEmulated<mf::bfloat16>> cuda;
  for (Index i = 0; i < 20; ++i) {
    mf::Observation<float> seen;
    double const expected = cpu.step(i, &seen, nullptr), found = cuda.step(i, nullptr, &seen);
    BOOST_TEST(std::abs(found - expected) <= 1e-2 * expected, "step " << i << ": " << found << " and " << expected);
  }
}

BOOST_AUTO_TEST_CASE(two_hundred_steps) {
  auto const cpu = losses<Cpu>(200, 0), in_float = losses<mf::CudaEmulated<float>>(200, 0),
             in_bfloat16 = losses<mf::CudaEmulated<mf::bfloat16>>(200, 0);
  double const expected = mean_of_last(cpu, 50);
  BOOST_TEST_MESSAGE("mean loss " << expected << " from " << cpu[0] << "; float " << mean_of_last(in_float, 50) << ", bfloat16 " << mean_of_last(in_bfloat16, 50));
  BOOST_TEST(expected < 0.85 * cpu[0]);
  BOOST_TEST(std::abs(mean_of_last(in_float, 50) - expected) <= 0.01 * expected);
  BOOST_TEST(std::abs(mean_of_last(in_bfloat16, 50) - expected) <= 0.03 * expected);
}

BOOST_AUTO_TEST_CASE(the_same_bits_again_and_recorded) {
  using B = mf::CudaEmulated<mf::bfloat16>;
  auto const expected = losses<B>(6, 0.1);
  BOOST_TEST(losses<B>(6, 0.1) == expected);
  BOOST_TEST(losses<B>(6, 0.1, true) == expected);
  BOOST_TEST(losses<B>(6, 0.1, true, true) == expected);
  BOOST_TEST(losses<Cpu>(3, 0.1, true, true) == losses<Cpu>(3, 0.1));  // nothing to record
}
