// SPDX-License-Identifier: MIT
#pragma once
// Generation: prompts of different length are read at once into a key-value cache, then every
// unfinished sequence grows by one token per step. How a token is picked: model/sampling.hpp.
//
//   auto const out = mf::generate(model, {prompt}, {.max_new_tokens = 100, .temperature = 0.8});

#include <moduleformer/model/model.hpp>
#include <moduleformer/model/sampling.hpp>

#include <algorithm>
#include <concepts>
#include <span>
#include <string_view>
#include <utility>
#include <vector>

namespace moduleformer {

struct GenerationOptions {
  Index max_new_tokens = 128;     // per sequence
  double temperature = 1;         // 0: greedy
  Index top_k = 0;                // 0: all
  double top_p = 1;               // 1: all
  double repetition_penalty = 1;  // 1: none; counts the prompt's tokens too
  std::vector<TokenId> stop_ids{};
  std::uint64_t seed = 0;
  int threads = 0;                // 0: as many as the machine offers; a given session has its own
  bool record_steps = false;      // where the backend can (CUDA graphs), record a token's work and repeat it

  [[nodiscard]] SamplingOptions sampling() const { return {temperature, top_k, top_p, repetition_penalty}; }
};

/// Why a sequence ended.
enum class FinishReason { stop_id, length, callback };

constexpr std::string_view to_string(FinishReason reason) {
  switch (reason) {
    case FinishReason::stop_id: return "stop id";
    case FinishReason::length: return "length";
    case FinishReason::callback: return "callback";
  }
  return "";
}

/// One prompt's continuation.
struct Generated {
  std::vector<TokenId> tokens;  // new ones, without the stop id
  FinishReason reason = FinishReason::length;
  TokenId stop_id = -1;         // that ended it, if one did
};

/// Called with (sequence, token) for each new token; may return false to end that sequence.
template <class F>
concept TokenCallback = std::invocable<F&, Index, TokenId> &&
                        (std::is_void_v<std::invoke_result_t<F&, Index, TokenId>> ||
                         std::convertible_to<std::invoke_result_t<F&, Index, TokenId>, bool>);

/// The callback that does nothing.
struct IgnoreTokens {
  void operator()(Index, TokenId) const {}
};

namespace detail {

/// The sequences of one call of generate.
template <class Model>
class Generation {
 public:
  using A = typename Model::Accumulator;
  using Prompts = std::vector<std::vector<TokenId>>;

  Generation(Model const& model, typename Model::SessionType& session, Prompts const& prompts, GenerationOptions const& options)
      : model_(model), session_(session), options_(checked(model, prompts, options)), sampler_(options.sampling()),
        cache_(model, static_cast<Index>(prompts.size()), longest(prompts) + options.max_new_tokens - 1),
        sequences_(prompts), results_(prompts.size()) {
    for (std::size_t i = 0; i < prompts.size(); ++i) extensions_.push_back({static_cast<Index>(i), sequences_[i]});
  }

  template <class Callback>
  std::vector<Generated> run(Callback& callback) {
    while (!extensions_.empty()) {
      Matrix<A const> const logits = model_.extend(session_, cache_, extensions_, options_.record_steps ? &recorded_ : nullptr);
      host_.resize(static_cast<std::size_t>(logits.size()));
      to_host(session_.backend(), logits.reshape(logits.size()), host_.data());
      auto const vocab_size = static_cast<std::size_t>(logits.extent(1));
      std::size_t kept = 0;
      for (std::size_t row = 0; row < extensions_.size(); ++row) {
        Index const sequence = extensions_[row].sequence;
        auto const next = pick(sequence, std::span(host_).subspan(row * vocab_size, vocab_size), callback);
        if (next) extensions_[kept++] = {sequence, std::span(sequences_[static_cast<std::size_t>(sequence)]).last(1)};
      }
      extensions_.resize(kept);
    }
    return std::move(results_);
  }

