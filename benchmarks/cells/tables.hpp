// SPDX-License-Identifier: MIT
#pragma once
// Means over seeds with the standard deviation of one seed, and tables of text for a page.

#include <fmt/core.h>

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <span>
#include <string>
#include <vector>

namespace bench {

struct Mean {
  double value = 0;
  double deviation = 0;  // of one seed, unbiased; 0 for one seed
};

inline Mean mean_of(std::span<double const> values) {
  Mean mean;
  auto const n = static_cast<double>(values.size());
  for (double const v : values) mean.value += v / n;
  for (double const v : values) mean.deviation += (v - mean.value) * (v - mean.value) / std::max(n - 1, 1.0);
  mean.deviation = std::sqrt(mean.deviation);
  return mean;
}

inline std::string with_deviation(Mean mean, int digits, std::size_t seeds) {
  return seeds > 1 ? fmt::format("{:.{}f} ±{:.{}f}", mean.value, digits, mean.deviation, digits)
                   : fmt::format("{:.{}f}", mean.value, digits);
}

/// Rows of cells, the header first; columns are set to the right from `numbers` on.
inline std::string markdown_table(std::vector<std::vector<std::string>> const& rows, std::size_t numbers) {
  std::string text;
  for (std::size_t i = 0; i < rows.size(); ++i) {
    text += "|";
    for (auto const& cell : rows[i]) text += " " + cell + " |";
    text += "\n";
    if (i > 0) continue;
    text += "|";
    for (std::size_t c = 0; c < rows[0].size(); ++c) text += c < numbers ? "---|" : "---:|";
    text += "\n";
  }
  return text;
}

}  // namespace bench
