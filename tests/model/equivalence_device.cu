// SPDX-License-Identifier: MIT
// Presented in any way, the same tokens give the same logits on a CUDA device in float.
#include <moduleformer/backend/cuda.cuh>

#include "model/equivalence.hpp"

#include <boost/test/unit_test.hpp>

namespace {

/// One token, a few, and several blocks of keys.
moduleformer::test::Equivalence<moduleformer::Cuda<float>> const& equivalence() {
  static moduleformer::test::Equivalence<moduleformer::Cuda<float>> const made{{1, 9, 70, 700}};
  return made;
}

}  // namespace

BOOST_AUTO_TEST_CASE(a_batch_equals_its_single_rows) { equivalence().check_rows(11); }
BOOST_AUTO_TEST_CASE(packed_sequences_equal_separate_ones) { equivalence().check_packed(); }
BOOST_AUTO_TEST_CASE(a_padded_batch_equals_unpadded_rows) { equivalence().check_padded(); }
BOOST_AUTO_TEST_CASE(padding_does_not_change_the_losses) { equivalence().check_losses(); }
BOOST_AUTO_TEST_CASE(the_cache_in_pieces_equals_the_full_forward) { equivalence().check_cache({5, 64}); }
