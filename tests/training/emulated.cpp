// SPDX-License-Identifier: MIT
// Training on the CUDA backend, emulated, beside training on the CPU.
#include <moduleformer/backend/cuda_emulated.cuh>

#include "training/beside_cpu_reference.hpp"

namespace mf = moduleformer;
using namespace mf::test;
using Float = mf::CudaEmulated<float>;
using Bfloat16 = mf::CudaEmulated<mf::bfloat16>;

BOOST_AUTO_TEST_CASE(twenty_steps_in_float) { check_twenty_steps_in_float<Float>(); }
BOOST_AUTO_TEST_CASE(twenty_steps_in_bfloat16) { check_twenty_steps_in_bfloat16_on_the_same_routes<Bfloat16>(); }
BOOST_AUTO_TEST_CASE(two_hundred_steps) { check_two_hundred_steps<Float, Bfloat16>(); }
BOOST_AUTO_TEST_CASE(the_same_bits_again_and_recorded) { check_the_same_bits_again_and_recorded<Bfloat16>(); }
using Biased = mf::Policies<mf::BiasedTopK, mf::SigmoidGates, mf::SharedExperts<1>, mf::NoRoutingLoss>;
using Noisy = mf::Policies<mf::GumbelTopK, mf::TopKSoftmaxGates, mf::WholeBatchStatistics, mf::ImportanceLoss>;
BOOST_AUTO_TEST_CASE(twenty_steps_with_other_policies) {
  auto const check = []<class PolicySet>(PolicySet) {
    mf::test::HowToTrain const how{.dropout = 0.1, .jitter = 0.1, .rate = 3e-3};
    auto const cpu = losses<mf::Cpu<float>, PolicySet>(20, how), cuda = losses<Float, PolicySet>(20, how);
    for (std::size_t i = 0; i < cpu.size(); ++i)
      BOOST_TEST(std::abs(cuda[i] - cpu[i]) <= 1e-4 * cpu[i], "step " << i << ": " << cuda[i] << " and " << cpu[i]);
  };
  check(Biased{});
  check(Noisy{});
}
BOOST_AUTO_TEST_CASE(the_same_bits_again_and_recorded_with_other_policies) {
  check_the_same_bits_again_and_recorded<Bfloat16, Biased>();
  check_the_same_bits_again_and_recorded<Bfloat16, Noisy>();
}
BOOST_AUTO_TEST_CASE(there_is_nothing_to_record_on_the_cpu) {
  BOOST_TEST(cpu_losses(3, {.dropout = 0.1, .record = true, .late = true}) == cpu_losses(3, {.dropout = 0.1}));
}
