// SPDX-License-Identifier: MIT
#pragma once
// What saving and loading need of the operating system and the standard library lacks: errno texts,
// owned descriptors, flushing to the disk, exchanging two folders in one step, locking a folder,
// asking whether a process lives. Elsewhere than on POSIX these do as little as is correct.

#include <moduleformer/core/error.hpp>

#include <cerrno>
#include <filesystem>
#include <optional>
#include <string>
#include <system_error>
#include <utility>

#if defined(__unix__) || defined(__APPLE__)
#define MODULEFORMER_POSIX 1
#include <fcntl.h>
#include <signal.h>
#include <sys/file.h>
#include <unistd.h>
#else
#define MODULEFORMER_POSIX 0
#include <random>
#endif
#if defined(__linux__)
#include <sys/syscall.h>
#endif

namespace moduleformer {

/// Throws Error with the parts, followed by the system's text for the error number.
template <class... Parts>
[[noreturn]] void fail_with_errno(int number, Parts const&... parts) {
  fail<Error>(parts..., ": ", std::generic_category().message(number));
}

/// Throws Error with the parts, followed by the text of the code, if the code is an error.
template <class... Parts>
void expects_no_error(std::error_code const& code, Parts const&... parts) {
  if (code) fail<Error>(parts..., ": ", code.message());
}

#if MODULEFORMER_POSIX

/// Owns an open descriptor.
class FileDescriptor {
 public:
  FileDescriptor() = default;
  explicit FileDescriptor(int value) : value_(value) {}
  FileDescriptor(FileDescriptor&& other) noexcept : value_(std::exchange(other.value_, -1)) {}
  FileDescriptor& operator=(FileDescriptor&& other) noexcept {
    std::swap(value_, other.value_);
    return *this;
  }
  ~FileDescriptor() {
    if (value_ >= 0) ::close(value_);
  }

  [[nodiscard]] int get() const { return value_; }
  [[nodiscard]] bool is_open() const { return value_ >= 0; }
  /// Gives the descriptor away.
  [[nodiscard]] int release() { return std::exchange(value_, -1); }

 private:
  int value_ = -1;
};

/// Flushes a descriptor; 0 or the error number. Things that cannot be flushed (pipes, some network
/// folders) count as flushed.
inline int sync_descriptor(int descriptor) {
  while (::fsync(descriptor) != 0) {
    if (errno == EINTR) continue;
    return errno == EINVAL || errno == ENOTSUP ? 0 : errno;
  }
  return 0;
}

/// Flushes a file's content, or a folder's entries, to the disk. What may be written but not read cannot
/// be opened for that, and is left to the system.
inline void sync_to_disk(std::filesystem::path const& path) {
  FileDescriptor const descriptor{::open(path.c_str(), O_RDONLY | O_CLOEXEC)};
  if (!descriptor.is_open() && errno == EACCES) return;
  if (!descriptor.is_open()) fail_with_errno(errno, "cannot open ", path, " to flush it to the disk");
  if (int const error = sync_descriptor(descriptor.get()); error != 0) {
    fail_with_errno(error, "cannot flush ", path, " to the disk");
  }
}

inline long current_process() { return static_cast<long>(::getpid()); }

/// Whether the process exists; true when in doubt.
inline bool process_lives(long process) { return ::kill(static_cast<pid_t>(process), 0) == 0 || errno != ESRCH; }

using FolderLock = FileDescriptor;

/// A lock on the folder that ends with the returned object or the process; nothing if somebody else
/// holds it. Where folders cannot be locked the result is a lock that excludes nobody.
inline std::optional<FolderLock> try_lock_folder(std::filesystem::path const& folder) {
  FolderLock lock{::open(folder.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC)};
  if (lock.is_open() && ::flock(lock.get(), LOCK_EX | LOCK_NB) != 0 && errno == EWOULDBLOCK) return std::nullopt;
  return lock;
}

#else

inline void sync_to_disk(std::filesystem::path const&) {}

inline long current_process() {
  static long const number = static_cast<long>(std::random_device{}() >> 2);
  return number;
}

inline bool process_lives(long) { return true; }

struct FolderLock {};

inline std::optional<FolderLock> try_lock_folder(std::filesystem::path const&) { return FolderLock{}; }

#endif

/// Exchanges two folders in one step; false where system or file system cannot, with nothing done.
[[nodiscard]] inline bool exchange_folders(std::filesystem::path const& a, std::filesystem::path const& b) {
#if defined(__linux__) && defined(SYS_renameat2)
  constexpr unsigned exchange = 2;  // RENAME_EXCHANGE of <linux/fs.h>, whose macros are too many to include
  if (::syscall(SYS_renameat2, AT_FDCWD, a.c_str(), AT_FDCWD, b.c_str(), exchange) == 0) return true;
  // EPERM: how sandboxes refuse calls that they do not know.
  if (errno == ENOSYS || errno == EINVAL || errno == ENOTSUP || errno == EPERM) return false;
  fail_with_errno(errno, "cannot exchange ", a, " and ", b);
#else
  static_cast<void>(a), static_cast<void>(b);
  return false;
#endif
}

}  // namespace moduleformer
