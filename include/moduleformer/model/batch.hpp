// SPDX-License-Identifier: MIT
#pragma once
// Batch: token ids as the user has them: rows of equal length, some tokens perhaps masked, or packed
// sequences. Inside a model only real tokens exist: a batch is packed into consecutive sequences, so a
// padded batch computes what an unpadded one does (there is no position encoding).

#include <moduleformer/backend/arguments.hpp>
#include <moduleformer/core/error.hpp>

#include <algorithm>
#include <bit>
#include <cstdint>
#include <vector>

namespace moduleformer {

/// A batch in host memory. Only ids are required.
struct Batch {
  Index rows = 0;                       // B
  Index tokens = 0;                     // T, of each row
  std::vector<TokenId> ids{};           // (B,T)
  std::vector<TokenId> labels{};        // (B,T), position t is scored against labels[t+1]; (B) for a classifier
  std::vector<TokenId> targets{};       // (B,T) instead of labels: position t is scored against targets[t]
  // (B,T), 0 for padding; empty: every token counts. A masked token predicts nothing, whatever its next label is.
  std::vector<std::uint8_t> mask{};
  std::vector<Index> sequence_begins{}; // of packed sequences in ids, from 0, ascending; empty: rows are sequences

  /// Several sequences of different length, one after another, without padding.
  static Batch packed(std::vector<std::vector<TokenId>> const& sequences) {
    Batch batch;
    batch.rows = 1;
    for (auto const& sequence : sequences) {
      batch.sequence_begins.push_back(static_cast<Index>(batch.ids.size()));
      batch.ids.insert(batch.ids.end(), sequence.begin(), sequence.end());
    }
    batch.tokens = static_cast<Index>(batch.ids.size());
    return batch;
  }

  [[nodiscard]] Index sequences() const {
    return sequence_begins.empty() ? rows : static_cast<Index>(sequence_begins.size());
  }
  [[nodiscard]] Index sequence_begin(Index i) const {
    if (i >= sequences()) return rows * tokens;
    return sequence_begins.empty() ? i * tokens : sequence_begins[static_cast<std::size_t>(i)];
  }
  [[nodiscard]] bool is_real(Index position) const {
    return mask.empty() || mask[static_cast<std::size_t>(position)] != 0;
  }
  [[nodiscard]] TokenId id(Index position) const { return ids[static_cast<std::size_t>(position)]; }

  /// What position (the sequence ends at `end`) is scored against, or ignore_label.
  [[nodiscard]] TokenId target(Index position, Index end) const {
    if (!targets.empty()) return targets[static_cast<std::size_t>(position)];
    if (labels.empty() || position + 1 >= end) return ignore_label;
    return labels[static_cast<std::size_t>(position + 1)];
  }

  /// Throws Error unless there are no labels or one for each token.
  void check_token_labels() const {
    expects(labels.empty() || static_cast<Index>(labels.size()) == rows * tokens, "batch.labels: expected rows x tokens = ",
            rows * tokens, " labels, found ", labels.size());
  }
  /// Real tokens of a checked batch whose target counts.
  [[nodiscard]] Index counted_targets() const {
    check_token_labels();
    Index counted = 0;
    for (Index s = 0; s < sequences(); ++s)
      for (Index i = sequence_begin(s), end = sequence_begin(s + 1); i < end; ++i)
        counted += is_real(i) && target(i, end) != ignore_label;
    return counted;
  }

  /// A classifier's labels that count.
  [[nodiscard]] Index counted_labels() const {
    return static_cast<Index>(labels.size()) - std::count(labels.begin(), labels.end(), ignore_label);
  }

  /// A classifier's labels. Throws Error unless there is one for each sequence, each of so many or ignored.
  [[nodiscard]] std::vector<TokenId> const& checked_labels(Index count) const {
    expects(static_cast<Index>(labels.size()) == sequences(), "batch.labels: expected one label per row, ", sequences(),
            ", found ", labels.size());
    for (std::size_t i = 0; i < labels.size(); ++i)
      expects(labels[i] == ignore_label || (labels[i] >= 0 && labels[i] < count), "batch.labels: row ", i,
              ": expected a label from 0 to ", count - 1, " or ", ignore_label, ", found ", labels[i]);
    return labels;
  }

