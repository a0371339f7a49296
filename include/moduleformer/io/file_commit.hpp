// SPDX-License-Identifier: MIT
#pragma once
// Replaces a single file as a whole or not at all: it is written to <name>.tmp-<pid> beside the old one, flushed, and
// renamed. Whole folders: folder_commit.hpp.

#include <moduleformer/core/error.hpp>
#include <moduleformer/io/file_system.hpp>

#include <filesystem>
#include <string>
#include <system_error>

namespace moduleformer {

/// One replacement of a file. If finish() is not reached, nothing has changed.
///
///     FileCommit commit{"routes.safetensors"};
///     write_safetensors(commit.temporary(), tensors);
///     commit.finish();
class FileCommit {
 public:
  /// Throws Error if the target is something else than a file. A symbolic link is followed.
  explicit FileCommit(std::filesystem::path const& target) {
    expects(!target.empty(), "expected a file's name, found none");
    std::error_code code;
    target_ = std::filesystem::weakly_canonical(std::filesystem::absolute(target, code), code);
    expects_no_error(code, "cannot resolve the file ", target);
    auto const status = std::filesystem::status(target_, code);
    expects(!std::filesystem::exists(status) || std::filesystem::is_regular_file(status), target,
            ": expected a file, found something else");
    temporary_ = target_;
    temporary_ += ".tmp-" + std::to_string(current_process());
  }
  FileCommit(FileCommit const&) = delete;
  FileCommit& operator=(FileCommit const&) = delete;
  ~FileCommit() {
    std::error_code ignored;
    if (!finished_) std::filesystem::remove(temporary_, ignored);
  }

  /// Where to write. The file must be flushed when it is closed, as OutputFile does.
  [[nodiscard]] std::filesystem::path const& temporary() const { return temporary_; }

  /// Puts the file in its place. On Error the old one is as it was.
  void finish() {
    std::error_code code;
    std::filesystem::rename(temporary_, target_, code);
    expects_no_error(code, "cannot rename ", temporary_, " to ", target_);
    finished_ = true;
    sync_to_disk(target_.parent_path());
  }

 private:
  std::filesystem::path target_, temporary_;
  bool finished_ = false;
};

}  // namespace moduleformer
