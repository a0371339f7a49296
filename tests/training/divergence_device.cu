// SPDX-License-Identifier: MIT
// On a CUDA device too, a loss or gradient that is not finite changes nothing and is traced.
#include <moduleformer/backend/cuda.cuh>

#include "training/divergence.hpp"

#include <boost/test/unit_test.hpp>

namespace mf = moduleformer;

template <class B>
void losses() {
  mf::test::check_losses<mf::CausalLM<mf::test::tiny_shape, mf::Policies<>, B>>();
}
template <class B>
void gradient() {
  mf::test::check_gradient<mf::CausalLM<mf::test::tiny_shape, mf::Policies<>, B>>();
}

BOOST_AUTO_TEST_CASE(losses_in_float) { losses<mf::Cuda<float>>(); }
BOOST_AUTO_TEST_CASE(gradient_beyond_the_range_of_floats) { gradient<mf::Cuda<float>>(); }
BOOST_AUTO_TEST_CASE(losses_in_bfloat16) { losses<mf::Cuda<mf::bfloat16>>(); }

template <class B>
void late_reports() {
  for (bool const record : {false, true}) mf::test::check_late_reports<mf::CausalLM<mf::test::tiny_shape, mf::Policies<>, B>>(record);
}
BOOST_AUTO_TEST_CASE(late_reports_in_float) { late_reports<mf::Cuda<float>>(); }