  /// Throws Error naming what does not fit: sizes, ids outside the vocabulary.
  void check(Index vocab_size) const {
    Index const n = rows * tokens;
    auto size = [](auto const& v) { return static_cast<Index>(v.size()); };
    expects(rows > 0 && tokens > 0, "batch: expected at least one token, found ", rows, " rows of ", tokens, " tokens");
    expects(tokens < (Index{1} << 31) / rows, "batch: expected fewer than 2^31 tokens, found ", rows, " rows of ", tokens);
    expects(size(ids) == n, "batch.ids: expected rows x tokens = ", n, " ids, found ", ids.size());
    expects(mask.empty() || size(mask) == n, "batch.mask: expected ", n, " values or none, found ", mask.size());
    expects(targets.empty() || size(targets) == n, "batch.targets: expected ", n, " ids or none, found ", targets.size());
    expects(labels.empty() || targets.empty(), "batch: labels and targets are both given, expected one of them");
    for (Index i = 0; i < n; ++i)
      expects(id(i) >= 0 && id(i) < vocab_size, "batch.ids: row ", i / tokens, ", token ", i % tokens, ": expected an id from 0 to ",
              vocab_size - 1, ", found ", id(i));
    for (std::size_t i = 0; i < sequence_begins.size(); ++i)
      expects(sequence_begins[i] == 0 ? i == 0 : i > 0 && sequence_begins[i] > sequence_begins[i - 1] && sequence_begins[i] < n,
              "batch.sequence_begins: expected 0 and then ascending positions below ", n, ", found ", sequence_begins[i],
              " at ", i);
  }
};

/// A batch's real tokens as consecutive sequences, in host memory that is reused from call to call.
struct PackedTokens {
  std::vector<TokenId> ids;              // (N)
  std::vector<TokenId> targets;          // (N)
  std::vector<std::int32_t> positions;   // (N) place of each token in the batch
  std::vector<Sequence> sequences;
  Index counted = 0;                     // targets that are not ignore_label
  Index batch_size = 0;                  // B*T

  [[nodiscard]] Index tokens() const { return static_cast<Index>(ids.size()); }

  /// A bound on the keys of a sequence: a power of two, so that work recorded for it serves batches of other lengths.
  [[nodiscard]] Index most_keys() const {
    Index longest = 1;
    for (Sequence const& s : sequences) longest = std::max(longest, s.key_count);
    return static_cast<Index>(std::bit_ceil(static_cast<std::uint64_t>(longest)));
  }

  /// Packs a checked batch. With with_targets, also checks targets against the vocabulary.
  void pack(Batch const& batch, Index vocab_size, bool with_targets) {
    ids.clear();
    targets.clear();
    positions.clear();
    sequences.clear();
    counted = 0;
    batch_size = batch.rows * batch.tokens;
    if (with_targets) batch.check_token_labels();
    for (Index s = 0; s < batch.sequences(); ++s) {
      Index const begin = batch.sequence_begin(s), end = batch.sequence_begin(s + 1), first = tokens();
      for (Index i = begin; i < end; ++i) {
        if (!batch.is_real(i)) continue;
        TokenId const target = with_targets ? batch.target(i, end) : ignore_label;
        expects(target == ignore_label || (target >= 0 && target < vocab_size), "batch labels: position ", i,
                ": expected an id from 0 to ", vocab_size - 1, " or ", ignore_label, ", found ", target);
        ids.push_back(batch.id(i));
        targets.push_back(target);
        positions.push_back(static_cast<std::int32_t>(i));
        counted += target != ignore_label;
      }
      sequences.push_back({first, tokens() - first, first, tokens() - first});
    }
    expects(tokens() > 0, "batch: every token is masked, expected at least one real token");
  }
};

}  // namespace moduleformer
