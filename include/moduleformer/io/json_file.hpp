// SPDX-License-Identifier: MIT
#pragma once
// Reads a JSON file strictly: a key that stands twice, or a tree deeper than asked for, is an error.

#include <moduleformer/core/error.hpp>
#include <moduleformer/io/mapped_file.hpp>
#include <moduleformer/io/stored_tensor.hpp>

#include <nlohmann/json.hpp>

#include <cstddef>
#include <filesystem>
#include <set>
#include <string>
#include <string_view>
#include <vector>

namespace moduleformer {

/// The file's value. Throws Error if it cannot be opened; FormatError, naming file and byte or key, if it
/// is not JSON, repeats a key, or nests objects and arrays deeper than max_depth.
inline nlohmann::json read_json(std::filesystem::path const& path, int max_depth = 16) {
  using nlohmann::json;
  MappedFile const file{path};
  auto const* const text = reinterpret_cast<char const*>(file.data());
  std::vector<std::set<std::string>> keys(static_cast<std::size_t>(max_depth) + 1);  // of the open objects
  auto const check = [&](int depth, json::parse_event_t event, json& value) {
    if (event == json::parse_event_t::key) {
      auto const& key = value.get_ref<std::string const&>();
      if (!keys[static_cast<std::size_t>(depth)].insert(key).second) {
        fail<FormatError>(path, ": the key ", quoted_name(key), " stands twice");
      }
    } else if (event == json::parse_event_t::object_start || event == json::parse_event_t::array_start) {
      // Before the value is built, so that a hostile tree never is.
      if (depth >= max_depth) fail<FormatError>(path, ": nested deeper than ", max_depth, " levels");
      keys[static_cast<std::size_t>(depth) + 1].clear();
    }
    return true;
  };
  // The parser takes a zero byte for the end of its input.
  auto const zero = std::string_view{text, static_cast<std::size_t>(file.size())}.find('\0');
  if (zero != std::string_view::npos) fail<FormatError>(path, ": zero byte in JSON at byte ", zero);
  try {
    return json::parse(text, text + file.size(), check);
  } catch (json::parse_error const& error) {
    fail<FormatError>(path, ": not JSON at byte ", error.byte, ": ", std::string_view{error.what()}.substr(0, 300));
  } catch (json::exception const& error) {
    fail<FormatError>(path, ": not JSON: ", std::string_view{error.what()}.substr(0, 300));
  }
}

}  // namespace moduleformer
