// SPDX-License-Identifier: MIT
#include "baselines.hpp"

#include <algorithm>
#include <array>
#include <cmath>
#include <cstdint>
#include <limits>
#include <span>
#include <unordered_map>
#include <vector>

namespace cli {
namespace {

using moduleformer::Index;

using Key = std::uint64_t;  // up to three ids of 20 bits
constexpr int id_bits = 20;

template <class Unit>
Key key_of(std::span<Unit const> units) {
  Key key = 0;
  for (Unit const unit : units) key = (key << id_bits) | static_cast<Key>(unit);
  return key;
}

/// One order's counts: of n-grams, and per context its occurrences and its distinct successors.
class Order {
 public:
  void add(Key ngram, double count) {
    auto const [place, is_new] = counts_.try_emplace(ngram, 0.0);
    place->second += count;
    Context& context = contexts_[ngram >> id_bits];
    context.total += count;
    context.successors += is_new ? 1 : 0;
  }

  /// What a probability of one n-gram is made of.
  struct Evidence {
    double count = 0, total = 0, successors = 0;
  };
  [[nodiscard]] Evidence evidence(Key ngram) const {
    auto const context = contexts_.find(ngram >> id_bits);
    if (context == contexts_.end()) return {};
    auto const place = counts_.find(ngram);
    return {place == counts_.end() ? 0 : place->second, context->second.total, context->second.successors};
  }
  [[nodiscard]] std::unordered_map<Key, double> const& counts() const { return counts_; }

 private:
  struct Context {
    double total = 0, successors = 0;
  };
  std::unordered_map<Key, double> counts_;
  std::unordered_map<Key, Context> contexts_;
};

using Discounts = std::array<double, 3>;  // of orders 1, 2, 3

class Counts {
 public:
  /// Evidence of orders 1, 2, 3 for one unit; orders that lack context have none.
  using Evidence = std::array<Order::Evidence, 3>;

  template <class Unit>
  void add(std::span<Unit const> text) {
    for (std::size_t i = 0; i < text.size(); ++i)
      for (std::size_t n = 1; n <= std::min<std::size_t>(3, i + 1); ++n) orders_[n - 1].add(key_of(text.subspan(i + 1 - n, n)), 1);
  }
  /// Lower orders that count distinct predecessors instead of occurrences.
  [[nodiscard]] Counts with_predecessors() const {
    Counts result;
    result.orders_[2] = orders_[2];
    for (std::size_t n : {1u, 0u})
      for (auto const& [ngram, count] : orders_[n + 1].counts()) result.orders_[n].add(ngram & ((Key{1} << (id_bits * (n + 1))) - 1), 1);
    return result;
  }

  template <class Unit>
  [[nodiscard]] Evidence evidence(std::span<Unit const> text, std::size_t i) const {
    Evidence result;
    for (std::size_t n = 1; n <= std::min<std::size_t>(3, i + 1); ++n)
      result[n - 1] = orders_[n - 1].evidence(key_of(text.subspan(i + 1 - n, n)));
    return result;
  }

 private:
  std::array<Order, 3> orders_;
};

double probability(Counts::Evidence const& evidence, Discounts const& discounts, int orders, double vocab_size) {
  double p = 1 / vocab_size;
  for (std::size_t n = 0; n < static_cast<std::size_t>(orders); ++n) {
    auto const& e = evidence[n];
    if (e.total == 0) continue;
    p = (std::max(e.count - discounts[n], 0.0) + discounts[n] * e.successors * p) / e.total;
  }
  return p;
}

/// Summed bits.
double bits(std::vector<Counts::Evidence> const& all, Discounts const& discounts, int orders, double vocab_size) {
  double sum = 0;
  for (auto const& evidence : all) sum -= std::log2(probability(evidence, discounts, orders, vocab_size));
  return sum;
}

struct Tuned {
  Discounts discounts{0.5, 0.5, 0.5};
  double bits = std::numeric_limits<double>::infinity();
};

/// One discount after the other, twice over, on a grid of twentieths.
Tuned tune(std::vector<Counts::Evidence> const& all, int orders, double vocab_size) {
  Tuned best;
  best.bits = bits(all, best.discounts, orders, vocab_size);
  for (int round = 0; round < 2; ++round)
    for (std::size_t n = 0; n < static_cast<std::size_t>(orders); ++n)
      for (int step = 1; step < 20; ++step) {
        Discounts trial = best.discounts;
        trial[n] = step / 20.0;
        if (double const b = bits(all, trial, orders, vocab_size); b < best.bits) best = {trial, b};
      }
  return best;
}

template <class Unit>
Baselines fit(moduleformer::Documents<Unit> const& documents, Index vocab_size) {
  moduleformer::expects(vocab_size > 0 && vocab_size <= Index{1} << id_bits, "baselines: expected a vocabulary of at most ",
                        Index{1} << id_bits, ", found ", vocab_size);
  auto const v = static_cast<double>(vocab_size);
  Counts begin, whole;
  for (Index i = 0; i < documents.count(); ++i) {
    auto const text = documents.train_units(i);
    begin.add(text.first(text.size() - text.size() / 10));
    whole.add(text);
  }
  // Evidence of every unit of the parts that `choose` names, under given counts.
  auto const evidence_of = [&](Counts const& counts, auto const& choose) {
    std::vector<Counts::Evidence> all;
    for (Index i = 0; i < documents.count(); ++i) {
      auto const [text, first] = choose(i);
      for (std::size_t at = first; at < text.size(); ++at) all.push_back(counts.evidence(text, at));
    }
    return all;
  };
  auto const last_tenth = [&](Index i) {
    auto const text = documents.train_units(i);
    return std::pair(text, text.size() - text.size() / 10);
  };
  auto const held_out = [&](Index i) { return std::pair(documents.held_out_units(i), std::size_t{0}); };

  auto const occurrences = evidence_of(begin, last_tenth), predecessors = evidence_of(begin.with_predecessors(), last_tenth);
  Tuned const unigram = tune(occurrences, 1, v), plain = tune(occurrences, 3, v), kneser_ney = tune(predecessors, 3, v);
  auto const plain_test = evidence_of(whole, held_out);
  auto const units = static_cast<double>(plain_test.size());
  moduleformer::expects(units > 0, "baselines: expected held-out text, found none");
  bool const by_occurrences = plain.bits <= kneser_ney.bits;
  return {bits(plain_test, unigram.discounts, 1, v) / units,
          by_occurrences ? bits(plain_test, plain.discounts, 3, v) / units
                         : bits(evidence_of(whole.with_predecessors(), held_out), kneser_ney.discounts, 3, v) / units};
}

}  // namespace

Baselines fit_baselines(Data const& data, Index vocab_size) {
  return std::visit([&](auto const& batches) { return fit(batches.documents(), vocab_size); }, data);
}

}  // namespace cli
