// SPDX-License-Identifier: MIT
// On the CUDA backend too, emulated, a loss or gradient that is not finite changes nothing and is traced.
#include <moduleformer/backend/cuda_emulated.cuh>

#include "training/divergence.hpp"

#include <boost/test/unit_test.hpp>

namespace mf = moduleformer;
using mf::test::tiny_shape;

BOOST_AUTO_TEST_CASE(losses_in_float) {
  mf::test::check_losses<mf::CausalLM<tiny_shape, mf::Policies<>, mf::CudaEmulated<float>>>();
}
BOOST_AUTO_TEST_CASE(gradient_beyond_the_range_of_floats) {
  mf::test::check_gradient<mf::CausalLM<tiny_shape, mf::Policies<>, mf::CudaEmulated<float>>>();
}
BOOST_AUTO_TEST_CASE(losses_in_bfloat16) {
  mf::test::check_losses<mf::CausalLM<tiny_shape, mf::Policies<>, mf::CudaEmulated<mf::bfloat16>>>();
}
BOOST_AUTO_TEST_CASE(late_reports) {
  for (bool const record : {false, true})
    mf::test::check_late_reports<mf::CausalLM<tiny_shape, mf::Policies<>, mf::CudaEmulated<float>>>(record);
}
