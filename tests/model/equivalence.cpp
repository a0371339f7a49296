// SPDX-License-Identifier: MIT
// The same tokens give the same logits however they are presented: incrementally or at once, padded or
// not, packed or apart, in a batch or alone; for every attention variant, in float and double.
#include "generation_support.hpp"

#include <boost/test/unit_test.hpp>

#include <tuple>

namespace mf = moduleformer;
using namespace moduleformer::test;

namespace {

using Scalars = std::tuple<float, double>;

template <class S>
constexpr double tolerance = std::same_as<S, double> ? 1e-12 : 2e-5;

/// Lengths of the sequences: one token, and more than a block of keys.
std::vector<std::vector<mf::TokenId>> sequences() { return {some_ids(1, 1), some_ids(37, 2), some_ids(150, 3), some_ids(64, 4)}; }

/// A sequence's logits (T,V) on its own.
template <class S>
std::vector<S> alone(SmallModel<S> const& model, std::vector<mf::TokenId> const& ids) {
  mf::Session session{model, {.threads = 2}};
  return model.logits(session, one_row(ids)).values;
}

/// Compares `count` logits, relative to the largest expected.
template <class S>
void compare(std::string const& what, S const* found, S const* expected, std::size_t count) {
  double largest = 0, error = 0;
  for (std::size_t i = 0; i < count; ++i) {
    largest = std::max(largest, std::abs(static_cast<double>(expected[i])));
    error = std::max(error, std::abs(static_cast<double>(found[i]) - static_cast<double>(expected[i])));
  }
  BOOST_TEST_CONTEXT(what) {
    BOOST_TEST(largest > 1e-3);  // zeros would compare equal too
    BOOST_TEST(error <= tolerance<S> * largest);
  }
}

std::string name(Variant const& variant) { return variant.attention + (variant.shared_keys ? ", shared keys" : ""); }

}  // namespace

BOOST_AUTO_TEST_CASE_TEMPLATE(a_batch_equals_its_single_rows, S, Scalars) {
  for (Variant const& variant : variants) {
    auto const model = small_model<S>(variant);
    mf::Batch batch{.rows = 3, .tokens = 41};
    for (std::uint64_t row = 0; row < 3; ++row) {
      auto const ids = some_ids(41, 10 + row);
      batch.ids.insert(batch.ids.end(), ids.begin(), ids.end());
    }
    mf::Session session{model, {.threads = 2}};
    auto const together = model.logits(session, batch);
    for (std::size_t row = 0; row < 3; ++row) {
      auto const expected = alone(model, some_ids(41, 10 + row));
      compare(name(variant), together.values.data() + row * expected.size(), expected.data(), expected.size());
    }
  }
}

BOOST_AUTO_TEST_CASE_TEMPLATE(packed_sequences_equal_separate_ones, S, Scalars) {
  for (Variant const& variant : variants) {
    auto const model = small_model<S>(variant);
    mf::Session session{model, {.threads = 2}};
    auto const packed = model.logits(session, mf::Batch::packed(sequences()));
    std::size_t begin = 0;
    for (auto const& ids : sequences()) {
      auto const expected = alone(model, ids);
      compare(name(variant), packed.values.data() + begin, expected.data(), expected.size());
      begin += expected.size();
    }
    BOOST_TEST(begin == packed.values.size());
  }
}

