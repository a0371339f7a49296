// SPDX-License-Identifier: MIT
#pragma once
// Pictures as SVG text, by themselves or inside an HTML page: heat maps, lines over a common
// axis, and rows of dots. Colours of text
// and lines are the page's (currentColor), so that they read on light and on dark ground.

#include <algorithm>
#include <array>
#include <cmath>
#include <cstddef>
#include <cstdio>
#include <iterator>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace moduleformer {

/// Text for XML and HTML, also inside attributes.
inline std::string escape_markup(std::string_view text) {
  std::string result;
  for (char const c : text) {
    if (c == '<') result += "&lt;";
    else if (c == '>') result += "&gt;";
    else if (c == '&') result += "&amp;";
    else if (c == '"') result += "&quot;";
    else result += c;
  }
  return result;
}

/// A number with so many digits behind the point.
inline std::string fixed_text(double value, int digits) {
  std::array<char, 64> text{};
  int const size = std::snprintf(text.data(), text.size(), "%.*f", digits, value);
  return {text.data(), static_cast<std::size_t>(std::clamp(size, 0, 63))};
}

/// Rows of cells, each shaded by its value between 0 and the largest one, which the legend names.
struct HeatMap {
  std::string title;
  std::string unit;                         // of the values
  std::vector<std::string> rows, columns;   // names
  std::vector<std::vector<double>> values;  // a row may be shorter, and a number not finite: no cell
  int digits = 2;                           // in the cells' tooltips and the legend
};

/// Lines through points (x, y), of one colour each, with their names beside.
struct LinePlot {
  struct Line {
    std::string name;
    std::vector<double> x, y;
  };
  std::string title, x_name, y_name;
  std::vector<Line> lines;
  bool dots = false;  // at the points too
};

/// Rows of values as dots, and their mean as a bar.
struct DotPlot {
  struct Row {
    std::string name;
    std::vector<double> values;
  };
  std::string title, unit;
  std::vector<Row> rows;
  int digits = 3;
};

namespace detail {

class SvgText {
 public:
  SvgText(double width, double height, std::string_view title) {
    text_ = "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"" + at(width) + "\" height=\"" + at(height) +
            "\" viewBox=\"0 0 " + at(width) + " " + at(height) +
            "\" font-family=\"sans-serif\" font-size=\"12\" fill=\"currentColor\" role=\"img\">\n<title>" +
            escape_markup(title) + "</title>\n";
    write(0, 16, title, "font-size=\"14\" font-weight=\"bold\"");
  }
  /// `more`: further attributes.
  void write(double x, double y, std::string_view words, std::string_view more = "") {
    text_ +=
        "<text x=\"" + at(x) + "\" y=\"" + at(y) + "\" " + std::string(more) + ">" + escape_markup(words) + "</text>\n";
  }
  void rectangle(double x, double y, double width, double height, std::string_view fill,
                 std::string_view tooltip = "") {
    text_ += "<rect x=\"" + at(x) + "\" y=\"" + at(y) + "\" width=\"" + at(width) + "\" height=\"" + at(height) +
             "\" fill=\"" + std::string(fill) + "\"" +
             (tooltip.empty() ? "/>\n" : "><title>" + escape_markup(tooltip) + "</title></rect>\n");
  }
  void line(double x0, double y0, double x1, double y1, std::string_view more) {
    text_ += "<line x1=\"" + at(x0) + "\" y1=\"" + at(y0) + "\" x2=\"" + at(x1) + "\" y2=\"" + at(y1) + "\" " +
             std::string(more) + "/>\n";
  }
  void circle(double x, double y, double radius, std::string_view more, std::string_view tooltip) {
    text_ += "<circle cx=\"" + at(x) + "\" cy=\"" + at(y) + "\" r=\"" + at(radius) + "\" " + std::string(more) +
             "><title>" + escape_markup(tooltip) + "</title></circle>\n";
  }
  void path(std::vector<double> const& x, std::vector<double> const& y, std::string_view stroke,
            std::string_view tooltip) {
    text_ += "<polyline fill=\"none\" " + std::string(stroke) + " points=\"";
    for (std::size_t i = 0; i < x.size(); ++i) text_ += (i == 0 ? "" : " ") + at(x[i]) + "," + at(y[i]);
    text_ += "\"><title>" + escape_markup(tooltip) + "</title></polyline>\n";
  }
  [[nodiscard]] std::string finish() && { return std::move(text_) + "</svg>\n"; }

  static std::string at(double x) { return fixed_text(x, 1); }

