// SPDX-License-Identifier: MIT
#pragma once
// How the program ends.

#include <moduleformer/core/error.hpp>

#include <unistd.h>

#include <filesystem>
#include <stdexcept>
#include <string>
#include <system_error>
#include <vector>

namespace cli {

/// Exit statuses; 128 + signal after an interruption.
enum Status : int { success = 0, failure = 1, wrong_usage = 2, drifted = 3 };

/// Options that contradict each other or the model: status 2. Everything else that is thrown: 1.
class UsageError : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

/// An output that would replace one of the inputs, or a file of the model, is wrong usage. Throws Error for one that is
/// a folder or may not be written, or whose folder is not there or not writable, before work is done for it.
inline void check_output(std::string const& output, std::string const& model, std::vector<std::string> const& inputs) {
  namespace fs = std::filesystem;
  std::error_code ignored;
  for (std::string const& input : inputs)
    if (fs::equivalent(output, input, ignored)) throw UsageError(output + ": the output would replace an input");
  fs::path const place = fs::absolute(output).lexically_normal();
  bool const model_file = place.extension() == ".safetensors" || place.extension() == ".json";
  if (model_file && fs::equivalent(place.parent_path(), model, ignored))
    throw UsageError(output + ": the output would stand among the model's own files");
  moduleformer::expects(!fs::is_directory(place, ignored), output, ": expected a file, found a folder");
  moduleformer::expects(!fs::exists(place, ignored) || ::access(place.c_str(), W_OK) == 0, output,
                        ": it is not writable");
  fs::path const folder = place.parent_path();
  moduleformer::expects(fs::is_directory(folder, ignored), output, ": the folder ", folder, " does not exist");
  moduleformer::expects(::access(folder.c_str(), W_OK) == 0, output, ": the folder ", folder, " is not writable");
}

}  // namespace cli
