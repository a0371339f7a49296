// SPDX-License-Identifier: MIT
#pragma once
// The comparison as a table: each policy's mean over its seeds and their standard deviation. The difference in bits per byte
// to the first policy is taken seed by seed (same text in the same order), so most of the seeds' spread cancels in it.

#include "cells/tables.hpp"
#include "routing/cell.hpp"
#include "routing/speed.hpp"

#include <moduleformer/io/svg.hpp>

#include <algorithm>
#include <iterator>
#include <optional>
#include <span>
#include <string>
#include <vector>

namespace bench {

/// The results of one policy.
struct PolicyResults {
  Variant const* variant = nullptr;
  std::vector<CellResult> seeds{};
  std::optional<SpeedResult> speed{};

  template <class Get>
  [[nodiscard]] Mean mean(Get const& get) const {
    std::vector<double> values;
    for (CellResult const& r : seeds) values.push_back(get(r));
    return mean_of(values);
  }
  /// Bits per byte less those of `other`, of the seeds that both have.
  [[nodiscard]] std::vector<double> differences(PolicyResults const& other) const {
    std::vector<double> values;
    for (CellResult const& mine : seeds)
      for (CellResult const& theirs : other.seeds)
        if (mine.seed == theirs.seed) values.push_back(mine.bits_per_byte() - theirs.bits_per_byte());
    return values;
  }
};

/// One column of the table.
struct Column {
  char const* name;
  char const* unit;
  int digits;
  double (*get)(CellResult const&);
};

inline constexpr Column columns[] = {
    {"bits per byte", "held-out, mean of the domains", 4, [](CellResult const& r) { return r.bits_per_byte(); }},
    {"effective, attention", "experts", 2, [](CellResult const& r) { return r.attention.effective; }},
    {"effective, feed-forward", "experts", 2, [](CellResult const& r) { return r.feed_forward.effective; }},
    {"busiest, attention", "of the mean load", 2, [](CellResult const& r) { return r.attention.busiest; }},
    {"busiest, feed-forward", "of the mean load", 2, [](CellResult const& r) { return r.feed_forward.busiest; }},
    {"dead experts", "in all", 1, [](CellResult const& r) { return r.attention.dead + r.feed_forward.dead; }},
    {"I(e;x), attention", "nats", 3, [](CellResult const& r) { return r.attention.mutual_information; }},
    {"I(e;x), feed-forward", "nats", 3, [](CellResult const& r) { return r.feed_forward.mutual_information; }},
    {"I(e;domain), attention", "nats", 3, [](CellResult const& r) { return r.attention.domain_information; }},
    {"I(e;domain), feed-forward", "nats", 3, [](CellResult const& r) { return r.feed_forward.domain_information; }},
    {"dropped gate, feed-forward", "probability", 3, [](CellResult const& r) { return r.feed_forward.dropped_gate; }},
    {"routing gradient", "of the task's norm", 4,
     [](CellResult const& r) { return r.routing_gradient / r.task_gradient; }},
};

/// A column of the policy's cost.
struct SpeedColumn {
  char const* name;
  int digits;
  double (*get)(SpeedResult const&);
};
inline constexpr SpeedColumn speed_columns[] = {
    {"tokens/s", 0, [](SpeedResult const& r) { return r.tokens_per_second(); }},
    {"routers, % of a step", 1, [](SpeedResult const& r) { return 100 * r.router_seconds() / r.step; }},
    {"experts, % of a step", 1, [](SpeedResult const& r) { return 100 * r.expert_seconds() / r.step; }},
    {"experts, skewed load / even", 2,
     [](SpeedResult const& r) {
       return (r.skewed.attention + r.skewed.feed_forward) / (r.even.attention + r.even.feed_forward);
     }},
};

/// All finished cells, by policy: those that this program made, or, for a report alone, those that one other program made.
/// Throws Error for cells of several.
inline std::vector<PolicyResults> collect(RoutingOptions const& o, Maker& maker) {
  std::vector<PolicyResults> all;
  for (auto const& name : o.policies) {
    PolicyResults policy{&find_variant(name)};
    for (auto const seed : o.seeds) {
      Cell const cell{policy.variant, seed};
      auto made = read_result<CellResult>(cell.settings(o), cell.file(o));
      if (!made || !(o.report_only || made->by_this_program())) continue;
      maker.expect_same(*made, fmt::format("{}: {}, seed {}", o.out.string(), name, seed));
      policy.seeds.push_back(std::move(made->result));
    }
    if (auto made = read_result<SpeedResult>(o.settings(), speed_file(o, *policy.variant))) policy.speed = std::move(made->result);
    if (!policy.seeds.empty()) all.push_back(std::move(policy));
  }
  return all;
}

/// Rows of cells, the header first.
inline std::vector<std::vector<std::string>> table_cells(std::vector<PolicyResults> const& all) {
  std::vector<std::vector<std::string>> rows{{"policy", "what it is", "seeds"}};
  for (Column const& c : columns) {
    rows[0].emplace_back(c.name);
    if (&c == columns) rows[0].push_back(fmt::format("less {}", all.front().variant->name));
  }
  for (SpeedColumn const& c : speed_columns) rows[0].emplace_back(c.name);
  for (PolicyResults const& p : all) {
    auto& row = rows.emplace_back(std::vector<std::string>{std::string(p.variant->name), std::string(p.variant->what),
                                                           std::to_string(p.seeds.size())});
    for (Column const& c : columns) {
      row.push_back(with_deviation(p.mean(c.get), c.digits, p.seeds.size()));
      if (&c == columns) {
        auto const less = p.differences(all.front());
        row.push_back(less.empty() ? "" : with_deviation(mean_of(less), c.digits, less.size()));
      }
    }
    for (SpeedColumn const& c : speed_columns)
      row.push_back(p.speed ? fmt::format("{:.{}f}", c.get(*p.speed), c.digits) : "");
  }
  return rows;
}

/// Of the table's columns the first and [begin, end).
inline std::string table_part(std::vector<std::vector<std::string>> const& rows, std::size_t begin, std::size_t end) {
  std::vector<std::vector<std::string>> part;
  for (auto const& row : rows) {
    auto& cells = part.emplace_back(std::vector<std::string>{row[0]});
    for (std::size_t c = begin; c < end; ++c) cells.push_back(row[c]);
  }
  return markdown_table(part, begin <= 1 ? 2 : 1);
}

/// All columns in tables that a page has room for: what the policies are; quality and balance; specialisation; cost.
inline std::string markdown_tables(std::vector<std::vector<std::string>> const& rows) {
  std::size_t const of_cost = std::size(speed_columns), all = rows[0].size();
  auto const specialisation = static_cast<std::size_t>(
      std::ranges::find(rows[0], std::string_view("I(e;x), attention")) - rows[0].begin());
  return table_part(rows, 1, 2) + "\n" + table_part(rows, 2, specialisation) + "\n" +
         table_part(rows, specialisation, all - of_cost) + "\n" + table_part(rows, all - of_cost, all);
}

inline std::string csv_table(std::vector<PolicyResults> const& all) {
  std::string text = "policy,what it is,seed";
  for (Column const& c : columns) text += fmt::format(",\"{} ({})\"", c.name, c.unit);
  text += "\n";
  for (PolicyResults const& p : all)
    for (CellResult const& r : p.seeds) {
      text += fmt::format("{},\"{}\",{}", p.variant->name, p.variant->what, r.seed);
      for (Column const& c : columns) text += fmt::format(",{:.6g}", c.get(r));
      text += "\n";
    }
  return text;
}

/// For a terminal: each policy a line for each group of columns that fits.
inline std::string plain_table(std::vector<std::vector<std::string>> const& rows) {
  auto const width = [&](std::size_t c) {
    std::size_t w = 0;
    for (auto const& row : rows)
      w = std::max(w, row[c].size() - static_cast<std::size_t>(row[c].find("±") != std::string::npos));
    return w;
  };
  std::string text;
  for (std::size_t first = 2; first < rows[0].size();) {  // without what a policy is, which --list tells
    std::size_t last = first, total = width(0);
    while (last < rows[0].size() && (last == first || total + 2 + width(last) <= 118)) total += 2 + width(last++);
    for (auto const& row : rows) {
      text += fmt::format("{:<{}}", row[0], width(0));
      for (std::size_t c = first; c < last; ++c) text += fmt::format("  {:>{}}", row[c], width(c));
      text += "\n";
    }
    text += "\n";
    first = last;
  }
  return text;
}

/// A column's values of every seed, a row for each policy.
inline mf::DotPlot dots(std::vector<PolicyResults> const& all, Column const& column) {
  mf::DotPlot plot{column.name, column.unit, {}, column.digits};
  for (PolicyResults const& p : all) {
    auto& row = plot.rows.emplace_back(mf::DotPlot::Row{std::string(p.variant->name), {}});
    for (CellResult const& r : p.seeds) row.values.push_back(column.get(r));
  }
  return plot;
}

/// A number of the moments over training, mean over the seeds; a line for each policy.
inline mf::LinePlot curves(std::vector<PolicyResults> const& all, std::string title, std::string y_name,
                           double Moment::*member) {
  mf::LinePlot plot{std::move(title), "million tokens", std::move(y_name), {}};
  for (PolicyResults const& p : all) {
    auto& line = plot.lines.emplace_back(mf::LinePlot::Line{std::string(p.variant->name), {}, {}});
    for (std::size_t i = 0; i < p.seeds.front().moments.size(); ++i) {
      double sum = 0;
      for (CellResult const& r : p.seeds) sum += r.moments[i].*member / static_cast<double>(p.seeds.size());
      line.x.push_back(static_cast<double>(p.seeds.front().moments[i].tokens) * 1e-6);
      line.y.push_back(sum);
    }
  }
  return plot;
}

}  // namespace bench