 private:
  std::string text_;
};

/// About the width of a text of this size of font.
inline double text_width(std::string_view text) { return 6.6 * static_cast<double>(text.size()); }

/// From pale to deep blue; both read beside light and dark.
inline std::string shade(double part) {
  double const x = std::clamp(part, 0.0, 1.0);
  auto const mix = [x](double pale, double deep) { return std::to_string(static_cast<int>(pale + (deep - pale) * x)); };
  return "rgb(" + mix(226, 8) + "," + mix(236, 58) + "," + mix(246, 130) + ")";
}

/// Ten colours, then the same ones dashed, then dotted.
inline std::string line_stroke(std::size_t i) {
  constexpr std::string_view colours[] = {"#3b6fb6", "#d9822b", "#4c9a4c", "#b8434e", "#8a63b8",
                                          "#8c6d4f", "#d870ad", "#7f7f7f", "#a8a832", "#3aa6b9"};
  constexpr std::string_view dashes[] = {"", " stroke-dasharray=\"7 4\"", " stroke-dasharray=\"2 3\""};
  return "stroke-width=\"2\" stroke=\"" + std::string(colours[i % std::size(colours)]) + "\"" +
         std::string(dashes[i / std::size(colours) % std::size(dashes)]);
}

/// Ends and steps of an axis over [low, high]: 1, 2 or 5 times a power of ten.
struct Axis {
  double low, high, step;
  Axis(double from, double to) {
    if (!(to > from)) from -= 0.5, to = from + 1;
    double const rough = (to - from) / 5, power = std::pow(10, std::floor(std::log10(rough)));
    step = (rough / power < 1.5 ? 1 : rough / power < 3.5 ? 2 : rough / power < 7.5 ? 5 : 10) * power;
    low = std::floor(from / step + 1e-9) * step;
    high = std::ceil(to / step - 1e-9) * step;
  }
  [[nodiscard]] double part(double x) const { return (x - low) / (high - low); }
  [[nodiscard]] int ticks() const { return static_cast<int>(std::lround((high - low) / step)); }
  /// Digits that tell neighbouring ticks apart.
  [[nodiscard]] int digits() const { return std::max(0, static_cast<int>(std::ceil(-std::log10(step) - 1e-9))); }
};

constexpr std::string_view faint = "stroke=\"currentColor\" stroke-opacity=\"0.25\"";

}  // namespace detail

inline std::string to_svg(HeatMap const& map) {
  constexpr double top = 50, row_height = 20;
  double left = 0, largest = 0;
  std::size_t most = map.columns.size();
  for (auto const& name : map.rows) left = std::max(left, detail::text_width(name) + 8);
  for (auto const& row : map.values) {
    most = std::max(most, row.size());
    for (double const v : row)
      if (std::isfinite(v)) largest = std::max(largest, v);
  }
  double const cell = std::clamp(640.0 / static_cast<double>(std::max<std::size_t>(most, 1)), 8.0, 40.0);
  std::string const legend = fixed_text(largest, map.digits) + " " + map.unit;
  constexpr double legend_left = 126;
  double const width = std::max({left + cell * static_cast<double>(most), detail::text_width(map.title) * 1.3,
                                 left + legend_left + detail::text_width(legend)}) + 4;
  detail::SvgText svg(width, top + row_height * static_cast<double>(map.values.size()) + 34, map.title);
  // Names of columns as many as have room.
  std::size_t every = 1;
  for (auto const& name : map.columns)
    every = std::max(every, static_cast<std::size_t>(std::ceil((detail::text_width(name) + 4) / cell)));
  for (std::size_t c = 0; c < map.columns.size(); c += every)
    svg.write(left + cell * (static_cast<double>(c) + 0.5), top - 6, map.columns[c], "text-anchor=\"middle\"");
  for (std::size_t r = 0; r < map.values.size(); ++r) {
    double const y = top + row_height * static_cast<double>(r);
    std::string const name = r < map.rows.size() ? map.rows[r] : "";
    svg.write(left - 8, y + 14, name, "text-anchor=\"end\"");
    for (std::size_t c = 0; c < map.values[r].size(); ++c) {
      double const v = map.values[r][c];
      if (!std::isfinite(v)) continue;
      std::string const column = c < map.columns.size() ? map.columns[c] : std::to_string(c);
      svg.rectangle(left + cell * static_cast<double>(c), y, cell - 1, row_height - 1,
                    detail::shade(largest > 0 ? v / largest : 0),
                    name + ", " + column + ": " + fixed_text(v, map.digits) + " " + map.unit);
    }
  }
  double const y = top + row_height * static_cast<double>(map.values.size()) + 10;
  for (int i = 0; i < 60; ++i) svg.rectangle(left + 2 * i, y, 2, 10, detail::shade(i / 59.0));
  svg.write(left - 8, y + 10, "0", "text-anchor=\"end\"");
  svg.write(left + legend_left, y + 10, legend);
  return std::move(svg).finish();
}

