// SPDX-License-Identifier: MIT
#pragma once
// RouteRecord: the routes of any number of forwards, in host memory: each router's experts and gates for every token,
// in the order in which a model packs them (masked tokens left out). Runs can be repeated on them:
//
//   mf::RouteRecord const record = mf::record_routes(model, session, batches);
//   auto const logits = model.logits(session, batch, {.replay = record.replay(0)});
//
// What a replay gives is the experts. Gates are computed anew, from the logits of the model that runs, and so have
// gradients; with the same weights they have the recorded bits.

#include <moduleformer/core/fingerprint.hpp>
#include <moduleformer/model/batch.hpp>
#include <moduleformer/model/config.hpp>
#include <moduleformer/model/observation.hpp>
#include <moduleformer/routing/shared_experts.hpp>

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <ostream>
#include <sstream>
#include <string>
#include <vector>

namespace moduleformer {

/// Stands in a record for a slot without an expert.
inline constexpr ExpertId empty_slot = -1;

/// What records of one model, and the model, agree in.
struct RouterSize {
  std::string name;   // as in checkpoints
  Index experts = 0;  // E
  Index slots = 0;    // S, of each token: K, or as many as the selection has in training
  Index shared = 0;   // experts 0 ... shared-1 serve every token and are not routed

  friend bool operator==(RouterSize const&, RouterSize const&) = default;
  friend std::ostream& operator<<(std::ostream& out, RouterSize const& size) {
    out << '\'' << size.name << "' with " << size.experts << " experts, " << size.slots << " slots";
    return size.shared == 0 ? out : out << ", " << size.shared << " shared";
  }
};

/// What one router did with all N tokens of a record.
struct RecordedRouter {
  RouterSize size;
  std::vector<ExpertId> experts{};  // (N,S), from 0 to E-1 or empty_slot
  std::vector<float> gates{};       // (N,S)
};

struct RecordedBatch {
  Index first = 0;         // its first token in the record
  Index tokens = 0;        // that the model saw
  std::uint64_t text = 0;  // text_fingerprint
};

/// A hash of what a model sees of a batch: the real tokens' ids, and where sequences end. Padding does not count.
inline std::uint64_t text_fingerprint(Batch const& batch) {
  Fingerprint hash;
  for (Index s = 0; s < batch.sequences(); ++s) {
    std::uint64_t length = 0;
    for (Index i = batch.sequence_begin(s); i < batch.sequence_begin(s + 1); ++i) {
      if (!batch.is_real(i)) continue;
      hash.add(static_cast<std::uint64_t>(batch.id(i)));
      ++length;
    }
    if (length > 0) hash.add(length);
  }
  return hash.value();
}

struct RouteRecord;

/// One batch of a record, to be replayed; the record must outlive the run.
struct Replay {
  RouteRecord const* record = nullptr;
  Index batch = 0;
  explicit operator bool() const { return record != nullptr; }
};

struct RouteRecord {
  std::vector<RecordedRouter> routers{};  // (2L) attention, feed-forward of each layer
  std::vector<RecordedBatch> batches{};

  [[nodiscard]] Index size() const { return static_cast<Index>(batches.size()); }
  /// N of the whole record.
  [[nodiscard]] Index tokens() const { return batches.empty() ? 0 : batches.back().first + batches.back().tokens; }

  /// Appends what was seen of a batch. Throws Error for an observation without routing, or of another model than
  /// before.
  template <class A>
  void add(Batch const& batch, Observation<A> const& seen);

  /// Batch `i`, for ForwardOptions and Trainer. Throws Error beyond the record.
  [[nodiscard]] Replay replay(Index i) const& {
    expects(i >= 0 && i < size(), "record of routes: expected a batch below ", size(), ", as many as it holds, found ",
            i);
    return {this, i};
  }
  Replay replay(Index) const&& = delete;  // it would outlive the record

