// SPDX-License-Identifier: MIT
#include "values.hpp"

#include <fmt/core.h>

#include <charconv>
#include <cmath>
#include <system_error>

namespace cli {

namespace {

/// Whether the whole text is a value of this type.
template <class T>
bool parse(std::string const& text, T& value) {
  auto const* const end = text.data() + text.size();
  auto const [last, error] = std::from_chars(text.data(), end, value);
  return error == std::errc{} && last == end;
}

template <class T>
CLI::Validator integer_between(T low, T high) {
  return {[=](std::string const& text) {
            T value{};
            bool const fits = parse(text, value) && value >= low && value <= high;
            return fits ? std::string() : fmt::format("expected an integer from {} to {}, found '{}'", low, high, text);
          },
          ""};
}

std::string describe(Range const& range) {
  std::string text = "a finite number";
  if (std::isfinite(range.low)) text = fmt::format("a number {} {}", range.above ? "above" : "from", range.low);
  if (std::isfinite(range.high)) text += fmt::format(" to {}{}", range.below ? "below " : "", range.high);
  return text;
}

}  // namespace

CLI::Validator number(Range range) {
  return {[=](std::string const& text) {
            double value = 0;
            bool const fits = parse(text, value) && std::isfinite(value) &&
                              (range.above ? value > range.low : value >= range.low) &&
                              (range.below ? value < range.high : value <= range.high);
            return fits ? std::string() : fmt::format("expected {}, found '{}'", describe(range), text);
          },
          ""};
}

CLI::Validator integer(moduleformer::Index low, moduleformer::Index high) { return integer_between(low, high); }

CLI::Validator seed() { return integer_between(std::uint64_t{0}, std::numeric_limits<std::uint64_t>::max()); }

CLI::Validator named() {
  return {[](std::string const& text) {
            return text.empty() ? std::string("expected a name, found an empty one") : std::string();
          },
          ""};
}

}  // namespace cli
