// SPDX-License-Identifier: MIT
// Training with losses whose statistics run over several micro-batches, on a CUDA device.
#include <moduleformer/backend/cuda.cuh>

#include "training/statistics_span.hpp"

namespace mf = moduleformer;
using namespace mf::test;
using Float = mf::Cuda<float>;
using Bfloat16 = mf::Cuda<mf::bfloat16>;

BOOST_AUTO_TEST_CASE(the_same_run_in_every_way) {
  check_the_same_run<Bfloat16, mf::WholeBatchStatistics>();
  check_the_same_run<Bfloat16, mf::StreamingStatistics>();
  check_the_same_run<Float, mf::StreamingStatistics, mf::LoadLoss>();
}
BOOST_AUTO_TEST_CASE(resumed_runs_are_the_same) {
  check_resumed_with_micro_batches<Float, mf::StreamingStatistics>({1});
  check_resumed_with_micro_batches<Bfloat16, mf::WholeBatchStatistics>({2});
}
BOOST_AUTO_TEST_CASE(one_micro_batch_is_the_whole_batch) { check_one_micro_batch<Bfloat16>(); }
BOOST_AUTO_TEST_CASE(the_whole_batch_is_the_big_batch) { check_whole_batch_is_the_big_batch<Float>(1e-5); }
