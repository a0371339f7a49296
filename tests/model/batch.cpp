// SPDX-License-Identifier: MIT
// Batches: packing of padded rows and packed sequences, and each mistake's message.

#include <moduleformer/model/batch.hpp>

#include <boost/test/unit_test.hpp>

#include <functional>
#include <string>

namespace mf = moduleformer;

namespace {

mf::Batch two_rows() { return {.rows = 2, .tokens = 3, .ids = {1, 2, 3, 4, 5, 6}, .labels = {1, 2, 3, 4, 5, 6}}; }

void expect_message(std::function<void()> const& f, std::string const& part) {
  try {
    f();
    BOOST_ERROR("no error, expected one that says: " << part);
  } catch (mf::Error const& error) {
    BOOST_TEST(std::string(error.what()).find(part) != std::string::npos, error.what() << " lacks: " << part);
  }
}

}  // namespace

BOOST_AUTO_TEST_CASE(rows_are_sequences_and_targets_are_the_next_label) {
  mf::PackedTokens packed;
  packed.pack(two_rows(), 10, true);
  BOOST_TEST(packed.ids == (std::vector<mf::TokenId>{1, 2, 3, 4, 5, 6}), boost::test_tools::per_element());
  BOOST_TEST(packed.targets == (std::vector<mf::TokenId>{2, 3, -100, 5, 6, -100}), boost::test_tools::per_element());
  BOOST_TEST(packed.sequences.size() == 2u);
  BOOST_TEST(packed.sequences[1].query_begin == 3);
  BOOST_TEST(packed.sequences[1].key_count == 3);
  BOOST_TEST(packed.counted == 4);
}

BOOST_AUTO_TEST_CASE(masked_tokens_are_absent) {
  auto batch = two_rows();
  batch.mask = {0, 1, 1, 1, 0, 1};
  mf::PackedTokens packed;
  packed.pack(batch, 10, true);
  BOOST_TEST(packed.ids == (std::vector<mf::TokenId>{2, 3, 4, 6}), boost::test_tools::per_element());
  BOOST_TEST(packed.positions == (std::vector<std::int32_t>{1, 2, 3, 5}), boost::test_tools::per_element());
  // What a real token is scored against is the label at the next position, masked or not.
  BOOST_TEST(packed.targets == (std::vector<mf::TokenId>{3, -100, 5, -100}), boost::test_tools::per_element());
}

BOOST_AUTO_TEST_CASE(packed_sequences_do_not_see_each_other) {
  auto batch = mf::Batch::packed({{1, 2, 3}, {4}, {5, 6}});
  batch.labels = batch.ids;
  batch.check(10);
  mf::PackedTokens packed;
  packed.pack(batch, 10, true);
  BOOST_TEST(packed.targets == (std::vector<mf::TokenId>{2, 3, -100, -100, 6, -100}), boost::test_tools::per_element());
  BOOST_TEST(packed.sequences.size() == 3u);
  BOOST_TEST(packed.sequences[1].query_count == 1);
}

BOOST_AUTO_TEST_CASE(mistakes_are_named) {
  auto check = [](auto change, std::string const& part) {
    auto batch = two_rows();
    change(batch);
    expect_message(
        [&] {
          batch.check(10);
          mf::PackedTokens{}.pack(batch, 10, true);
        },
        part);
  };
  check([](mf::Batch& b) { b.ids[4] = 10; }, "row 1, token 1: expected an id from 0 to 9, found 10");
  check([](mf::Batch& b) { b.ids[0] = -1; }, "found -1");
  check([](mf::Batch& b) { b.ids.pop_back(); }, "expected rows x tokens = 6 ids, found 5");
  check([](mf::Batch& b) { b.labels[2] = 11; }, "expected an id from 0 to 9 or -100, found 11");
  check([](mf::Batch& b) { b.labels.push_back(1); }, "found 7");
  check([](mf::Batch& b) { b.mask = {1}; }, "batch.mask: expected 6");
  check([](mf::Batch& b) { b.mask = {0, 0, 0, 0, 0, 0}; }, "every token is masked");
  check([](mf::Batch& b) { b.targets = b.ids; }, "labels and targets are both given");
  check([](mf::Batch& b) { b.rows = 0; }, "at least one token");
  check([](mf::Batch& b) { b.sequence_begins = {0, 4, 4}; }, "ascending positions");
  check([](mf::Batch& b) { b.sequence_begins = {1}; }, "ascending positions");
}
