// SPDX-License-Identifier: MIT
#pragma once
// Batches of text: ByteBatches (text files, id = byte) and TokenBatches (ids of any vocabulary). Training
// windows are drawn at random, as a pure function of (seed, step), so a run's place in its data is the step.
// Held-out windows lie side by side, so that each held-out unit is predicted once. No window leaves its part.

#include <moduleformer/core/random.hpp>
#include <moduleformer/training/text_file.hpp>
#include <moduleformer/training/visit_checked.hpp>
#include <moduleformer/training/windows.hpp>

#include <filesystem>
#include <initializer_list>
#include <limits>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace moduleformer {

struct BatchOptions {
  Index rows = 8;             // windows of a batch
  Index tokens = 256;         // T, inputs (and predictions) of a window
  Index steps = 1;            // batches of the whole run
  std::uint64_t seed = 0;
  double held_out = 0;        // fraction of each document, its tail; 1: nothing is trained on
  bool eos = false;           // id 256 ends each document (its training part and its held-out part)
  Index begin_step = 0;       // a resumed run goes on at trainer.steps()
};

/// The held-out windows of some documents, in order; the last batch may have fewer rows.
template <class Unit>
class HeldOutBatches {
 public:
  HeldOutBatches(std::shared_ptr<Documents<Unit> const> documents, Index rows, Index tokens)
      : documents_(std::move(documents)), rows_(rows), tokens_(tokens) {
    for (Index i = 0; i < documents_->count(); ++i) {
      Index const size = documents_->held_out(i).size(), predicted = size > 0 ? size - 1 : 0;
      windows_.add((predicted + tokens - 1) / tokens);
      if (size > 0 && documents_->mark() < 0) ++without_context_;
    }
    expects(windows_.total() + without_context_ > 0, "held-out text: there is none; hold out a larger fraction");
  }

  using Iterator = BatchIterator<HeldOutBatches>;
  [[nodiscard]] Iterator begin() const { return {*this, 0, size()}; }
  [[nodiscard]] std::default_sentinel_t end() const { return {}; }

  /// Number of batches.
  [[nodiscard]] Index size() const { return (windows_.total() + rows_ - 1) / rows_; }
  /// Held-out units that no window predicts: the first of each part, unless an end mark stands before it.
  /// An evaluation scores them as if all tokens were equally likely.
  [[nodiscard]] Index without_context() const { return without_context_; }

  /// Batch `i` of size().
  void read(Index i, Batch& batch) const {
    Index const first = i * rows_, rows = std::min(rows_, windows_.total() - first);
    detail::shape_batch(batch, rows, tokens_);
    for (Index row = 0; row < rows; ++row) {
      auto const [document, window] = windows_.find(first + row);
      detail::write_window(documents_->held_out(document), window * tokens_, row, batch);
    }
  }

 private:
  std::shared_ptr<Documents<Unit> const> documents_;
  Index rows_, tokens_;
  detail::Shares windows_;
  Index without_context_ = 0;
};

/// Training batches as a range: for (auto const& batch : batches) trainer.step(batch).
template <class Unit>
class WindowBatches {
 public:
  /// A document is drawn with a probability proportional to the tokens that it can predict, then a window in it.
  WindowBatches(std::shared_ptr<Documents<Unit> const> documents, BatchOptions options)
      : documents_(std::move(documents)), options_(options) {
    expects(options.rows > 0 && options.tokens > 0, "batches: expected at least one row and one token, found ", options.rows,
            " and ", options.tokens);
    expects(options.rows < largest / options.tokens, "batches: ", options.rows, " rows of ", options.tokens,
            " tokens are too many, expected below 2^31 in all");
    expects(options.steps >= 0 && options.begin_step >= 0, "batches: expected steps and begin_step from 0, found ",
            options.steps, " and ", options.begin_step);
    for (Index i = 0; i < documents_->count(); ++i)
      predicted_.add(std::max(Index{0}, documents_->train(i).size() - 1));
  }

  using Iterator = BatchIterator<WindowBatches>;
  [[nodiscard]] Iterator begin() const { return {*this, options_.begin_step, options_.steps}; }
  [[nodiscard]] std::default_sentinel_t end() const { return {}; }

  /// The batch of one step, whatever was read before. Throws Error if there is nothing to train on.
  void read(Index step, Batch& batch) const {
    expects(predicted_.total() > 0, "training text: expected at least two tokens before the held-out part, found none");
    detail::shape_batch(batch, options_.rows, options_.tokens);
    // The 32 bits of a key's step are enough for any run; a longer one would repeat its windows.
    RandomKey const key{options_.seed, static_cast<std::uint32_t>(step), random_stream};
    for (Index row = 0; row < options_.rows; ++row) {
      auto const words = random_words(key, static_cast<std::uint64_t>(row));
      auto const part = documents_->train(predicted_.find(below(predicted_.total(), words[0], words[1])).document);
      Index const starts = std::max(Index{1}, part.size() - options_.tokens);
      detail::write_window(part, below(starts, words[2], words[3]), row, batch);
    }
  }