inline std::string to_svg(LinePlot const& plot) {
  constexpr double left = 60, top = 40, width = 560, height = 280, names = 190;
  double x0 = INFINITY, x1 = -INFINITY, y0 = INFINITY, y1 = -INFINITY;
  for (auto const& line : plot.lines) {
    for (double const v : line.x) x0 = std::min(x0, v), x1 = std::max(x1, v);
    for (double const v : line.y) y0 = std::min(y0, v), y1 = std::max(y1, v);
  }
  if (!(x0 <= x1)) x0 = y0 = 0, x1 = y1 = 1;
  detail::Axis const x(x0, x1), y(y0, y1);
  double const names_height = top + 18 * static_cast<double>(plot.lines.size());
  detail::SvgText svg(left + width + names, std::max(top + height + 44, names_height), plot.title);
  auto const across = [&](double v) { return left + width * x.part(v); };
  auto const down = [&](double v) { return top + height * (1 - y.part(v)); };
  for (int i = 0; i <= y.ticks(); ++i) {
    double const v = y.low + y.step * i;
    svg.line(left, down(v), left + width, down(v), detail::faint);
    svg.write(left - 6, down(v) + 4, fixed_text(v, y.digits()), "text-anchor=\"end\"");
  }
  for (int i = 0; i <= x.ticks(); ++i) {
    double const v = x.low + x.step * i;
    svg.line(across(v), top + height, across(v), top + height + 4, "stroke=\"currentColor\"");
    svg.write(across(v), top + height + 18, fixed_text(v, x.digits()), "text-anchor=\"middle\"");
  }
  svg.line(left, top + height, left + width, top + height, "stroke=\"currentColor\"");
  svg.write(left + width / 2, top + height + 36, plot.x_name, "text-anchor=\"middle\"");
  svg.write(0, top - 8, plot.y_name);
  for (std::size_t i = 0; i < plot.lines.size(); ++i) {
    auto const& line = plot.lines[i];
    std::vector<double> px, py;
    for (std::size_t j = 0; j < std::min(line.x.size(), line.y.size()); ++j) {
      if (!std::isfinite(line.x[j]) || !std::isfinite(line.y[j])) continue;
      px.push_back(across(line.x[j]));
      py.push_back(down(line.y[j]));
    }
    svg.path(px, py, detail::line_stroke(i), line.name);
    for (std::size_t j = 0; plot.dots && j < px.size(); ++j)
      svg.circle(px[j], py[j], 4, "fill=\"currentColor\" " + detail::line_stroke(i), line.name);
    double const name_y = top + 12 + 18 * static_cast<double>(i);
    svg.line(left + width + 12, name_y - 4, left + width + 30, name_y - 4, detail::line_stroke(i));
    svg.write(left + width + 36, name_y, line.name);
  }
  return std::move(svg).finish();
}

inline std::string to_svg(DotPlot const& plot) {
  constexpr double top = 34, row = 22, width = 520;
  double left = 0, low = INFINITY, high = -INFINITY;
  for (auto const& r : plot.rows) {
    left = std::max(left, detail::text_width(r.name) + 12);
    for (double const v : r.values) low = std::min(low, v), high = std::max(high, v);
  }
  if (!(low <= high)) low = 0, high = 1;
  detail::Axis const axis(low, high);
  double const bottom = top + row * static_cast<double>(plot.rows.size());
  detail::SvgText svg(left + width + 40, bottom + 42, plot.title);
  auto const across = [&](double v) { return left + width * axis.part(v); };
  for (int i = 0; i <= axis.ticks(); ++i) {
    double const v = axis.low + axis.step * i;
    svg.line(across(v), top, across(v), bottom, detail::faint);
    svg.write(across(v), bottom + 16, fixed_text(v, axis.digits()), "text-anchor=\"middle\"");
  }
  svg.write(left + width / 2, bottom + 34, plot.unit, "text-anchor=\"middle\"");
  for (std::size_t i = 0; i < plot.rows.size(); ++i) {
    auto const& r = plot.rows[i];
    double const y = top + row * (static_cast<double>(i) + 0.5);
    svg.write(left - 8, y + 4, r.name, "text-anchor=\"end\"");
    double mean = 0;
    for (double const v : r.values) mean += v / static_cast<double>(r.values.size());
    for (double const v : r.values)
      svg.circle(across(v), y, 3.5, "fill=\"#3b6fb6\" fill-opacity=\"0.6\"",
                 r.name + ": " + fixed_text(v, plot.digits));
    if (!r.values.empty()) svg.line(across(mean), y - 8, across(mean), y + 8, "stroke=\"#d9822b\" stroke-width=\"3\"");
  }
  return std::move(svg).finish();
}

/// A picture outside a page: text and lines in grey, which reads on any ground.
inline std::string standing_alone(std::string const& svg) {
  return "<svg style=\"color:#777\"" + svg.substr(std::string_view("<svg").size());
}

}  // namespace moduleformer
