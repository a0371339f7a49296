// SPDX-License-Identifier: MIT
#pragma once
// A table of cells: what is done is skipped, and the time left is told before each one that is missing.

#include "cells/result_file.hpp"
#include "support.hpp"

#include <fmt/core.h>

#include <algorithm>
#include <cstdio>
#include <filesystem>
#include <string>
#include <vector>

namespace bench {

/// Makes the cells of `all` whose results are missing, in order. A cell has name(), settings(options), file(options),
/// run(options), the folder of a run that was stopped, and, through run(cell) -> Result, a result; estimate(cell)
/// guesses its seconds while none has been timed.
template <class Result, class Options, class Cell, class Run, class Estimate>
void make_missing(Options const& o, std::vector<Cell> const& all, std::string const& what, Run const& run,
                  Estimate const& estimate) {
  std::vector<Cell> missing;
  double spent = 0;
  std::size_t timed = 0;
  for (Cell const& cell : all) {
    auto const made = read_result<Result>(cell.settings(o), cell.file(o));
    if (!made || !made->by_this_program()) missing.push_back(cell);
    else if (made->seconds > 0) spent += made->seconds, ++timed;
  }
  fmt::print("{} cells of {}, {} of them done\n", all.size(), what, all.size() - missing.size());
  for (std::size_t i = 0; i < missing.size(); ++i) {
    bool const guess = timed == 0;
    double const each = guess ? estimate(missing[i]) : spent / static_cast<double>(timed);
    fmt::print("{} ({} to go, about {:.0f} min)\n", missing[i].name(), missing.size() - i,
               each * static_cast<double>(missing.size() - i) / 60);
    std::fflush(stdout);
    double const begin = now();
    Result const result = run(missing[i]);
    spent += now() - begin;
    ++timed;
    write_result(missing[i].settings(o), missing[i].file(o), result, now() - begin);
    std::filesystem::remove_all(missing[i].run(o));
  }
}

}  // namespace bench
