// SPDX-License-Identifier: MIT
#include <moduleformer/training/data.hpp>

#include <boost/test/unit_test.hpp>

#include <algorithm>
#include <cmath>
#include <map>
#include <numeric>
#include <ranges>
#include <set>
#include <string>
#include <vector>

namespace mf = moduleformer;
using mf::Index;

namespace {

static_assert(std::ranges::input_range<mf::ByteBatches>);
static_assert(std::ranges::input_range<mf::HeldOutBatches<mf::TokenId>>);

/// Ids 0, 1, 2, ..., so that an id tells its place.
std::vector<mf::TokenId> counting(Index size, mf::TokenId first = 0) {
  std::vector<mf::TokenId> ids(static_cast<std::size_t>(size));
  std::iota(ids.begin(), ids.end(), first);
  return ids;
}

bool same(mf::Batch const& a, mf::Batch const& b) {
  return a.rows == b.rows && a.tokens == b.tokens && a.ids == b.ids && a.targets == b.targets && a.mask == b.mask;
}

/// Every real position predicts the id after its own; masked ones predict nothing. Returns the predictions.
std::vector<mf::TokenId> check_counting(mf::Batch const& batch) {
  batch.check(1 << 20);
  std::vector<mf::TokenId> predicted;
  for (Index i = 0; i < batch.rows * batch.tokens; ++i) {
    mf::TokenId const target = batch.targets[static_cast<std::size_t>(i)];
    if (batch.is_real(i)) {
      BOOST_TEST(target == batch.id(i) + 1);
      predicted.push_back(target);
    } else {
      BOOST_TEST(target == mf::ignore_label);
    }
  }
  return predicted;
}

}  // namespace

BOOST_AUTO_TEST_CASE(held_out_units_are_predicted_exactly_once) {
  for (Index size : {2, 5, 40, 41, 97})
    for (Index tokens : {1, 3, 8, 100})
      for (Index rows : {1, 2, 7}) {
        mf::TokenBatches const batches(std::vector{counting(size), counting(size + 3, 1000)},
                                       {.rows = rows, .tokens = tokens, .held_out = 0.5});
        std::multiset<mf::TokenId> predicted;
        auto const held_out = batches.held_out();
        Index count = 0;
        for (auto const& batch : held_out) {
          for (auto const id : check_counting(batch)) predicted.insert(id);
          ++count;
        }
        BOOST_TEST(count == held_out.size());
        std::multiset<mf::TokenId> expected;
        for (Index d : {0, 1}) {
          auto const units = batches.documents().held_out_units(d);
          BOOST_TEST(static_cast<Index>(units.size()) == std::llround(0.5 * static_cast<double>(size + 3 * d)));
          expected.insert(units.begin() + 1, units.end());
        }
        BOOST_TEST((predicted == expected));
        BOOST_TEST(held_out.without_context() == 2);
      }
}

BOOST_AUTO_TEST_CASE(an_end_mark_gives_every_held_out_byte_a_context) {
  auto const batches = mf::ByteBatches::of_texts({"abcdefghij", "xy"}, {.rows = 2, .tokens = 3, .held_out = 0.5, .eos = true});
  std::string predicted;
  for (auto const& batch : batches.held_out()) {
    batch.check(batches.vocab_size());
    for (Index i = 0; i < batch.rows * batch.tokens; ++i)
      if (batch.is_real(i)) predicted += static_cast<char>(batch.targets[static_cast<std::size_t>(i)]);
  }
  BOOST_TEST(predicted == "fghijy");
  BOOST_TEST(batches.held_out().without_context() == 0);
  mf::Batch first;
  batches.held_out().read(0, first);
  BOOST_TEST(first.id(0) == mf::ByteBatches::eos_id);
}

BOOST_AUTO_TEST_CASE(training_windows_stay_before_the_cut_and_reach_all_of_it) {
  mf::TokenBatches const batches(std::vector{counting(60), counting(30, 1000)},
                                 {.rows = 3, .tokens = 7, .steps = 400, .seed = 5, .held_out = 0.3});
  std::map<mf::TokenId, int> seen;
  for (auto const& batch : batches) {
    BOOST_TEST(batch.mask.empty());
    for (auto const id : check_counting(batch)) ++seen[id];
    for (auto const id : batch.ids) ++seen[id];
  }
  std::set<mf::TokenId> found, expected;
  for (auto const& [id, times] : seen) found.insert(id);
  for (Index d : {0, 1})
    for (auto const id : batches.documents().train_units(d)) expected.insert(id);
  BOOST_TEST((found == expected));
  BOOST_TEST(expected.size() == 42 + 21);
  // Documents are drawn in proportion to what they can predict: 41 to 20.
  int in_first = 0, in_all = 0;
  for (auto const& [id, times] : seen) {
    in_all += times;
    in_first += id < 1000 ? times : 0;
  }
  BOOST_CHECK_CLOSE(static_cast<double>(in_first) / in_all, 41.0 / 61, 8);
}

BOOST_AUTO_TEST_CASE(a_batch_is_a_function_of_seed_and_step) {
  mf::BatchOptions options{.rows = 4, .tokens = 9, .steps = 6, .seed = 11};
  auto const text = counting(500);
  mf::TokenBatches const batches(text, options);
  std::vector<mf::Batch> all;
  for (auto const& batch : batches) all.push_back(batch);
  BOOST_TEST(all.size() == 6);

  mf::Batch again;
  for (Index step : {5, 0, 3, 3}) {
    batches.read(step, again);
    BOOST_TEST(same(again, all[static_cast<std::size_t>(step)]));
  }
  options.begin_step = 4;
  std::vector<mf::Batch> rest;
  for (auto const& batch : mf::TokenBatches(text, options)) rest.push_back(batch);
  BOOST_TEST(rest.size() == 2);
  BOOST_TEST((same(rest[0], all[4]) && same(rest[1], all[5])));

  BOOST_TEST(!same(all[0], all[1]));
  options.seed = 12;
  mf::TokenBatches(text, options).read(0, again);
  BOOST_TEST(!same(again, all[0]));
}