 private:
  static GenerationOptions const& checked(Model const& model, Prompts const& prompts, GenerationOptions const& options) {
    Index const vocab_size = model.config().vocab_size;
    expects(!prompts.empty(), "generate: expected at least one prompt");
    for (std::size_t i = 0; i < prompts.size(); ++i) {
      expects(!prompts[i].empty(), "generate: prompt ", i, " is empty, expected at least one token");
      for (TokenId const id : prompts[i])
        expects(id >= 0 && id < vocab_size, "generate: prompt ", i, ": expected ids from 0 to ", vocab_size - 1, ", found ", id);
    }
    for (TokenId const id : options.stop_ids)
      expects(id >= 0 && id < vocab_size, "generate: stop_ids: expected ids from 0 to ", vocab_size - 1, ", found ", id);
    constexpr Index most = Index{1} << 30;
    expects(options.max_new_tokens > 0 && options.max_new_tokens <= most, "generate: max_new_tokens: expected 1 to ", most,
            ", found ", options.max_new_tokens);
    return options;
  }
  static Index longest(Prompts const& prompts) {
    std::size_t length = 0;
    for (auto const& prompt : prompts) length = std::max(length, prompt.size());
    return static_cast<Index>(length);
  }

  /// Appends the sequence's next token; whether it goes on.
  template <class Callback>
  bool pick(Index sequence, std::span<A const> logits, Callback& callback) {
    auto const at = static_cast<std::size_t>(sequence);
    auto& tokens = sequences_[at];
    Generated& result = results_[at];
    TokenId const id = sampler_(logits, std::span<TokenId const>(tokens),
                                sampling_number(options_.seed, sequence, static_cast<Index>(tokens.size())));
    if (std::ranges::find(options_.stop_ids, id) != options_.stop_ids.end()) {
      result.reason = FinishReason::stop_id;
      result.stop_id = id;
      return false;
    }
    tokens.push_back(id);
    result.tokens.push_back(id);
    if (!told(callback, sequence, id)) {
      result.reason = FinishReason::callback;
      return false;
    }
    return static_cast<Index>(result.tokens.size()) < options_.max_new_tokens;
  }

  template <class Callback>
  static bool told(Callback& callback, Index sequence, TokenId id) {
    if constexpr (std::is_void_v<std::invoke_result_t<Callback&, Index, TokenId>>) {
      callback(sequence, id);
      return true;
    } else {
      return static_cast<bool>(callback(sequence, id));
    }
  }

  Model const& model_;
  typename Model::SessionType& session_;
  GenerationOptions const& options_;
  Sampler sampler_;
  KvCache<typename Model::BackendType> cache_;
  Prompts sequences_;                       // prompts and what was added
  std::vector<Generated> results_;
  std::vector<CacheExtension> extensions_;  // of the unfinished sequences
  Repeated<typename Model::BackendType> recorded_;
  std::vector<A> host_;                     // their logits
};

}  // namespace detail

/// Continues each prompt; results in the order of the prompts. Token i of a sequence depends on (seed, the
/// prompt's index, i), not on the batch's other prompts (beyond rounding). Throws Error for an empty
/// prompt, ids outside the vocabulary, and options out of range. Threads with a session each may share
/// a model.
template <class Model, TokenCallback Callback = IgnoreTokens>
  requires(!Model::HeadType::classifies)
std::vector<Generated> generate(Model const& model, typename Model::SessionType& session,
                                std::vector<std::vector<TokenId>> const& prompts, GenerationOptions const& options = {},
                                Callback callback = {}) {
  return detail::Generation<Model>(model, session, prompts, options).run(callback);
}

/// The same in a session of its own.
template <class Model, TokenCallback Callback = IgnoreTokens>
  requires(!Model::HeadType::classifies)
std::vector<Generated> generate(Model const& model, std::vector<std::vector<TokenId>> const& prompts,
                                GenerationOptions const& options = {}, Callback callback = {}) {
  Session session{model, {.threads = options.threads}};
  return generate(model, session, prompts, options, std::move(callback));
}

}  // namespace moduleformer
