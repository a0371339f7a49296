// SPDX-License-Identifier: MIT
// Presented in any way, the same tokens give the same logits on the CPU, in float and double.
#include "model/equivalence.hpp"

#include <boost/test/unit_test.hpp>

#include <tuple>

namespace mf = moduleformer;
using namespace moduleformer::test;

namespace {

using Backends = std::tuple<mf::Cpu<float>, mf::Cpu<double>>;

/// One token, and more than a block of keys.
template <class B>
Equivalence<B> const equivalence{{1, 37, 150, 64}};

}  // namespace

BOOST_AUTO_TEST_CASE_TEMPLATE(a_batch_equals_its_single_rows, B, Backends) { equivalence<B>.check_rows(41); }
BOOST_AUTO_TEST_CASE_TEMPLATE(packed_sequences_equal_separate_ones, B, Backends) { equivalence<B>.check_packed(); }
BOOST_AUTO_TEST_CASE_TEMPLATE(a_padded_batch_equals_unpadded_rows, B, Backends) { equivalence<B>.check_padded(); }
BOOST_AUTO_TEST_CASE_TEMPLATE(padding_does_not_change_the_losses, B, Backends) { equivalence<B>.check_losses(); }
BOOST_AUTO_TEST_CASE_TEMPLATE(the_cache_in_pieces_of_any_size_equals_the_full_forward, B, Backends) {
  equivalence<B>.check_cache({1, 5, 64, 200});
}

BOOST_AUTO_TEST_CASE(a_refused_extension_leaves_the_cache_as_it_was) {
  auto const model = small_model<double>(variants[0]);
  mf::Session session{model, {.threads = 1}};
  mf::KvCache<mf::Cpu<double>> cache(model, 2, 4);
  auto const extend = [&](mf::Index sequence, std::vector<mf::TokenId> const& ids) {
    std::vector<mf::CacheExtension> const extensions{{sequence, ids}};
    (void)model.extend(session, cache, extensions);
  };
  extend(0, {1, 2, 3});
  BOOST_CHECK_THROW(extend(0, {1, 2}), mf::Error);   // more than the capacity
  BOOST_CHECK_THROW(extend(0, {23}), mf::Error);     // outside the vocabulary
  BOOST_CHECK_THROW(extend(0, {}), mf::Error);       // nothing new
  BOOST_CHECK_THROW(extend(2, {1}), mf::Error);      // no such sequence
  std::vector<mf::TokenId> const id{1};
  std::vector<mf::CacheExtension> const descending{{1, id}, {0, id}};
  BOOST_CHECK_THROW((void)model.extend(session, cache, descending), mf::Error);
  BOOST_TEST(cache.length(0) == 3);
  BOOST_TEST(cache.length(1) == 0);
  extend(0, {4});
  BOOST_TEST(cache.length(0) == 4);
  cache.clear();
  BOOST_TEST(cache.length(0) == 0);
}
