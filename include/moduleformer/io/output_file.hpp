// SPDX-License-Identifier: MIT
#pragma once
// A new file, written front to back. Every failure (full disk, quota, no permission, device error,
// also one that only shows when flushing or closing) is an Error that names file, byte and reason.

#include <moduleformer/core/error.hpp>
#include <moduleformer/core/types.hpp>
#include <moduleformer/io/file_system.hpp>

#include <cstddef>
#include <filesystem>
#include <span>
#include <string_view>
#include <utility>

#if MODULEFORMER_POSIX
#include <fcntl.h>
#include <sys/stat.h>
#else
#include <fstream>
#endif

namespace moduleformer {

/// Writes one file. A regular file that was not closed with close() is removed again.
class OutputFile {
 public:
  /// Creates the file, or empties an existing one.
  explicit OutputFile(std::filesystem::path path);
  OutputFile(OutputFile const&) = delete;
  OutputFile& operator=(OutputFile const&) = delete;
  ~OutputFile();

  /// Appends the bytes.
  void write(std::span<std::byte const> bytes);
  void write(std::string_view text) { write(std::as_bytes(std::span{text.data(), text.size()})); }

  /// Flushes the content to the disk and closes the file.
  void close();

  [[nodiscard]] std::filesystem::path const& path() const { return path_; }
  /// Bytes written so far.
  [[nodiscard]] Index size() const { return size_; }

 private:
  std::filesystem::path path_;
  Index size_ = 0;
  bool is_regular_ = true;
#if MODULEFORMER_POSIX
  FileDescriptor file_;
#else
  std::ofstream file_;
#endif
};

/// Writes a whole file and flushes it to the disk.
inline void write_file(std::filesystem::path const& path, std::string_view text) {
  OutputFile file{path};
  file.write(text);
  file.close();
}

#if MODULEFORMER_POSIX

inline OutputFile::OutputFile(std::filesystem::path path) : path_(std::move(path)) {
  file_ = FileDescriptor{::open(path_.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0666)};
  if (!file_.is_open()) fail_with_errno(errno, "cannot create ", path_);
  struct stat status {};
  is_regular_ = ::fstat(file_.get(), &status) == 0 && S_ISREG(status.st_mode);
}

inline OutputFile::~OutputFile() {
  // A device such as /dev/full must stay.
  if (file_.is_open() && is_regular_) ::unlink(path_.c_str());
}

inline void OutputFile::write(std::span<std::byte const> bytes) {
  while (!bytes.empty()) {
    auto const written = ::write(file_.get(), bytes.data(), bytes.size());
    if (written < 0 && errno == EINTR) continue;
    if (written <= 0) fail_with_errno(written < 0 ? errno : EIO, "cannot write ", path_, " at byte ", size_);
    size_ += static_cast<Index>(written);
    bytes = bytes.subspan(static_cast<std::size_t>(written));
  }
}

inline void OutputFile::close() {
  if (int const error = sync_descriptor(file_.get()); error != 0) {
    fail_with_errno(error, "cannot flush ", path_, " (", size_, " bytes) to the disk");
  }
  if (::close(file_.release()) != 0 && errno != EINTR) {
    int const error = errno;
    if (is_regular_) ::unlink(path_.c_str());
    fail_with_errno(error, "cannot close ", path_, " (", size_, " bytes)");
  }
}

#else

inline OutputFile::OutputFile(std::filesystem::path path)
    : path_(std::move(path)), file_(path_, std::ios::binary | std::ios::trunc) {
  expects(file_.is_open(), "cannot create ", path_);
}

inline OutputFile::~OutputFile() {
  if (!file_.is_open()) return;
  file_.close();
  std::error_code ignored;
  std::filesystem::remove(path_, ignored);
}

inline void OutputFile::write(std::span<std::byte const> bytes) {
  file_.write(reinterpret_cast<char const*>(bytes.data()), static_cast<std::streamsize>(bytes.size()));
  expects(static_cast<bool>(file_), "cannot write ", path_, " at byte ", size_);
  size_ += static_cast<Index>(bytes.size());
}

inline void OutputFile::close() {
  file_.close();
  expects(!file_.fail(), "cannot write ", path_, " (", size_, " bytes)");
}

#endif

}  // namespace moduleformer
