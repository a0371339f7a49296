// SPDX-License-Identifier: MIT
#pragma once
// Typed reading of one object of a JSON file: every error names file, key, what was expected and found.

#include <moduleformer/core/error.hpp>
#include <moduleformer/core/types.hpp>
#include <moduleformer/io/stored_tensor.hpp>

#include <nlohmann/json.hpp>

#include <cmath>
#include <cstdint>
#include <filesystem>
#include <limits>
#include <optional>
#include <set>
#include <string>
#include <string_view>
#include <utility>

namespace moduleformer {

/// A value from a file, fit for a message.
inline std::string quoted_value(nlohmann::json const& value) {
  if (value.is_string()) return quoted_name(value.get_ref<std::string const&>());
  if (value.is_object()) return "an object";
  if (value.is_array()) return "an array";
  return value.dump(-1, ' ', true, nlohmann::json::error_handler_t::replace);
}

/// A JSON object that remembers which of its keys were asked for. It refers to the value given.
class JsonObject {
 public:
  using Json = nlohmann::json;

  /// `inside` stands before each key in messages: "moduleformer." for a nested object.
  JsonObject(Json const& value, std::filesystem::path file, std::string inside = {})
      : value_(value), file_(std::move(file)), inside_(std::move(inside)) {
    if (!value.is_object()) {
      std::string const name = inside_.empty() ? "" : inside_.substr(0, inside_.size() - 1) + ": ";
      fail<FormatError>(file_, ": ", name, "expected an object, found ", quoted_value(value));
    }
  }

  /// Nothing if the key is absent.
  Json const* find(std::string_view key) {
    asked_.emplace(key);
    auto const place = value_.find(key);
    return place == value_.end() ? nullptr : &*place;
  }

  /// An integer; the fallback stands for an absent key, without one the key is required.
  Index integer(std::string_view key, std::optional<Index> fallback = {}) {
    auto const* const found = find_or_fail(key, fallback.has_value());
    if (found == nullptr) return *fallback;
    return integer_of(key, *found);
  }
  Index integer_of(std::string_view key, Json const& value) const {
    bool const too_large =
        value.is_number_unsigned() && value.get<std::uint64_t>() > static_cast<std::uint64_t>(std::numeric_limits<Index>::max());
    if (!value.is_number_integer() || too_large) refuse(key, "an integer", value);
    return value.get<Index>();
  }
  double number(std::string_view key, std::optional<double> fallback = {}) {
    auto const* const found = find_or_fail(key, fallback.has_value());
    if (found == nullptr) return *fallback;
    if (!found->is_number()) refuse(key, "a number", *found);
    return found->get<double>();
  }
  bool boolean(std::string_view key, bool fallback) {
    auto const* const found = find(key);
    if (found == nullptr) return fallback;
    if (!found->is_boolean()) refuse(key, "true or false", *found);
    return found->get<bool>();
  }
  std::string text(std::string_view key, std::optional<std::string> fallback = {}) {
    auto const* const found = find_or_fail(key, fallback.has_value());
    if (found == nullptr) return *fallback;
    if (!found->is_string()) refuse(key, "a string", *found);
    return found->get<std::string>();
  }

  /// The members that nobody asked for.
  [[nodiscard]] Json rest() const {
    Json others = Json::object();
    for (auto const& [key, value] : value_.items())
      if (!asked_.contains(key)) others[key] = value;
    return others;
  }

  [[noreturn]] void refuse(std::string_view key, std::string_view expected, Json const& found) const {
    fail<FormatError>(file_, ": ", inside_, key, ": expected ", expected, ", found ", quoted_value(found));
  }
  template <class... Parts>
  [[noreturn]] void refuse_as(std::string_view key, Parts const&... parts) const {
    fail<FormatError>(file_, ": ", inside_, key, ": ", parts...);
  }

 private:
  Json const* find_or_fail(std::string_view key, bool optional) {
    auto const* const found = find(key);
    if (found == nullptr && !optional) fail<FormatError>(file_, ": the key ", inside_, key, " is missing");
    return found;
  }

  Json const& value_;
  std::filesystem::path file_;
  std::string inside_;
  std::set<std::string, std::less<>> asked_;
};

}  // namespace moduleformer