  /// Every held-out unit, in windows of the same size.
  [[nodiscard]] HeldOutBatches<Unit> held_out() const { return {documents_, options_.rows, options_.tokens}; }
  [[nodiscard]] Documents<Unit> const& documents() const { return *documents_; }
  [[nodiscard]] BatchOptions const& options() const { return options_; }

  /// What a resumed run's data must agree with; beside the trainer's state this belongs into a checkpoint.
  template <class Self, class Visitor>
  static void visit(Self& self, Visitor&& visit) {
    detail::visit_checked(visit, "rows", self.options_.rows);
    detail::visit_checked(visit, "tokens", self.options_.tokens);
    detail::visit_checked(visit, "seed", self.options_.seed);
    detail::visit_checked(visit, "held_out", self.options_.held_out);
    detail::visit_checked(visit, "eos", self.options_.eos);
    std::uint64_t const mine = self.documents_->fingerprint();
    std::uint64_t stored = mine;
    visit("fingerprint", stored);
    expects(stored == mine, "stored training state: it is of other data: the run was started on other documents, or on the same in "
                            "another order");
  }

 private:
  static constexpr Index largest = Index{1} << 31;
  static constexpr std::uint32_t random_stream = 0xda7a0000u;  // far from those of a model's layers

  /// A number below n from 64 random bits.
  static Index below(Index n, std::uint32_t high, std::uint32_t low) {
    return static_cast<Index>(((std::uint64_t{high} << 32) | low) % static_cast<std::uint64_t>(n));
  }

  std::shared_ptr<Documents<Unit> const> documents_;
  BatchOptions options_;
  detail::Shares predicted_;
};

/// Batches of the bytes of text files, one document each: vocabulary 256, with eos 257.
class ByteBatches : public WindowBatches<unsigned char> {
 public:
  static constexpr TokenId eos_id = 256;
  using Files = std::vector<std::filesystem::path>;

  /// Throws Error for a file that is missing, unreadable or empty.
  template <std::convertible_to<std::filesystem::path> File>
  explicit ByteBatches(File const& file, BatchOptions options = {}) : ByteBatches(Files{file}, options) {}
  ByteBatches(std::initializer_list<std::filesystem::path> files, BatchOptions options)
      : ByteBatches(Files(files), options) {}
  explicit ByteBatches(Files const& files, BatchOptions options = {}) : WindowBatches(read_files(files, options), options) {}

  /// The same for texts in memory.
  static ByteBatches of_texts(std::vector<std::string> const& texts, BatchOptions options = {}) {
    auto documents = make_documents(options);
    for (std::size_t i = 0; i < texts.size(); ++i) {
      auto const* const bytes = reinterpret_cast<unsigned char const*>(texts[i].data());
      documents->add("text " + std::to_string(i), {bytes, texts[i].size()});
    }
    return {std::move(documents), options};
  }

  [[nodiscard]] Index vocab_size() const { return options().eos ? 257 : 256; }

 private:
  ByteBatches(std::shared_ptr<Documents<unsigned char> const> documents, BatchOptions options)
      : WindowBatches(std::move(documents), options) {}

  static std::shared_ptr<Documents<unsigned char>> make_documents(BatchOptions const& options) {
    return std::make_shared<Documents<unsigned char>>(options.held_out, options.eos ? eos_id : -1);
  }
  static std::shared_ptr<Documents<unsigned char> const> read_files(Files const& files, BatchOptions const& options) {
    expects(!files.empty(), "ByteBatches: expected at least one text file");
    auto documents = make_documents(options);
    for (auto const& file : files) documents->add(file.string(), read_text_file(file));
    return documents;
  }
};

/// Batches of token ids, for vocabularies other than bytes; end marks are those that the ids contain.
class TokenBatches : public WindowBatches<TokenId> {
 public:
  using Ids = std::vector<TokenId>;

  /// One document. Throws Error if it is empty, holds a negative id, or options.eos is set.
  explicit TokenBatches(Ids const& document, BatchOptions options = {})
      : TokenBatches(std::vector<Ids>{document}, options) {}
  explicit TokenBatches(std::vector<Ids> const& documents, BatchOptions options = {})
      : WindowBatches(check(documents, options), options) {}

 private:
  static std::shared_ptr<Documents<TokenId> const> check(std::vector<Ids> const& ids, BatchOptions const& options) {
    expects(!options.eos, "TokenBatches: eos is for text; put the vocabulary's own end marks among the ids");
    expects(!ids.empty(), "TokenBatches: expected at least one document");
    auto documents = std::make_shared<Documents<TokenId>>(options.held_out);
    for (std::size_t i = 0; i < ids.size(); ++i) {
      std::string const name = "document " + std::to_string(i);
      for (std::size_t t = 0; t < ids[i].size(); ++t)
        expects(ids[i][t] >= 0, name, ": expected ids from 0, found ", ids[i][t], " at ", t);
      documents->add(name, ids[i]);
    }
    return documents;
  }
};

}  // namespace moduleformer
