// SPDX-License-Identifier: MIT
#pragma once
// Windows: T inputs and the T tokens that follow them, within one part of one document, as rows of a Batch.
// A part shorter than T + 1 gives a shorter window; the rest of its row is masked and predicts nothing.

#include <moduleformer/model/batch.hpp>
#include <moduleformer/training/documents.hpp>

#include <algorithm>
#include <cstddef>
#include <iterator>
#include <vector>

namespace moduleformer {

namespace detail {

/// Makes a batch of `rows` x `tokens`, all ids and targets to be written; keeps its memory.
inline void shape_batch(Batch& batch, Index rows, Index tokens) {
  batch.rows = rows;
  batch.tokens = tokens;
  batch.ids.resize(static_cast<std::size_t>(rows * tokens));
  batch.targets.resize(static_cast<std::size_t>(rows * tokens));
  batch.labels.clear();
  batch.mask.clear();
  batch.sequence_begins.clear();
}

/// Row `row` predicts the part's tokens begin+1 ... begin+tokens, as far as there are any.
template <class Unit>
void write_window(DocumentPart<Unit> part, Index begin, Index row, Batch& batch) {
  Index const n = std::min(batch.tokens, part.size() - 1 - begin);
  auto const first = static_cast<std::size_t>(row * batch.tokens);
  for (Index t = 0; t < n; ++t) {
    batch.ids[first + static_cast<std::size_t>(t)] = part[begin + t];
    batch.targets[first + static_cast<std::size_t>(t)] = part[begin + t + 1];
  }
  if (n == batch.tokens) return;
  if (batch.mask.empty()) batch.mask.assign(batch.ids.size(), 1);
  for (auto t = static_cast<std::size_t>(n); t < static_cast<std::size_t>(batch.tokens); ++t) {
    batch.ids[first + t] = 0;
    batch.targets[first + t] = ignore_label;
    batch.mask[first + t] = 0;
  }
}

/// Numbers 0, 1, ... total-1 dealt to documents, so many to each.
class Shares {
 public:
  void add(Index share) { ends_.push_back(total() + share); }
  [[nodiscard]] Index total() const { return ends_.empty() ? 0 : ends_.back(); }
  struct Place {
    Index document;
    Index number;  // within the document's share
  };
  [[nodiscard]] Place find(Index number) const {
    auto const end = std::upper_bound(ends_.begin(), ends_.end(), number);
    return {static_cast<Index>(end - ends_.begin()), end == ends_.begin() ? number : number - *(end - 1)};
  }

 private:
  std::vector<Index> ends_;
};

}  // namespace detail

/// Walks over source.read(step, batch) for step = first, first+1, ...; owns the batch that it shows, whose memory
/// is reused from step to step. An input iterator, at its end equal to std::default_sentinel.
template <class Source>
class BatchIterator {
 public:
  using iterator_concept = std::input_iterator_tag;
  using value_type = Batch;
  using difference_type = std::ptrdiff_t;

  BatchIterator(Source const& source, Index step, Index end) : source_(&source), step_(step), end_(end) { read(); }

  [[nodiscard]] Batch const& operator*() const { return batch_; }
  [[nodiscard]] Batch const* operator->() const { return &batch_; }
  BatchIterator& operator++() {
    ++step_;
    read();
    return *this;
  }
  void operator++(int) { ++*this; }
  friend bool operator==(BatchIterator const& it, std::default_sentinel_t) { return it.step_ >= it.end_; }

 private:
  void read() {
    if (step_ < end_) source_->read(step_, batch_);
  }

  Source const* source_;
  Index step_, end_;
  Batch batch_;
};

}  // namespace moduleformer
