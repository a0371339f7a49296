// SPDX-License-Identifier: MIT
#pragma once
// What a model must beat: a unigram and a trigram model fitted on the training parts of the same documents.
// Trigram: interpolated absolute discounting with one discount per order (Chen and Goodman 1998, section 2),
//   P(c|ab) = max(n(abc) - d3, 0) / n(ab.) + d3 T(ab) / n(ab.) P(c|b),   P(c|b) alike down to 1/V,
// T the number of distinct successors. Lower orders count occurrences or, as Kneser and Ney do, distinct
// predecessors. Which of the two, and the discounts, minimise the bits of the last tenth of the training
// parts under counts of the rest; then everything is counted.

#include "device.hpp"

namespace cli {

/// Bits per held-out token.
struct Baselines {
  double unigram = 0;
  double trigram = 0;
};

/// For ids below vocab_size (at most 2^20). A held-out part begins without context. Throws Error if there is
/// nothing to predict.
Baselines fit_baselines(Data const& data, moduleformer::Index vocab_size);

}  // namespace cli
