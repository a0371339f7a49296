// SPDX-License-Identifier: MIT
#pragma once
// Training on a CUDA backend beside training on the CPU, from the same seed on the same batches: losses step by step in
// float, and in bfloat16 with the CPU's routes replayed; the mean loss after many steps. What the CPU does is declared
// here and defined in beside_cpu_reference.hpp, since nvcc does not see the CPU backend.

#include <moduleformer/backend/buffer.hpp>
#include <moduleformer/model/causal_lm.hpp>
#include <moduleformer/training/trainer.hpp>

#include <boost/test/unit_test.hpp>

#include <cmath>
#include <vector>

namespace moduleformer::test {

inline constexpr Shape beside_shape{
    .vocab_size = 23, .hidden_size = 16, .layers = 2, .router_hidden_size = 8,
    .attention = {.experts = 4, .top_k = 2, .heads = 2, .hidden_size = 16},
    .feed_forward = {.experts = 6, .top_k = 2, .hidden_size = 24},
};
template <class B, class PolicySet = Policies<>>
using BesideModel = CausalLM<beside_shape, PolicySet, B>;

/// Rows of a sequence in which each token follows from the two before it, with some noise (without, the loss comes so
/// low that routes chosen by rounding show in it).
inline Batch noisy_batch(Index step, Index rows, Index tokens) {
  Batch b{.rows = rows, .tokens = tokens};
  for (Index r = 0; r < rows; ++r) {
    Index before = 1, last = (step + r) % 7;
    for (Index t = 0; t < tokens; ++t) {
      auto const noise = random_words({5, static_cast<std::uint32_t>(step)}, static_cast<std::uint64_t>(r * tokens + t))[0];
      Index const next = noise % 8 == 0 ? static_cast<Index>(noise / 8 % 23) : (3 * last + before + 2) % 23;
      b.ids.push_back(static_cast<TokenId>(next));
      before = last;
      last = next;
    }
  }
  b.labels = b.ids;
  return b;
}

struct HowToTrain {
  double dropout = 0, jitter = 0;
  double rate = 1e-2;
  bool record = false, late = false;  // TrainerOptions' record_steps and late_reports
};

template <class B, class PolicySet = Policies<>>
std::vector<double> losses(Index steps, HowToTrain how = {}) {
  auto model = BesideModel<B, PolicySet>::random(3, {.aux_loss_weight = 1e-2, .residual_dropout = how.dropout,
                                                     .router_jitter = how.jitter});
  Trainer trainer{model, AdamW{.learning_rate = how.rate}, Constant{},
                  {.threads = 1, .seed = 9, .record_steps = how.record, .late_reports = how.late}};
  std::vector<double> all;
  for (Index i = 0; i < steps; ++i) {
    StepReport const report = trainer.step(noisy_batch(i, 2, 12));
    BOOST_TEST(report.step == (how.late ? i : i + 1));
    if (report.step > 0) all.push_back(report.total);
  }
  if (how.late) all.push_back(trainer.finish().total);
  return all;
}

inline double mean_of_last(std::vector<double> const& values, std::size_t count) {
  double sum = 0;
  for (std::size_t i = values.size() - count; i < values.size(); ++i) sum += values[i];
  return sum / static_cast<double>(count);
}

/// One run of gradients and updates that records its routes, or replays another's.
template <class B>
class RoutedRun {
 public:
  double step(Index i, Observation<float>* record, Observation<float> const* replay) {
    std::vector<Buffer<ExpertId, typename B::Memory>> buffers;
    std::vector<BlockRoutes> routes;
    if (replay != nullptr) {
      auto const upload = [&](auto const& router) -> Matrix<ExpertId const> {
        auto& buffer = buffers.emplace_back(static_cast<Index>(router.experts.size()));
        from_host(session_.backend(), router.experts.data(), buffer.view());
        return {buffer.data(), {buffer.size() / router.top_k, router.top_k}};
      };
      for (std::size_t r = 0; r < replay->routers.size(); r += 2) {
        auto const attention = upload(replay->routers[r]);
        routes.push_back({attention, upload(replay->routers[r + 1])});
      }
    }
    fill(session_.backend(), gradient_.values(), 0.0f);
    double const loss = model_.gradients(session_, noisy_batch(i, 2, 12), gradient_, {}, false, {record, routes}).total;
    AdamW const optimizer{.learning_rate = 1e-2};
    AdamWStep const numbers = optimizer.step_numbers(optimizer.learning_rate, i + 1);
    from_host(session_.backend(), &numbers, step_numbers_.view());
    measure_gradient(session_.backend(), optimizer, gradient_, {}, norm_.view(), step_numbers_.view());
    update(session_.backend(), optimizer, step_numbers_.view(), gradient_, state_, model_);
    return loss;
  }

