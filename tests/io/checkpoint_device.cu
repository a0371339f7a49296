// SPDX-License-Identifier: MIT
// Models on a CUDA device, saved and loaded with their trainers.
#include <moduleformer/backend/cuda.cuh>

#include "io/checkpoint_beside_cpu.hpp"

namespace mf = moduleformer;
using namespace mf::test;
using Float = mf::Cuda<float>;
using Bfloat16 = mf::Cuda<mf::bfloat16>;

BOOST_AUTO_TEST_CASE(a_resumed_run_in_float) { check_resumed_folder<Float>(); }
BOOST_AUTO_TEST_CASE(a_resumed_run_in_bfloat16) { check_resumed_folder<Bfloat16>(); }
BOOST_AUTO_TEST_CASE(between_the_cpu_and_the_device_in_float) { check_between_cpu_and_device<Float>(); }
BOOST_AUTO_TEST_CASE(between_the_cpu_and_the_device_in_bfloat16) { check_between_cpu_and_device<Bfloat16>(); }
BOOST_AUTO_TEST_CASE(a_refused_state_changes_nothing) { check_refused_state<Float>(); }
