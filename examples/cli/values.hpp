// SPDX-License-Identifier: MIT
#pragma once
// What an option's text may be. The text itself is looked at, so that nothing is bent on its way into a number: no
// overflow, no sign of an unsigned one, no nan within a range. Each refusal says what was expected and what was found.

#include <moduleformer/core/types.hpp>

#include <CLI/CLI.hpp>

#include <cstdint>
#include <limits>
#include <string>

namespace cli {

/// The most that counts of tokens, rows and the like may be.
inline constexpr moduleformer::Index largest_size = (moduleformer::Index{1} << 31) - 1;
/// Experts of a layer.
inline constexpr moduleformer::Index most_experts = moduleformer::Index{1} << 20;
/// Training steps.
inline constexpr moduleformer::Index most_steps = moduleformer::Index{1} << 40;

/// Finite numbers from low to high; `above` and `below` leave out the ends.
struct Range {
  double low = -std::numeric_limits<double>::infinity();
  double high = std::numeric_limits<double>::infinity();
  bool above = false;
  bool below = false;
};

CLI::Validator number(Range range);
CLI::Validator integer(moduleformer::Index low, moduleformer::Index high);
/// An integer from 0 to 2^64 - 1.
CLI::Validator seed();
/// Of a file or folder; an empty name would look as if none were given.
CLI::Validator named();

}  // namespace cli