  /// Throws Error naming router, batch and token for what no forward can have left.
  void check() const;
  /// The same for one batch alone.
  void check_batch(Index i) const;
  /// Throws Error naming the first router that differs if the sizes are not the record's.
  void expect_routers(std::vector<RouterSize> const& found) const;
  /// The same for those of a model of this config with so many shared experts, not in training.
  void expect_model(Config const& config, SharedCounts const& shared) const;
  /// Throws Error naming batch i if it was of another text.
  void expect_text(Index i, Batch const& batch) const {
    expects(batches[static_cast<std::size_t>(i)].text == text_fingerprint(batch), "record of routes: batch ", i,
            " was recorded of another text, or of the same one cut differently");
  }
};

/// The routes of every batch of a range; runs no head. Throws Error for a batch that does not fit.
template <class Model, class Batches>
RouteRecord record_routes(Model const& model, typename Model::SessionType& session, Batches const& batches) {
  RouteRecord record;
  Observation<typename Model::Accumulator> seen;
  for (Batch const& batch : batches) {
    model.forward(session, batch, {.observation = &seen});
    record.add(batch, seen);
  }
  return record;
}

template <class A>
void RouteRecord::add(Batch const& batch, Observation<A> const& seen) {
  expects(!seen.routers.empty() && seen.rows == batch.rows && seen.tokens == batch.tokens,
          "record of routes: expected an observation of routing of ", batch.rows, " x ", batch.tokens,
          " tokens, found one of ", seen.routers.size(), " routers, ", seen.rows, " x ", seen.tokens);
  std::vector<RouterSize> sizes;
  for (auto const& router : seen.routers) sizes.push_back({router.name, router.expert_count, router.top_k, router.shared_experts});
  if (routers.empty())
    for (RouterSize const& size : sizes) routers.push_back({size});
  expect_routers(sizes);
  RecordedBatch recorded{.first = tokens(), .text = text_fingerprint(batch)};
  for (Index i = 0; i < batch.rows * batch.tokens; ++i) {
    if (!batch.is_real(i)) continue;
    ++recorded.tokens;
    for (std::size_t r = 0; r < routers.size(); ++r) {
      auto const& from = seen.routers[r];
      auto const k = static_cast<std::size_t>(from.top_k), first = static_cast<std::size_t>(i) * k;
      routers[r].experts.insert(routers[r].experts.end(), &from.experts[first], &from.experts[first] + k);
      for (std::size_t s = first; s < first + k; ++s) routers[r].gates.push_back(static_cast<float>(from.gates[s]));
    }
  }
  batches.push_back(recorded);
}

inline void RouteRecord::check() const {
  for (Index i = 0, first = 0; i < size(); first += batches[static_cast<std::size_t>(i++)].tokens) {
    RecordedBatch const& batch = batches[static_cast<std::size_t>(i)];
    expects(batch.first == first && batch.tokens > 0, "record of routes: batch ", i,
            ": expected at least one token, from number ", first, ", found ", batch.tokens, " from ", batch.first);
  }
  for (auto const& [size, experts, gates] : routers) {
    expects(size.slots > 0 && size.slots <= size.experts, "record of routes: router ", size, ": expected 1 to ",
            size.experts, " slots");
    expects(size.shared >= 0 && size.shared <= size.slots, "record of routes: router ", size,
            ": expected at most as many shared experts as slots");
    expects(static_cast<Index>(experts.size()) == tokens() * size.slots && gates.size() == experts.size(),
            "record of routes: router ", size, ": expected ", tokens() * size.slots,
            " experts and gates, found ", experts.size(), " and ", gates.size());
    for (std::size_t i = 0; i < gates.size(); ++i)
      expects(std::isfinite(gates[i]), "record of routes: router ", size, ", slot ", i, ": expected a finite gate, found ",
              gates[i]);
  }
  for (Index i = 0; i < size(); ++i) check_batch(i);
}

inline void RouteRecord::check_batch(Index i) const {
  auto const [first, tokens, text] = batches[static_cast<std::size_t>(i)];
  for (auto const& [size, experts, gates] : routers) {
    expects(first >= 0 && tokens > 0 && static_cast<Index>(experts.size()) >= (first + tokens) * size.slots,
            "record of routes: router ", size, " does not hold batch ", i, ", ", tokens, " tokens from number ",
            first);
    auto const* token = experts.data() + first * size.slots;
    for (Index t = 0; t < tokens; ++t, token += size.slots) {
      for (Index s = 0; s < size.slots; ++s) {
        ExpertId const id = token[s];
        bool const exists = id == empty_slot || (id >= 0 && id < size.experts);
        bool const again = id != empty_slot && std::find(token, token + s, id) != token + s;
        if (exists && !again) continue;
        fail<Error>("record of routes: router ", size, ", batch ", i, ", token ", t,
                    ": expected different experts from 0 to ", size.experts - 1, ", or ", empty_slot, ", found ", id,
                    again ? " twice" : "");
      }
    }
  }
}

inline void RouteRecord::expect_routers(std::vector<RouterSize> const& found) const {
  auto const differs = std::ranges::mismatch(routers, found, {}, &RecordedRouter::size);
  if (differs.in1 == routers.end() && differs.in2 == found.end()) return;
  std::ostringstream mine, theirs;
  differs.in1 == routers.end() ? mine << "no further router" : mine << "router " << differs.in1->size;
  differs.in2 == found.end() ? theirs << "none" : theirs << "router " << *differs.in2;
  fail<Error>("record of routes: of another model: it has ", mine.str(), ", expected ", theirs.str());
}

inline void RouteRecord::expect_model(Config const& config, SharedCounts const& shared) const {
  std::vector<RouterSize> sizes;
  for (Index i = 0; i < config.layers; ++i) {
    sizes.push_back({attention_router_name(i), active_experts(config.attention, i), config.attention.top_k, shared.attention});
    sizes.push_back({feed_forward_router_name(i), active_experts(config.feed_forward, i), config.feed_forward.top_k,
                     shared.feed_forward});
  }
  expect_routers(sizes);
}

}  // namespace moduleformer
