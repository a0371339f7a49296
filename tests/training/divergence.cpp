// SPDX-License-Identifier: MIT
// A loss or gradient that is not finite stops training before anything changes, and says where it arose.

#include "training/divergence.hpp"

#include <boost/test/unit_test.hpp>

namespace mf = moduleformer;
using Model = mf::CausalLM<mf::test::tiny_shape>;

BOOST_AUTO_TEST_CASE(losses) { mf::test::check_losses<Model>(); }
BOOST_AUTO_TEST_CASE(gradient_beyond_the_range_of_floats) { mf::test::check_gradient<Model>(); }
BOOST_AUTO_TEST_CASE(late_reports) { mf::test::check_late_reports<Model>(false); }