 private:
  using M = BesideModel<B>;
  M model_ = M::random(3, {.aux_loss_weight = 1e-2});
  typename M::SessionType session_{SessionOptions{.threads = 1}};
  typename M::Gradient gradient_ = model_.make_gradient();
  AdamWState<B> state_{session_.backend(), model_.table()};
  Buffer<double, typename B::Memory> norm_{1};
  Buffer<AdamWStep, typename B::Memory> step_numbers_{1};
};

// The same on the CPU in float.
std::vector<double> cpu_losses(Index steps, HowToTrain how = {});
struct RoutedLoss {
  double loss = 0;
  Observation<float> seen;  // by which routes
};
std::vector<RoutedLoss> cpu_routed_losses(Index steps);

template <class B>
void check_twenty_steps_in_float() {
  for (double const dropout : {0.0, 0.2}) {
    auto const cpu = cpu_losses(20, {.dropout = dropout}), cuda = losses<B>(20, {.dropout = dropout});
    for (std::size_t i = 0; i < cpu.size(); ++i)
      BOOST_TEST(std::abs(cuda[i] - cpu[i]) <= 1e-4 * cpu[i], "dropout " << dropout << ", step " << i << ": " << cuda[i] << " and " << cpu[i]);
  }
}

template <class B>
void check_twenty_steps_in_bfloat16_on_the_same_routes() {
  auto const cpu = cpu_routed_losses(20);
  RoutedRun<B> cuda;
  for (Index i = 0; i < 20; ++i) {
    RoutedLoss const& expected = cpu[static_cast<std::size_t>(i)];
    double const found = cuda.step(i, nullptr, &expected.seen);
    BOOST_TEST(std::abs(found - expected.loss) <= 1e-2 * expected.loss, "step " << i << ": " << found << " and " << expected.loss);
  }
}

template <class InFloat, class InBfloat16>
void check_two_hundred_steps() {
  // At higher rates what rounding changes in a route grows into another run.
  HowToTrain const how{.rate = 3e-3};
  auto const cpu = cpu_losses(200, how), in_float = losses<InFloat>(200, how), in_bfloat16 = losses<InBfloat16>(200, how);
  double const expected = mean_of_last(cpu, 50);
  BOOST_TEST_MESSAGE("mean loss " << expected << " from " << cpu[0] << "; float " << mean_of_last(in_float, 50) << ", bfloat16 "
                                  << mean_of_last(in_bfloat16, 50));
  BOOST_TEST(expected < 0.9 * cpu[0]);
  BOOST_TEST(std::abs(mean_of_last(in_float, 50) - expected) <= 0.01 * expected);
  BOOST_TEST(std::abs(mean_of_last(in_bfloat16, 50) - expected) <= 0.03 * expected);
}

/// Again, with recorded steps, and with reports that are one step late.
template <class B, class PolicySet = Policies<>>
void check_the_same_bits_again_and_recorded() {
  HowToTrain how{.dropout = 0.1, .jitter = 0.1};
  auto const expected = losses<B, PolicySet>(6, how);
  BOOST_TEST((losses<B, PolicySet>(6, how)) == expected);
  how.record = true;
  BOOST_TEST((losses<B, PolicySet>(6, how)) == expected);
  how.late = true;
  BOOST_TEST((losses<B, PolicySet>(6, how)) == expected);
}

}  // namespace moduleformer::test