BOOST_AUTO_TEST_CASE_TEMPLATE(a_padded_batch_equals_unpadded_rows, S, Scalars) {
  for (Variant const& variant : variants) {
    auto const model = small_model<S>(variant);
    mf::Index const longest = 160;
    // Padding in front, behind, and between tokens; padded places hold a real id.
    auto const places = [&](mf::Index n, std::size_t row) {
      std::vector<mf::Index> result;
      for (mf::Index i = 0; i < n; ++i)
        result.push_back(row % 3 == 0 ? longest - n + i : row % 3 == 1 ? i : i + (i >= n / 2 ? 5 : 0));
      return result;
    };
    mf::Batch batch{.rows = 4, .tokens = longest};
    batch.ids.assign(4 * static_cast<std::size_t>(longest), 7);
    batch.mask.assign(batch.ids.size(), 0);
    for (std::size_t row = 0; row < 4; ++row) {
      auto const ids = sequences()[row];
      auto const at = places(static_cast<mf::Index>(ids.size()), row);
      for (std::size_t i = 0; i < ids.size(); ++i) {
        std::size_t const place = row * static_cast<std::size_t>(longest) + static_cast<std::size_t>(at[i]);
        batch.ids[place] = ids[i];
        batch.mask[place] = 1;
      }
    }
    mf::Session session{model, {.threads = 2}};
    auto const padded = model.logits(session, batch);
    for (std::size_t row = 0; row < 4; ++row) {
      auto const ids = sequences()[row];
      auto const expected = alone(model, ids);
      auto const at = places(static_cast<mf::Index>(ids.size()), row);
      std::vector<S> found;
      for (mf::Index const place : at) {
        auto const* const logits = padded.values.data() + (static_cast<mf::Index>(row) * longest + place) * padded.outputs;
        found.insert(found.end(), logits, logits + padded.outputs);
      }
      compare(name(variant), found.data(), expected.data(), expected.size());
    }
  }
}

BOOST_AUTO_TEST_CASE_TEMPLATE(padding_does_not_change_the_losses, S, Scalars) {
  auto const model = small_model<S>(variants[0]);
  mf::Batch batch = one_row(some_ids(30, 5));
  batch.labels = batch.ids;
  mf::Session session{model, {.threads = 2}};
  mf::LossReport const plain = model.loss(session, batch);
  for (bool const in_front : {true, false}) {
    mf::Batch padded = batch;
    auto const at = [&](auto& values) { return in_front ? values.begin() : values.end(); };
    padded.ids.insert(at(padded.ids), 9, 4);
    padded.labels.insert(at(padded.labels), 9, mf::ignore_label);
    padded.mask.assign(30, 1);
    padded.mask.insert(at(padded.mask), 9, 0);
    padded.tokens += 9;
    mf::LossReport const report = model.loss(session, padded);
    BOOST_TEST(report.counted == 29);
    BOOST_TEST(report.task == plain.task, boost::test_tools::tolerance(tolerance<S>));
    BOOST_TEST(report.auxiliary == plain.auxiliary, boost::test_tools::tolerance(tolerance<S>));
  }
}

BOOST_AUTO_TEST_CASE_TEMPLATE(the_cache_in_pieces_of_any_size_equals_the_full_forward, S, Scalars) {
  for (Variant const& variant : variants) {
    auto const model = small_model<S>(variant);
    auto const all = sequences();
    std::vector<std::vector<S>> expected;
    for (auto const& ids : all) expected.push_back(alone(model, ids));
    for (mf::Index const piece : {1, 5, 64, 200}) {
      mf::Session session{model, {.threads = 2}};
      mf::KvCache<mf::Cpu<S>> cache(model, static_cast<mf::Index>(all.size()), 150);
      while (true) {
        std::vector<mf::CacheExtension> extensions;
        for (std::size_t i = 0; i < all.size(); ++i) {
          std::span const ids(all[i]);
          auto const length = static_cast<std::size_t>(cache.length(static_cast<mf::Index>(i)));
          if (length < ids.size())
            extensions.push_back({static_cast<mf::Index>(i),
                                  ids.subspan(length, std::min(static_cast<std::size_t>(piece), ids.size() - length))});
        }
        if (extensions.empty()) break;
        auto const logits = model.extend(session, cache, extensions);
        auto const width = static_cast<std::size_t>(logits.extent(1));
        for (std::size_t row = 0; row < extensions.size(); ++row) {
          auto const last = static_cast<std::size_t>(cache.length(extensions[row].sequence)) - 1;
          compare(name(variant) + ", pieces of " + std::to_string(piece), logits.data() + row * width,
                  expected[static_cast<std::size_t>(extensions[row].sequence)].data() + last * width, width);
        }
      }
    }
  }
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
