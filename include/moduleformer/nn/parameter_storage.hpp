// SPDX-License-Identifier: MIT
#pragma once
// Where parameter values and gradients lie. Values: one owned, aligned arena, or read-only places of
// mapped files that the storage keeps alive; where a backend's two scalars differ, also copies rounded to S, which
// products read. Gradients: an arena of the trainable rows. The table gives every offset; no buffer's address is
// derived from another's.

#include <moduleformer/backend/backend.hpp>
#include <moduleformer/backend/buffer.hpp>
#include <moduleformer/nn/parameters.hpp>

#include <algorithm>
#include <cmath>
#include <concepts>
#include <memory>
#include <numbers>
#include <utility>
#include <vector>

namespace moduleformer {

template <Backend B>
class ParameterStorage {
 public:
  using S = typename B::Scalar;
  using A = typename B::Accumulator;
  /// Whether products read copies rounded to S.
  static constexpr bool has_copies = !std::same_as<S, A>;

  ParameterStorage() = default;
  /// Owned, uninitialised values for every segment.
  explicit ParameterStorage(ParameterTable const& table)
      : ParameterStorage(table, std::vector<A const*>(table.count(), nullptr), nullptr) {}
  /// `mapped[i]` is segment i's read-only place, or null for an owned one; `keep_alive` holds the memory.
  ParameterStorage(ParameterTable const& table, std::vector<A const*> mapped, std::shared_ptr<void const> keep_alive)
      : places_(std::move(mapped)), keep_alive_(std::move(keep_alive)) {
    expects(places_.size() == table.count(), "parameter storage: expected ", table.count(), " places, found ", places_.size());
    owned_.assign(table.count(), nullptr);
    Index size = 0;
    for (std::size_t i = 0; i < table.count(); ++i)
      if (places_[i] == nullptr) size += padded(table[i].size());
    arena_ = Buffer<A, typename B::Memory>(size);
    A* next = arena_.data();
    for (std::size_t i = 0; i < table.count(); ++i) {
      if (places_[i] != nullptr) continue;
      places_[i] = owned_[i] = next;
      next += padded(table[i].size());
    }
    if constexpr (has_copies) {
      Index all = 0;
      for (std::size_t i = 0; i < table.count(); ++i) all += padded(table[i].size());
      copy_arena_ = Buffer<S, typename B::Memory>(all);
      S* copy = copy_arena_.data();
      for (std::size_t i = 0; i < table.count(); copy += padded(table[i++].size())) copies_.push_back(copy);
    }
  }

  [[nodiscard]] A const* place(std::size_t segment) const { return places_[segment]; }
  /// For writing; throws Error if the segment lies in a mapped file.
  [[nodiscard]] A* writable(ParameterTable const& table, std::size_t segment) {
    expects(owned_[segment] != nullptr, table[segment].name,
            ": its values lie in a read-only file mapping; load with mapping off to train or change them");
    return owned_[segment];
  }
  [[nodiscard]] bool owns(std::size_t segment) const { return owned_[segment] != nullptr; }

  /// What products read: the copy, or the values themselves.
  [[nodiscard]] S const* readable(std::size_t segment) const {
    if constexpr (has_copies) return copies_[segment];
    else return places_[segment];
  }
  /// The copy for writing; null where there is none.
  [[nodiscard]] S* copy(std::size_t segment) {
    if constexpr (has_copies) return copies_[segment];
    else return nullptr;
  }

 private:
  static Index padded(Index size) {
    constexpr Index unit = static_cast<Index>(memory_alignment / std::min(sizeof(S), sizeof(A)));
    return (size + unit - 1) / unit * unit;
  }

  std::vector<A const*> places_;
  std::vector<A*> owned_;
  std::vector<S*> copies_;
  Buffer<A, typename B::Memory> arena_;
  Buffer<S, typename B::Memory> copy_arena_;
  std::shared_ptr<void const> keep_alive_;
};

/// Gradients of a model's trainable rows, and views of them as the layers see them (`Views`).
template <Backend B, class Views>
class GradientStorage {
 public:
  using S = typename B::Accumulator;

  /// `bind(views, visitor)` visits the model's parameters.
  template <class Bind>
  GradientStorage(ParameterTable const& table, Views views, Bind const& bind)
      : arena_(table.training_size()), views_(std::move(views)) {
    BindGradients<S> visitor(table, arena_.data());
    bind(views_, visitor);
  }

  [[nodiscard]] Views const& views() const { return views_; }
  [[nodiscard]] Vector<S> values() { return arena_.view(); }
  [[nodiscard]] Vector<S const> values() const { return arena_.view(); }
  /// The trainable rows of one segment.
  [[nodiscard]] Vector<S const> segment(Segment const& s) const {
    return {arena_.data() + s.gradient_offset, {s.trainable_size()}};
  }

 private:
  Buffer<S, typename B::Memory> arena_;
  Views views_;
};

/// Fills a segment in host memory as its Initial says; a pure function of seed and segment index.
template <class S>
void initialize(Segment const& segment, std::size_t index, std::uint64_t seed, double initializer_range, S* values) {
  RandomKey const key{seed, 0, static_cast<std::uint32_t>(index)};
  // Uniform in (0, 1) with 53 bits; Box-Muller makes two normal numbers of two of them.
  auto unit = [](std::uint32_t high, std::uint32_t low) {
    return (static_cast<double>((std::uint64_t{high} << 21) ^ (low >> 11)) + 0.5) * 0x1p-53;
  };
  auto normal = [&](double deviation) {
    for (Index i = 0; i < segment.size(); i += 2) {
      auto const words = random_words(key, static_cast<std::uint64_t>(i / 2));
      double const radius = deviation * std::sqrt(-2 * std::log(unit(words[0], words[1])));
      double const angle = 2 * std::numbers::pi * unit(words[2], words[3]);
      values[i] = static_cast<S>(radius * std::cos(angle));
      if (i + 1 < segment.size()) values[i + 1] = static_cast<S>(radius * std::sin(angle));
    }
  };
  switch (segment.initial) {
    case Initial::normal: normal(initializer_range); break;
    case Initial::standard_normal: normal(1); break;
    case Initial::expert_uniform: {
      double const bound = 1.0 / static_cast<double>(segment.shape[1]);
      for (Index i = 0; i < segment.size(); ++i) {
        auto const words = random_words(key, static_cast<std::uint64_t>(i));
        values[i] = static_cast<S>(bound * (2 * unit(words[0], words[1]) - 1));
      }
      break;
    }
    case Initial::zero:
    case Initial::state: std::fill(values, values + segment.size(), S(0)); break;
    case Initial::one: std::fill(values, values + segment.size(), S(1)); break;
  }
}

}  // namespace moduleformer
