// SPDX-License-Identifier: MIT
#pragma once
// The same tokens give the same logits however they are presented: incrementally or at once, padded or not, packed or
// apart, in a batch or alone; for every attention variant, on any backend whose scalar is float or double.

#include "model/generation_support.hpp"

#include <boost/test/unit_test.hpp>

#include <algorithm>
#include <cmath>
#include <concepts>
#include <cstddef>
#include <string>
#include <utility>
#include <vector>

namespace moduleformer::test {

template <class S>
inline constexpr double equivalence_tolerance = std::same_as<S, double> ? 1e-12 : 2e-5;

/// Checks of one backend on sequences of given lengths.
template <class B>
class Equivalence {
 public:
  using A = typename B::Accumulator;
  using Ids = std::vector<TokenId>;

  explicit Equivalence(std::vector<Index> const& lengths) {
    for (std::size_t i = 0; i < lengths.size(); ++i) sequences_.push_back(some_ids(lengths[i], i + 1));
  }

  /// Three rows of one length.
  void check_rows(Index tokens) const {
    for (Variant const& variant : variants) {
      auto const model = model_on<B>(variant);
      Batch batch{.rows = 3, .tokens = tokens};
      for (std::uint64_t row = 0; row < 3; ++row) {
        auto const ids = some_ids(tokens, 10 + row);
        batch.ids.insert(batch.ids.end(), ids.begin(), ids.end());
      }
      Session<B> session{SessionOptions{.threads = 2}};
      auto const together = model.logits(session, batch);
      for (std::size_t row = 0; row < 3; ++row) {
        auto const expected = alone(model, some_ids(tokens, 10 + row));
        compare(name(variant), together.values.data() + row * expected.size(), expected.data(), expected.size());
      }
    }
  }

  void check_packed() const {
    for (Variant const& variant : variants) {
      auto const model = model_on<B>(variant);
      Session<B> session{SessionOptions{.threads = 2}};
      auto const packed = model.logits(session, Batch::packed(sequences_));
      std::size_t begin = 0;
      for (auto const& ids : sequences_) {
        auto const expected = alone(model, ids);
        compare(name(variant), packed.values.data() + begin, expected.data(), expected.size());
        begin += expected.size();
      }
      BOOST_TEST(begin == packed.values.size());
    }
  }

  /// Padding in front, behind, and between tokens; padded places hold a real id.
  void check_padded() const {
    Index longest = 0;
    for (auto const& ids : sequences_) longest = std::max(longest, static_cast<Index>(ids.size()) + 10);
    auto const places = [&](Index n, std::size_t row) {
      std::vector<Index> result;
      for (Index i = 0; i < n; ++i)
        result.push_back(row % 3 == 0 ? longest - n + i : row % 3 == 1 ? i : i + (i >= n / 2 ? 5 : 0));
      return result;
    };
    Batch batch{.rows = static_cast<Index>(sequences_.size()), .tokens = longest};
    batch.ids.assign(static_cast<std::size_t>(batch.rows * longest), 7);
    batch.mask.assign(batch.ids.size(), 0);
    for (std::size_t row = 0; row < sequences_.size(); ++row) {
      auto const& ids = sequences_[row];
      auto const at = places(static_cast<Index>(ids.size()), row);
      for (std::size_t i = 0; i < ids.size(); ++i) {
        std::size_t const place = row * static_cast<std::size_t>(longest) + static_cast<std::size_t>(at[i]);
        batch.ids[place] = ids[i];
        batch.mask[place] = 1;
      }
    }
    for (Variant const& variant : variants) {
      auto const model = model_on<B>(variant);
      Session<B> session{SessionOptions{.threads = 2}};
      auto const padded = model.logits(session, batch);
      for (std::size_t row = 0; row < sequences_.size(); ++row) {
        auto const expected = alone(model, sequences_[row]);
        std::vector<A> found;
        for (Index const place : places(static_cast<Index>(sequences_[row].size()), row)) {
          auto const* const logits = padded.values.data() + (static_cast<Index>(row) * longest + place) * padded.outputs;
          found.insert(found.end(), logits, logits + padded.outputs);
        }
        compare(name(variant), found.data(), expected.data(), expected.size());
      }
    }
  }

