// SPDX-License-Identifier: MIT
#pragma once
// A command line without a library: --name value and --flag, each asked for once; what nobody asked for is an error.

#include <charconv>
#include <cstdio>
#include <cstdlib>
#include <string>
#include <string_view>
#include <type_traits>
#include <vector>

namespace bench {

class Arguments {
 public:
  Arguments(int argc, char const* const* argv)
      : program_(argv[0]), words_(argv + 1, argv + argc), used_(words_.size()) {}

  void flag(std::string_view name, bool& value, std::string_view help) {
    describe(name, value ? "true" : "false", help);
    for (std::size_t i = 0; i < words_.size(); ++i)
      if (words_[i] == name && !used_[i]) used_[i] = value = true;
  }

  /// A number from `least`, or a text.
  template <class T>
  void option(std::string_view name, T& value, std::string_view help, T least = {}) {
    if constexpr (std::is_arithmetic_v<T>) describe(name, std::to_string(value), help);
    else describe(name, value, help);
    for (std::size_t i = 0; i < words_.size(); ++i) {
      if (words_[i] != name || used_[i]) continue;
      used_[i] = true;
      if (i + 1 == words_.size()) stop(std::string(name) + " needs a value");
      used_[i + 1] = true;
      std::string const& word = words_[i + 1];
      if constexpr (std::is_arithmetic_v<T>) {
        auto const [end, error] = std::from_chars(word.data(), word.data() + word.size(), value);
        if (error != std::errc{} || end != word.data() + word.size() || value < least)
          stop(std::string(name) + ": expected a number from " + std::to_string(least) + ", found " + word);
      } else {
        value = word;
      }
    }
  }

  /// To be called after all were asked for: ends the program for --help and for words that nothing took.
  void finish(std::string_view purpose) {
    bool help = false;
    flag("--help", help, "print this and stop");
    if (help) {
      std::printf("%s\n%.*s\n", program_.c_str(), static_cast<int>(purpose.size()), purpose.data());
      for (std::string const& line : help_) std::printf("%s\n", line.c_str());
      std::exit(0);
    }
    for (std::size_t i = 0; i < words_.size(); ++i)
      if (!used_[i]) stop("unknown argument " + words_[i] + "; --help lists all");
  }

 private:
  void describe(std::string_view name, std::string const& value, std::string_view help) {
    std::string line = "  " + std::string(name);
    line.resize(line.size() < 24 ? 24 : line.size() + 1, ' ');
    help_.push_back(line + std::string(help) + " [" + value + "]");
  }
  [[noreturn]] void stop(std::string const& sentence) const {
    std::fprintf(stderr, "%s: %s\n", program_.c_str(), sentence.c_str());
    std::exit(2);
  }

  std::string program_;
  std::vector<std::string> words_;
  std::vector<bool> used_;
  std::vector<std::string> help_;
};

}  // namespace bench
