// SPDX-License-Identifier: MIT
#pragma once
// Text of several domains: a step's rows are as many from each, drawn as a function of (seed, step); the end of each text
// is held out.

#include "cells/domains.hpp"

#include <moduleformer/core/error.hpp>
#include <moduleformer/training/data.hpp>

#include <cstddef>
#include <span>
#include <vector>

namespace bench {

class MixedTexts {
 public:
  /// `options`: rows are those of each domain.
  MixedTexts(std::span<Domain const> domains, mf::BatchOptions options) {
    for (Domain const& domain : domains) {
      texts_.emplace_back(domain.file, options);
      options.seed += 1000;
    }
  }

  [[nodiscard]] std::size_t domains() const { return texts_.size(); }
  [[nodiscard]] mf::HeldOutBatches<unsigned char> held_out(std::size_t domain) const {
    return texts_[domain].held_out();
  }

  /// The rows of one step, domain after domain.
  void read(Index step, mf::Batch& batch) const {
    mf::Batch part;
    batch = {};
    for (auto const& text : texts_) {
      text.read(step, part);
      append(batch, part);
    }
  }

 private:
  static void append(mf::Batch& batch, mf::Batch const& part) {
    batch.tokens = part.tokens;
    batch.mask.resize(batch.mask.empty() && part.mask.empty() ? 0 : batch.ids.size(), 1);
    batch.rows += part.rows;
    batch.ids.insert(batch.ids.end(), part.ids.begin(), part.ids.end());
    batch.targets.insert(batch.targets.end(), part.targets.begin(), part.targets.end());
    if (!part.mask.empty()) batch.mask.insert(batch.mask.end(), part.mask.begin(), part.mask.end());
    else if (!batch.mask.empty()) batch.mask.resize(batch.ids.size(), 1);
  }

  std::vector<mf::ByteBatches> texts_;
};

/// Throws Error naming a domain too short to hold out text of. The texts are those of the domains.
inline void check_held_out(std::span<Domain const> domains, MixedTexts const& texts) {
  for (std::size_t d = 0; d < domains.size(); ++d) {
    Index targets = 0;
    try {
      for (mf::Batch const& batch : texts.held_out(d)) targets += batch.counted_targets();
    } catch (mf::Error const& error) {
      mf::fail<mf::Error>("--data: domain ", domains[d].name, ": ", error.what());
    }
    mf::expects(targets > 0, "--data: domain ", domains[d].name, ": expected at least two bytes held out, found one");
  }
}

}  // namespace bench
