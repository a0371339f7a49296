// SPDX-License-Identifier: MIT
#pragma once
// The next token from one row of logits l (V), in host memory, as pure functions. In this order:
//   penalty      l_v = l_v / r if l_v > 0, else l_v r, for each v seen before (arXiv 1909.05858, 4.1)
//   temperature  l_v / t; t = 0 is greedy: the largest logit, ties to the lowest id
//   top-k        the k largest, ties to the lowest id
//   top-p        of these, renormalised, the fewest most probable whose sum reaches p (arXiv 1904.09751)
// then one is drawn with a number u in (0, 1).

#include <moduleformer/core/error.hpp>
#include <moduleformer/core/random.hpp>
#include <moduleformer/core/types.hpp>

#include <algorithm>
#include <cmath>
#include <limits>
#include <span>
#include <vector>

namespace moduleformer {

struct SamplingOptions {
  double temperature = 1;         // 0: greedy
  Index top_k = 0;                // 0: all
  double top_p = 1;               // in (0, 1]; 1: all
  double repetition_penalty = 1;  // 1: none; above 1 discourages tokens that were seen

  /// Throws Error naming the first value out of range.
  void check() const {
    expects(temperature >= 0 && temperature < 1e6, "temperature: expected a number from 0 to below 1e6, found ", temperature);
    expects(top_k >= 0, "top_k: expected a number from 1, or 0 for all, found ", top_k);
    expects(top_p > 0 && top_p <= 1, "top_p: expected a number in (0, 1], found ", top_p);
    expects(repetition_penalty > 0 && repetition_penalty < 1e6, "repetition_penalty: expected a number above 0 and below 1e6, found ",
            repetition_penalty);
  }
};

/// A token that may come next.
struct Candidate {
  TokenId id = 0;
  double probability = 0;
};

/// Discourages every id in `seen`, once each however often it occurs. `logits` (V).
inline void penalise_repetition(std::span<double> logits, std::span<TokenId const> seen, double penalty,
                                std::vector<TokenId>& scratch) {
  if (penalty == 1) return;
  scratch.assign(seen.begin(), seen.end());
  std::ranges::sort(scratch);
  scratch.erase(std::unique(scratch.begin(), scratch.end()), scratch.end());
  for (TokenId const id : scratch) {
    double& logit = logits[static_cast<std::size_t>(id)];
    logit = logit > 0 ? logit / penalty : logit * penalty;
  }
}

/// The id of the largest logit, the lowest of equal ones.
inline TokenId greedy_token(std::span<double const> logits) {
  return static_cast<TokenId>(std::ranges::max_element(logits) - logits.begin());
}

/// The tokens that temperature (above 0), top-k and top-p leave, most probable first; probabilities sum to 1.
inline void candidates(std::span<double const> logits, SamplingOptions const& options, std::vector<Candidate>& kept) {
  double const largest = *std::ranges::max_element(logits);
  kept.clear();
  for (std::size_t v = 0; v < logits.size(); ++v) kept.push_back({static_cast<TokenId>(v), logits[v]});
  // By logit first: probabilities may tie where logits do not.
  auto const before = [](Candidate const& a, Candidate const& b) {
    return a.probability != b.probability ? a.probability > b.probability : a.id < b.id;
  };
  auto const k = static_cast<std::size_t>(options.top_k);
  if (k > 0 && k < kept.size()) {
    std::ranges::nth_element(kept, kept.begin() + static_cast<std::ptrdiff_t>(k), before);
    kept.resize(k);
  }
  std::ranges::sort(kept, before);
  auto const normalise = [&] {
    double total = 0;
    for (Candidate const& c : kept) total += c.probability;
    for (Candidate& c : kept) c.probability /= total;
  };
  for (Candidate& c : kept) c.probability = std::exp((c.probability - largest) / options.temperature);
  normalise();
  if (options.top_p == 1) return;
  double reached = 0;
  std::size_t count = 0;
  while (count < kept.size() && reached < options.top_p) reached += kept[count++].probability;
  kept.resize(count);
  normalise();
}

/// The first candidate at which the running sum of probabilities exceeds u in (0, 1).
inline TokenId draw(std::span<Candidate const> candidates, double u) {
  double sum = 0;
  for (Candidate const& c : candidates) {
    sum += c.probability;
    if (u < sum) return c.id;
  }
  return candidates.back().id;  // the sum was rounded to less than u
}

/// u in (0, 1) for one token of one sequence: a pure function, so that a sequence does not depend on
/// the others of its batch.
inline double sampling_number(std::uint64_t seed, Index sequence, Index position) {
  constexpr std::uint32_t stream = 0xffff'ffff;  // no layer draws from it
  auto const words = random_words({seed, static_cast<std::uint32_t>(sequence), stream}, static_cast<std::uint64_t>(position));
  return (static_cast<double>((std::uint64_t{words[0]} << 20) ^ (words[1] >> 12)) + 0.5) * 0x1p-52;
}

/// Picks tokens; keeps only scratch between calls.
class Sampler {
 public:
  explicit Sampler(SamplingOptions options) : options_(options) { options.check(); }

  /// `seen`: ids of the sequence so far, each below V. Throws Error for a logit that is NaN or infinite.
  template <Real S>
  TokenId operator()(std::span<S const> logits, std::span<TokenId const> seen, double u) {
    logits_.assign(logits.begin(), logits.end());
    for (std::size_t v = 0; v < logits_.size(); ++v)
      expects(std::isfinite(logits_[v]), "sampling: the logit of id ", v, " is ", logits_[v], ", expected a finite number");
    penalise_repetition(logits_, seen, options_.repetition_penalty, scratch_);
    if (options_.temperature == 0) return greedy_token(logits_);
    candidates(logits_, options_, kept_);
    return draw(kept_, u);
  }

 private:
  SamplingOptions options_;
  std::vector<double> logits_;
  std::vector<TokenId> scratch_;
  std::vector<Candidate> kept_;
};

}  // namespace moduleformer
