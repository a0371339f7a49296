// SPDX-License-Identifier: MIT
#pragma once
// What benchmarks print: a table in Markdown, a line as soon as it is measured, or one JSON object at the end.

#include "floors.hpp"

#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <ctime>
#include <string>
#include <utility>
#include <vector>

namespace bench {

/// Facts in order, as text for people and as JSON.
class Facts {
 public:
  void add(std::string const& key, double value) { items_.push_back({key, number(value), false}); }
  void add(std::string const& key, Index value) { items_.push_back({key, std::to_string(value), false}); }
  void add(std::string const& key, std::string const& value) { items_.push_back({key, value, true}); }
  void add(std::string const& key, char const* value) { add(key, std::string(value)); }

  void append(Facts const& others) { items_.insert(items_.end(), others.items_.begin(), others.items_.end()); }

  [[nodiscard]] std::string json() const {
    std::string out = "{";
    for (auto const& [key, value, text] : items_)
      out += (out.size() > 1 ? ", " : "") + quoted(key) + ": " + (text ? quoted(value) : value);
    return out + "}";
  }
  void print(char const* line) const {
    for (Item const& item : items_) std::printf(line, item.key.c_str(), item.value.c_str());
  }

  static std::string quoted(std::string const& text) {
    std::string out = "\"";
    for (char const c : text) {
      if (c == '"' || c == '\\') out += '\\';
      out += static_cast<unsigned char>(c) < ' ' ? ' ' : c;
    }
    return out + '"';
  }
  static std::string number(double value, int digits = 6) {
    if (!std::isfinite(value)) return "null";
    char text[40];
    std::snprintf(text, sizeof text, "%.*g", digits, value);
    return text;
  }

 private:
  struct Item {
    std::string key, value;
    bool text;
  };
  std::vector<Item> items_;
};

/// The commit that was built: from the environment, else as the build was told.
inline std::string commit() {
  if (char const* const name = std::getenv("MODULEFORMER_COMMIT")) return name;
#if defined(MODULEFORMER_COMMIT)
  return MODULEFORMER_COMMIT;
#else
  return "unknown";
#endif
}

inline std::string today() {
  std::time_t const now = std::time(nullptr);
  char text[16];
  std::strftime(text, sizeof text, "%Y-%m-%d", std::gmtime(&now));
  return text;
}

/// One measurement. Seconds 0: only its floor is known.
struct Line {
  std::string name, shape;
  Cost cost{};
  double seconds = 0;
  double dense_flops = 0;  // a second, of the vendor's dense product of equal size
  std::string note{};
};

class Report {
 public:
  /// Without times, the tables have no columns for them.
  Report(bool json, bool times, Machine machine) : json_(json), times_(times), machine_(machine) {}

  void set_machine(Machine machine) { machine_ = machine; }
  [[nodiscard]] Machine const& machine() const { return machine_; }
  [[nodiscard]] Facts& facts() { return facts_; }

  void print_facts() const {
    if (!json_) facts_.print("- %s: %s\n");
  }
  /// A table with its heading.
  void begin(std::string const& title) {
    title_ = title;
    if (json_) return;
    if (!times_)
      return (void)std::printf(
          "\n### %s\n\n| primitive | shape | GFLOP | MB | floor us | bound by |\n|---|---|---|---|---|---|\n",
          title.c_str());
    std::printf(
        "\n### %s\n\n| primitive | shape | time us | floor us | bound by | floor / time | TFLOP/s | GB/s | of dense "
        "product |\n"
        "|---|---|---|---|---|---|---|---|---|\n",
        title.c_str());
  }
  void add(Line const& line) {
    Floor const floor = floor_of(machine_, line.cost);
    if (json_) {
      Facts facts;
      facts.add("table", title_);
      facts.add("name", line.name);
      facts.add("shape", line.shape);
      if (line.seconds > 0) facts.add("seconds", line.seconds);
      facts.add("floor_seconds", floor.seconds);
      facts.add("bound", std::string(floor.bound));
      facts.add("flops", line.cost.flops);
      facts.add("bytes", line.cost.bytes);
      if (line.dense_flops > 0) facts.add("dense_flops_per_second", line.dense_flops);
      if (!line.note.empty()) facts.add("note", line.note);
      lines_.push_back(facts.json());
      return;
    }
    if (!times_)
      return (void)std::printf("| %s | %s | %s | %s | %s | %s |\n", line.name.c_str(), line.shape.c_str(),
                               Facts::number(line.cost.flops * 1e-9, 4).c_str(),
                               Facts::number(line.cost.bytes * 1e-6, 4).c_str(),
                               Facts::number(floor.seconds * 1e6, 4).c_str(), std::string(floor.bound).c_str());
    bool const timed = line.seconds > 0;
    auto const shown = [](bool known, double value) { return known ? Facts::number(value, 3) : std::string("-"); };
    std::printf("| %s | %s | %s | %s | %s | %s | %s | %s | %s |\n", line.name.c_str(),
                (line.shape + (line.note.empty() ? "" : "; " + line.note)).c_str(),
                timed ? Facts::number(line.seconds * 1e6, 4).c_str() : "-",
                Facts::number(floor.seconds * 1e6, 4).c_str(), std::string(floor.bound).c_str(),
                shown(timed, floor.seconds / line.seconds).c_str(),
                shown(timed && line.cost.flops > 0, line.cost.flops / line.seconds * 1e-12).c_str(),
                shown(timed, line.cost.bytes / line.seconds * 1e-9).c_str(),
                shown(timed && line.dense_flops > 0, line.cost.flops / line.seconds / line.dense_flops).c_str());
    std::fflush(stdout);
  }
  void finish() const {
    if (!json_) return;
    std::printf("{\"facts\": %s, \"lines\": [", facts_.json().c_str());
    for (std::size_t i = 0; i < lines_.size(); ++i) std::printf("%s\n  %s", i > 0 ? "," : "", lines_[i].c_str());
    std::printf("\n]}\n");
  }

 private:
  bool json_, times_;
  Machine machine_;
  Facts facts_;
  std::string title_;
  std::vector<std::string> lines_;
};

}  // namespace bench
