// SPDX-License-Identifier: MIT
#pragma once
// A file's bytes in memory, read-only: mapped where the system can, else read. Pages are loaded when
// they are touched, and shared between processes.

#include <moduleformer/core/error.hpp>
#include <moduleformer/core/types.hpp>
#include <moduleformer/io/file_system.hpp>

#include <cstddef>
#include <filesystem>
#include <limits>
#include <span>
#include <string>
#include <utility>

#if MODULEFORMER_POSIX
#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#else
#include <fstream>
#include <vector>
#endif

namespace moduleformer {

/// Owns the mapping of one regular file. Shortening the file while it is mapped ends the process with
/// SIGBUS when the lost pages are touched; FolderCommit replaces files and never shortens one.
class MappedFile {
 public:
  /// Throws Error, naming the file and the system's reason, if it cannot be opened or mapped.
  explicit MappedFile(std::filesystem::path path);
  MappedFile(MappedFile&& other) noexcept { swap(other); }
  MappedFile& operator=(MappedFile&& other) noexcept {
    swap(other);
    return *this;
  }
  ~MappedFile();

  [[nodiscard]] std::filesystem::path const& path() const { return path_; }
  [[nodiscard]] std::byte const* data() const { return data_; }
  [[nodiscard]] Index size() const { return size_; }
  [[nodiscard]] std::span<std::byte const> bytes() const { return {data_, static_cast<std::size_t>(size_)}; }

 private:
  void swap(MappedFile& other) noexcept {
    std::swap(path_, other.path_);
    std::swap(data_, other.data_);
    std::swap(size_, other.size_);
#if !MODULEFORMER_POSIX
    std::swap(content_, other.content_);
#endif
  }

  std::filesystem::path path_;
  std::byte const* data_ = nullptr;
  Index size_ = 0;
#if !MODULEFORMER_POSIX
  std::vector<std::byte> content_;
#endif
};

#if MODULEFORMER_POSIX

inline MappedFile::MappedFile(std::filesystem::path path) : path_(std::move(path)) {
  // O_NONBLOCK: opening a pipe must fail below, not wait for a writer.
  FileDescriptor const file{::open(path_.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK)};
  if (!file.is_open()) fail_with_errno(errno, "cannot open ", path_);
  struct stat status {};
  if (::fstat(file.get(), &status) != 0) fail_with_errno(errno, "cannot ask for the size of ", path_);
  expects(S_ISREG(status.st_mode), "cannot read ", path_, ": not a regular file");
  if (status.st_size == 0) return;  // an empty mapping does not exist
  if constexpr (sizeof(std::size_t) < sizeof(status.st_size)) {
    expects(static_cast<unsigned long long>(status.st_size) <= std::numeric_limits<std::size_t>::max(), "cannot map ",
            path_, ": larger than this process's address space");
  }
  void* const address =
      ::mmap(nullptr, static_cast<std::size_t>(status.st_size), PROT_READ, MAP_PRIVATE, file.get(), 0);
  if (address == MAP_FAILED) fail_with_errno(errno, "cannot map ", path_, " (", status.st_size, " bytes)");
  data_ = static_cast<std::byte const*>(address);
  size_ = static_cast<Index>(status.st_size);
}

inline MappedFile::~MappedFile() {
  if (data_ != nullptr) ::munmap(const_cast<std::byte*>(data_), static_cast<std::size_t>(size_));
}

#else

inline MappedFile::MappedFile(std::filesystem::path path) : path_(std::move(path)) {
  std::error_code code;
  expects(std::filesystem::is_regular_file(path_, code), "cannot read ", path_, ": not a regular file");
  auto const size = std::filesystem::file_size(path_, code);
  expects_no_error(code, "cannot ask for the size of ", path_);
  content_.resize(static_cast<std::size_t>(size));
  std::ifstream stream{path_, std::ios::binary};
  stream.read(reinterpret_cast<char*>(content_.data()), static_cast<std::streamsize>(size));
  expects(static_cast<bool>(stream), "cannot read the ", size, " bytes of ", path_);
  data_ = content_.data();
  size_ = static_cast<Index>(size);
}

inline MappedFile::~MappedFile() = default;

#endif

}  // namespace moduleformer