  void check_losses() const {
    auto const model = model_on<B>(variants[0]);
    Batch batch = one_row(some_ids(30, 5));
    batch.labels = batch.ids;
    Session<B> session{SessionOptions{.threads = 2}};
    LossReport const plain = model.loss(session, batch);
    for (bool const in_front : {true, false}) {
      Batch padded = batch;
      auto const at = [&](auto& values) { return in_front ? values.begin() : values.end(); };
      padded.ids.insert(at(padded.ids), 9, 4);
      padded.labels.insert(at(padded.labels), 9, ignore_label);
      padded.mask.assign(30, 1);
      padded.mask.insert(at(padded.mask), 9, 0);
      padded.tokens += 9;
      LossReport const report = model.loss(session, padded);
      BOOST_TEST(report.counted == 29);
      BOOST_TEST(report.task == plain.task, boost::test_tools::tolerance(equivalence_tolerance<A>));
      BOOST_TEST(report.auxiliary == plain.auxiliary, boost::test_tools::tolerance(equivalence_tolerance<A>));
    }
  }

  /// All sequences through the cache, in pieces of each size.
  void check_cache(std::vector<Index> const& pieces) const {
    std::size_t longest = 0;
    for (auto const& ids : sequences_) longest = std::max(longest, ids.size());
    for (Variant const& variant : variants) {
      auto const model = model_on<B>(variant);
      std::vector<std::vector<A>> expected;
      for (auto const& ids : sequences_) expected.push_back(alone(model, ids));
      for (Index const piece : pieces) {
        Session<B> session{SessionOptions{.threads = 2}};
        KvCache<B> cache(model, static_cast<Index>(sequences_.size()), static_cast<Index>(longest));
        for (auto extensions = next_pieces(cache, piece); !extensions.empty(); extensions = next_pieces(cache, piece)) {
          auto const logits = model.extend(session, cache, extensions);
          auto const width = static_cast<std::size_t>(logits.extent(1));
          std::vector<A> host(static_cast<std::size_t>(logits.size()));
          to_host(session.backend(), logits.reshape(logits.size()), host.data());
          for (std::size_t row = 0; row < extensions.size(); ++row) {
            auto const last = static_cast<std::size_t>(cache.length(extensions[row].sequence)) - 1;
            compare(name(variant) + ", pieces of " + std::to_string(piece), host.data() + row * width,
                    expected[static_cast<std::size_t>(extensions[row].sequence)].data() + last * width, width);
          }
        }
      }
    }
  }

 private:
  /// A sequence's logits (T,V) on its own.
  static std::vector<A> alone(ModelOn<B> const& model, Ids const& ids) {
    Session<B> session{SessionOptions{.threads = 2}};
    return model.logits(session, one_row(ids)).values;
  }

  /// The next tokens of every sequence that is not all in the cache.
  [[nodiscard]] std::vector<CacheExtension> next_pieces(KvCache<B> const& cache, Index piece) const {
    std::vector<CacheExtension> extensions;
    for (std::size_t i = 0; i < sequences_.size(); ++i) {
      std::span const ids(sequences_[i]);
      auto const length = static_cast<std::size_t>(cache.length(static_cast<Index>(i)));
      if (length < ids.size())
        extensions.push_back({static_cast<Index>(i),
                              ids.subspan(length, std::min(static_cast<std::size_t>(piece), ids.size() - length))});
    }
    return extensions;
  }

  /// Compares `count` logits, relative to the largest expected.
  static void compare(std::string const& what, A const* found, A const* expected, std::size_t count) {
    double largest = 0, error = 0;
    for (std::size_t i = 0; i < count; ++i) {
      largest = std::max(largest, std::abs(static_cast<double>(expected[i])));
      error = std::max(error, std::abs(static_cast<double>(found[i]) - static_cast<double>(expected[i])));
    }
    BOOST_TEST_CONTEXT(what) {
      BOOST_TEST(largest > 1e-3);  // zeros would compare equal too
      BOOST_TEST(error <= equivalence_tolerance<A> * largest);
    }
  }

  static std::string name(Variant const& variant) { return variant.attention + (variant.shared_keys ? ", shared keys" : ""); }

  std::vector<Ids> sequences_;
};

}  // namespace moduleformer::test
