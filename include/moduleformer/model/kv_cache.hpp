// SPDX-License-Identifier: MIT
#pragma once
// KvCache: keys and values of every layer for a fixed number of sequences, each with room for
// `capacity` tokens. Nothing depends on positions, so cached rows never change. A layer with shared
// keys caches one tensor.

#include <moduleformer/backend/buffer.hpp>
#include <moduleformer/backend/repeated.hpp>
#include <moduleformer/model/batch.hpp>
#include <moduleformer/routing/attention.hpp>

#include <span>
#include <vector>

namespace moduleformer {

/// New tokens of one cached sequence.
struct CacheExtension {
  Index sequence = 0;
  std::span<TokenId const> tokens;
};

template <Backend B>
class KvCache {
 public:
  using S = typename B::Scalar;

  /// For a model's sizes. Throws Error for sizes that do not fit into memory.
  template <class Model>
  KvCache(Model const& model, Index sequences, Index capacity) : capacity_(capacity) {
    expects(sequences > 0 && capacity > 0, "KvCache: expected at least one sequence and one token, found ", sequences, " and ",
            capacity);
    expects(capacity < (Index{1} << 31) / sequences, "KvCache: ", sequences, " sequences of ", capacity,
            " tokens are too many, expected below 2^31 in all");
    lengths_.assign(static_cast<std::size_t>(sequences), 0);
    Index const width = model.config().attention.hidden_size, rows = sequences * capacity;
    for (auto const& block : model.transformer().blocks()) {
      Matrix<S> const keys = buffer(rows, width);
      layers_.push_back({keys, block.attention().shared_keys() ? keys : buffer(rows, width)});
    }
  }

  [[nodiscard]] Index sequences() const { return static_cast<Index>(lengths_.size()); }
  [[nodiscard]] Index capacity() const { return capacity_; }
  [[nodiscard]] std::uint64_t serial_number() const { return serial_number_; }
  /// Tokens that sequence i holds.
  [[nodiscard]] Index length(Index i) const { return lengths_[static_cast<std::size_t>(i)]; }
  /// Forgets all tokens.
  void clear() { lengths_.assign(lengths_.size(), 0); }
  [[nodiscard]] std::vector<KeyValueCache<S>> const& layers() const { return layers_; }

  /// Packs the new tokens and names the last row of each. Throws Error before anything changes.
  void prepare(std::span<CacheExtension const> extensions, Index vocab_size, PackedTokens& packed,
               std::vector<std::int32_t>& last_rows) const {
    packed.ids.clear();
    packed.sequences.clear();
    last_rows.clear();
    expects(!extensions.empty(), "KvCache: expected at least one sequence to extend");
    Index previous = -1;
    for (CacheExtension const& extension : extensions) {
      auto const added = static_cast<Index>(extension.tokens.size());
      expects(extension.sequence > previous && extension.sequence < sequences(),
              "KvCache: expected ascending sequences below ", sequences(), ", found ", extension.sequence);
      previous = extension.sequence;
      expects(added > 0, "KvCache: sequence ", extension.sequence, ": expected at least one new token");
      Index const total = length(extension.sequence) + added;
      expects(total <= capacity_, "KvCache: sequence ", extension.sequence, ": its capacity is ", capacity_, " tokens, ", total,
              " are needed");
      packed.sequences.push_back({packed.tokens(), added, extension.sequence * capacity_, total});
      for (TokenId const id : extension.tokens) {
        expects(id >= 0 && id < vocab_size, "KvCache: expected ids from 0 to ", vocab_size - 1, ", found ", id);
        packed.ids.push_back(id);
      }
      last_rows.push_back(static_cast<std::int32_t>(packed.tokens() - 1));
    }
  }
  /// Counts the tokens of prepare() in, after their keys and values were written.
  void commit(std::span<CacheExtension const> extensions) {
    for (CacheExtension const& extension : extensions)
      lengths_[static_cast<std::size_t>(extension.sequence)] += static_cast<Index>(extension.tokens.size());
  }

 private:
  Matrix<S> buffer(Index rows, Index width) {
    buffers_.emplace_back(rows * width);
    return {buffers_.back().data(), {rows, width}};
  }

  Index capacity_;
  std::uint64_t serial_number_ = new_serial_number();
  std::vector<Index> lengths_;
  std::vector<Buffer<S, typename B::Memory>> buffers_;
  std::vector<KeyValueCache<S>> layers_;
};

}  // namespace moduleformer
