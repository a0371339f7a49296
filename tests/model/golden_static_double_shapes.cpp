// SPDX-License-Identifier: MIT
// Golden cases in double against static types: shapes.
#include "model/golden_static.hpp"

BOOST_AUTO_TEST_CASE(golden) { moduleformer::test::check_static_shapes<double>(); }