BOOST_AUTO_TEST_CASE(short_documents_are_masked) {
  mf::TokenBatches const batches(std::vector{counting(4), counting(1, 100), counting(6, 1000)},
                                 {.rows = 5, .tokens = 5, .steps = 30, .seed = 1});
  std::set<std::size_t> lengths;
  for (auto const& batch : batches) {
    std::vector<Index> real(5, 0);
    for (Index i = 0; i < 25; ++i) real[static_cast<std::size_t>(i / 5)] += batch.is_real(i);
    for (Index row = 0; row < 5; ++row) {
      lengths.insert(static_cast<std::size_t>(real[static_cast<std::size_t>(row)]));
      BOOST_TEST(batch.is_real(row * 5));  // a document of one token cannot be drawn
    }
    check_counting(batch);
  }
  BOOST_TEST((lengths == std::set<std::size_t>{3, 5}));
}

BOOST_AUTO_TEST_CASE(end_marks_close_the_training_part) {
  auto const batches = mf::ByteBatches::of_texts({"abcd"}, {.rows = 1, .tokens = 8, .eos = true});
  mf::Batch batch;
  batches.read(0, batch);
  BOOST_TEST((batch.ids == std::vector<mf::TokenId>{256, 'a', 'b', 'c', 'd', 0, 0, 0}));
  BOOST_TEST((batch.targets == std::vector<mf::TokenId>{'a', 'b', 'c', 'd', 256, -100, -100, -100}));
  BOOST_TEST((batch.mask == std::vector<std::uint8_t>{1, 1, 1, 1, 1, 0, 0, 0}));
  BOOST_TEST(batches.vocab_size() == 257);
}

BOOST_AUTO_TEST_CASE(all_or_nothing_held_out) {
  auto const evaluated = mf::ByteBatches::of_texts({"abc"}, {.rows = 1, .tokens = 8, .held_out = 1});
  BOOST_TEST(evaluated.documents().held_out_units(0).size() == 3);
  mf::Batch batch;
  BOOST_CHECK_THROW(evaluated.read(0, batch), mf::Error);
  auto const trained = mf::ByteBatches::of_texts({"abc"}, {.rows = 1, .tokens = 8});
  trained.read(0, batch);
  BOOST_TEST(batch.ids[1] == 'b');
  BOOST_CHECK_THROW((void)trained.held_out(), mf::Error);
}

BOOST_AUTO_TEST_CASE(a_resumed_run_must_read_the_same_data) {
  mf::BatchOptions options{.rows = 2, .tokens = 3, .steps = 5, .seed = 4, .held_out = 0.25};
  auto const saved = mf::ByteBatches::of_texts({"some text"}, options);
  std::map<std::string, double> state;
  mf::ByteBatches::visit(saved, [&](std::string_view key, auto const& x) { state[std::string(key)] = static_cast<double>(x); });
  BOOST_TEST(state.size() == 6);

  auto complaint = [&](mf::ByteBatches batches) -> std::string {
    try {
      mf::ByteBatches::visit(batches, [&]<class T>(std::string_view key, T& x) {
        // A fingerprint does not fit into a double; a rounded one is enough to tell two apart here.
        double const stored = state.at(std::string(key));
        if (static_cast<double>(x) != stored) x = static_cast<T>(stored);
      });
    } catch (mf::Error const& error) {
      return error.what();
    }
    return "none";
  };
  BOOST_TEST(complaint(saved) == "none");
  options.steps = 50;
  options.begin_step = 5;
  BOOST_TEST(complaint(mf::ByteBatches::of_texts({"some text"}, options)) == "none");
  BOOST_TEST(complaint(mf::ByteBatches::of_texts({"some test"}, options)).find("other documents") != std::string::npos);
  BOOST_TEST(complaint(mf::ByteBatches::of_texts({"some", " text"}, options)).find("other documents") != std::string::npos);
  options.seed = 5;
  BOOST_TEST(complaint(mf::ByteBatches::of_texts({"some text"}, options)) ==
             "stored training state: seed: expected 5 as in this run, found 4");
}

BOOST_AUTO_TEST_CASE(wrong_options_are_named) {
  auto complaint = [](mf::BatchOptions options) -> std::string {
    try {
      (void)mf::TokenBatches(counting(9), options);
    } catch (mf::Error const& error) {
      return error.what();
    }
    return "none";
  };
  BOOST_TEST(complaint({.rows = 0}).find("at least one row") != std::string::npos);
  BOOST_TEST(complaint({.tokens = 0}).find("at least one row and one token") != std::string::npos);
  BOOST_TEST(complaint({.rows = 1 << 20, .tokens = 1 << 20}).find("too many") != std::string::npos);
  BOOST_TEST(complaint({.held_out = 1.5}).find("held_out: expected a fraction") != std::string::npos);
  BOOST_TEST(complaint({.held_out = std::nan("")}).find("held_out: expected a fraction") != std::string::npos);
  BOOST_TEST(complaint({.eos = true}).find("eos is for text") != std::string::npos);
  BOOST_TEST(complaint({.begin_step = -1}).find("begin_step") != std::string::npos);
  BOOST_CHECK_THROW(mf::TokenBatches(std::vector<mf::TokenId>{1, -2}), mf::Error);
  BOOST_CHECK_THROW(mf::TokenBatches(std::vector<mf::TokenId>{}), mf::Error);
}
