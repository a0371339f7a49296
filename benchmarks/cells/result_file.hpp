// SPDX-License-Identifier: MIT
#pragma once
// The file of one result: JSON that names the sources (by a hash) and the settings that it was made with, and counts only for
// those.

#include <moduleformer/core/error.hpp>
#include <moduleformer/io/file_commit.hpp>
#include <moduleformer/io/output_file.hpp>

#include <nlohmann/json.hpp>

#include <filesystem>
#include <fstream>
#include <optional>
#include <string>
#include <string_view>

#ifndef MODULEFORMER_SOURCES
#error "moduleformer: MODULEFORMER_SOURCES must be a hash of the library and this benchmark: see CMakeLists.txt"
#endif

namespace bench {

namespace mf = moduleformer;

/// What a result says it was made with.
inline std::string identity(std::string const& settings) {
  return "sources " + std::string(MODULEFORMER_SOURCES) + "; " + settings;
}

/// A result's file, whole or not there.
template <class Result>
void write_result(std::string const& settings, std::filesystem::path const& file, Result const& result, double seconds = 0) {
  nlohmann::json const json{
      {"identity", identity(settings)}, {"commit", MODULEFORMER_COMMIT}, {"seconds", seconds}, {"result", result}};
  mf::FileCommit commit{file};
  mf::write_file(commit.temporary(), json.dump(1) + "\n");
  commit.finish();
}

/// A result and what made it.
template <class Result>
struct Made {
  std::string sources;  // the hash
  std::string commit;
  double seconds = 0;   // that it took; 0 if it does not say
  Result result;
  [[nodiscard]] bool by_this_program() const { return sources == MODULEFORMER_SOURCES; }
};

/// The result, if it is there, whole, and of the same settings.
template <class Result>
std::optional<Made<Result>> read_result(std::string const& settings, std::filesystem::path const& file) {
  std::ifstream stream(file);
  auto const json = nlohmann::json::parse(stream, nullptr, false);
  if (!json.is_object()) return {};
  try {
    std::string const found = json.at("identity"), first = "sources ", rest = "; " + settings;
    if (!found.starts_with(first) || !found.ends_with(rest) || found.size() < first.size() + rest.size()) return {};
    return Made<Result>{found.substr(first.size(), found.size() - first.size() - rest.size()), json.at("commit"),
                        json.value("seconds", 0.0), json.at("result").get<Result>()};
  } catch (nlohmann::json::exception const&) {
    return {};
  }
}

/// What made all results of a report.
struct Maker {
  std::string sources, commit;

  /// Throws Error for a result of other sources than those before; `what` names it.
  template <class Result>
  void expect_same(Made<Result> const& made, std::string const& what) {
    if (sources.empty()) sources = made.sources, commit = made.commit;
    mf::expects(sources == made.sources, what, " is of commit ", made.commit, ", others are of ", commit,
                ": make one report of each");
  }
};

}  // namespace bench
