// SPDX-License-Identifier: MIT
#pragma once
// Documents: text (or token ids) as separate documents, each cut once: its beginning is for training, its tail
// is held out. Units are bytes (id = byte) or ids. With an end mark, a part reads: mark, units, mark; the first
// one is context only, so that a text's first unit can be predicted too.

#include <moduleformer/core/error.hpp>
#include <moduleformer/core/fingerprint.hpp>
#include <moduleformer/core/types.hpp>

#include <cmath>
#include <cstddef>
#include <cstdint>
#include <span>
#include <string_view>
#include <vector>

namespace moduleformer {

/// One part of a document as tokens.
template <class Unit>
struct DocumentPart {
  std::span<Unit const> units;
  TokenId mark = -1;    // end mark; -1: none
  bool closed = false;  // the mark also follows the units

  [[nodiscard]] Index size() const {
    Index const marks = mark < 0 || units.empty() ? 0 : (closed ? 2 : 1);
    return static_cast<Index>(units.size()) + marks;
  }
  [[nodiscard]] TokenId operator[](Index i) const {
    if (mark >= 0) --i;
    bool const inside = i >= 0 && i < static_cast<Index>(units.size());
    return inside ? static_cast<TokenId>(units[static_cast<std::size_t>(i)]) : mark;
  }
};

template <class Unit>
class Documents {
 public:
  /// held_out: the fraction of each document's units that is its held-out tail; mark: the end mark's id, -1 for none.
  explicit Documents(double held_out, TokenId mark = -1) : held_out_(held_out), mark_(mark) {
    expects(held_out >= 0 && held_out <= 1, "held_out: expected a fraction from 0 to 1, found ", held_out);
  }

  /// Throws Error for a document without units.
  void add(std::string_view name, std::span<Unit const> units) {
    expects(!units.empty(), name, ": expected at least one token, found an empty document");
    auto const size = static_cast<Index>(units.size()), begin = static_cast<Index>(units_.size());
    auto const tail = static_cast<Index>(std::llround(static_cast<double>(size) * held_out_));
    units_.insert(units_.end(), units.begin(), units.end());
    places_.push_back({begin, begin + size - tail, begin + size});
  }

  [[nodiscard]] Index count() const { return static_cast<Index>(places_.size()); }
  [[nodiscard]] TokenId mark() const { return mark_; }

  /// Units of document i before and after its cut.
  [[nodiscard]] std::span<Unit const> train_units(Index i) const { return units(at(i).begin, at(i).cut); }
  [[nodiscard]] std::span<Unit const> held_out_units(Index i) const { return units(at(i).cut, at(i).end); }

  /// The parts as tokens. Both marks for training; a held-out part has the first one only: the mark after it is
  /// no byte of the text and is not scored.
  [[nodiscard]] DocumentPart<Unit> train(Index i) const { return {train_units(i), mark_, true}; }
  [[nodiscard]] DocumentPart<Unit> held_out(Index i) const { return {held_out_units(i), mark_, false}; }

  /// A hash of all documents, to notice that a resumed run reads other data.
  [[nodiscard]] std::uint64_t fingerprint() const {
    Fingerprint hash;
    for (Place const& place : places_) hash.add(static_cast<std::uint64_t>(place.end - place.begin));
    for (Unit const unit : units_) hash.add(static_cast<std::uint64_t>(unit));
    return hash.value();
  }

 private:
  struct Place {
    Index begin, cut, end;
  };
  Place const& at(Index i) const { return places_[static_cast<std::size_t>(i)]; }
  [[nodiscard]] std::span<Unit const> units(Index begin, Index end) const {
    return std::span<Unit const>(units_).subspan(static_cast<std::size_t>(begin), static_cast<std::size_t>(end - begin));
  }

  double held_out_;
  TokenId mark_;
  std::vector<Unit> units_;
  std::vector<Place> places_;
};

}  // namespace moduleformer
