// SPDX-License-Identifier: MIT
// Training with losses whose statistics run over several micro-batches, on the CUDA backend, emulated; and beside the CPU.
#include <moduleformer/backend/cuda_emulated.cuh>

#include "training/statistics_span.hpp"

namespace mf = moduleformer;
using namespace mf::test;
using Float = mf::CudaEmulated<float>;
using Bfloat16 = mf::CudaEmulated<mf::bfloat16>;

BOOST_AUTO_TEST_CASE(the_same_run_in_every_way) {
  check_the_same_run<Bfloat16, mf::WholeBatchStatistics>();
  check_the_same_run<Bfloat16, mf::StreamingStatistics>();
  check_the_same_run<Float, mf::StreamingStatistics, mf::LoadLoss>();
}
BOOST_AUTO_TEST_CASE(resumed_runs_are_the_same) {
  check_resumed_with_micro_batches<Float, mf::StreamingStatistics>({1});
  check_resumed_with_micro_batches<Bfloat16, mf::StreamingStatistics>({0, 3});
  check_resumed_with_micro_batches<Bfloat16, mf::WholeBatchStatistics>({2});
}
BOOST_AUTO_TEST_CASE(one_micro_batch_is_the_whole_batch) { check_one_micro_batch<Bfloat16>(); }
BOOST_AUTO_TEST_CASE(the_whole_batch_is_the_big_batch) { check_whole_batch_is_the_big_batch<Float>(1e-5); }

BOOST_AUTO_TEST_CASE(as_on_the_cpu) {
  auto const check = []<class... Chosen>(std::type_identity<mf::Policies<Chosen...>>) {
    SpannedRun<mf::CausalLM<tiny_shape, mf::Policies<Chosen...>, mf::Cpu<float>>> const cpu(4);
    SpannedRun<mf::CausalLM<tiny_shape, mf::Policies<Chosen...>, Float>> const cuda(4);
    for (std::size_t i = 0; i < cpu.totals.size(); ++i) {
      BOOST_TEST(std::abs(cuda.totals[i] - cpu.totals[i]) <= 1e-4 * std::abs(cpu.totals[i]));
      BOOST_TEST(std::abs(cuda.auxiliary[i] - cpu.auxiliary[i]) <= 1e-4 * std::abs(cpu.auxiliary[i]));
    }
  };
  check(std::type_identity<mf::Policies<mf::WholeBatchStatistics>>{});
  check(std::type_identity<mf::Policies<mf::StreamingStatistics>>{});
  check(std::type_identity<mf::Policies<mf::StreamingStatistics, mf::SwitchLoss>>{});
}
