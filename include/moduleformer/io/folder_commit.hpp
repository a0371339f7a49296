// SPDX-License-Identifier: MIT
#pragma once
// Replaces a folder as a whole or not at all. Files are written into <name>.tmp-<pid> beside <name>,
// flushed to the disk, and swapped in by one atomic exchange; killed at any moment, <name> is the old
// folder or the new one. Where the system has no exchange, <name> is first moved to <name>.old, which
// readers fall back to (resolve_folder) and the next commit moves back.

#include <moduleformer/core/error.hpp>
#include <moduleformer/io/file_system.hpp>
#include <moduleformer/io/output_file.hpp>

#include <algorithm>
#include <charconv>
#include <filesystem>
#include <functional>
#include <optional>
#include <string>
#include <string_view>
#include <system_error>
#include <utility>

namespace moduleformer {

struct CommitOptions {
  /// Files of the old folder, by path inside it, that are not carried over although the new folder lacks them.
  std::function<bool(std::string_view path)> drops;
  /// False: go through <name>.old even where folders can be exchanged.
  bool use_exchange = true;
};

/// The folder to read: the given one, or what an interrupted commit left as <name>.old.
/// Throws Error if there is neither.
std::filesystem::path resolve_folder(std::filesystem::path const& folder);

/// One replacement of a folder. If finish() is not reached, nothing has changed.
///
///     FolderCommit commit{"my-model"};
///     write_file(commit.path("config.json"), text);
///     commit.finish();
class FolderCommit {
 public:
  /// Creates the temporary folder (and missing parents), and removes those that dead processes left.
  /// Throws Error if the target is something else than a folder, contains the current directory, or if
  /// its parent cannot be written.
  explicit FolderCommit(std::filesystem::path const& target, CommitOptions options = {});
  FolderCommit(FolderCommit const&) = delete;
  FolderCommit& operator=(FolderCommit const&) = delete;
  ~FolderCommit();

  /// Where to write the file; makes the subfolders of its name.
  [[nodiscard]] std::filesystem::path path(std::filesystem::path const& name) const;
  /// The temporary folder.
  [[nodiscard]] std::filesystem::path const& folder() const { return temporary_; }
  /// The folder to be replaced, symbolic links resolved.
  [[nodiscard]] std::filesystem::path const& target() const { return target_; }

  /// Flushes what was written, carries over the old folder's other files, swaps, removes the old folder.
  /// On Error the target is the old folder as it was, or, if only flushing its parent failed, the new one.
  void finish();

 private:
  using Path = std::filesystem::path;

  void remove_old() const;
  void recover_old() const;
  void remove_stale() const;
  void sync_files() const;
  void carry_over(Path const& from, Path const& to, Path const& inside) const;
  void sync_folders() const;
  void swap_in();
  void swap_by_old();

  CommitOptions options_;
  Path target_, parent_, temporary_, old_;
  std::optional<FolderLock> lock_;  // tells other processes that the temporary folder is in use
  bool finished_ = false;
};

namespace detail {

/// Lies in a <name>.old that a commit made, to tell it from a user's own folder of that name.
inline constexpr char const* replaced_marker = ".replaced-by-save";

inline bool is_replaced_folder(std::filesystem::path const& folder) {
  std::error_code ignored;
  return std::filesystem::exists(folder / replaced_marker, ignored);
}

inline std::filesystem::path with_suffix(std::filesystem::path path, std::string const& suffix) {
  path += suffix;
  return path;
}

/// The real path of a folder that may not exist yet.
inline std::filesystem::path real_folder(std::filesystem::path const& given) {
  expects(!given.empty(), "expected a folder's name, found none");
  std::error_code code;
  auto path = std::filesystem::weakly_canonical(std::filesystem::absolute(given, code), code);
  expects_no_error(code, "cannot resolve the folder ", given);
  return path.has_filename() ? path : path.parent_path();
}

/// Whether the current directory is the folder or lies in it.
inline bool contains_current_path(std::filesystem::path const& folder) {
  std::error_code code;
  auto const inside = std::filesystem::current_path(code).lexically_relative(folder);
  return !code && !inside.empty() && *inside.begin() != "..";
}

}  // namespace detail

inline std::filesystem::path resolve_folder(std::filesystem::path const& folder) {
  std::error_code code;
  if (std::filesystem::is_directory(folder, code)) return folder;
  expects(!std::filesystem::exists(folder, code), folder, " is not a folder");
  auto const old = detail::with_suffix(detail::real_folder(folder), ".old");
  expects(std::filesystem::is_directory(old, code), folder, ": no such folder");
  return old;
}

inline FolderCommit::FolderCommit(Path const& target, CommitOptions options)
    : options_(std::move(options)), target_(detail::real_folder(target)), parent_(target_.parent_path()) {
  namespace fs = std::filesystem;
  std::error_code code;
  expects(parent_ != target_ && !detail::contains_current_path(target_), target_,
          " cannot be replaced: the current directory is inside; save from elsewhere or under another name");
  auto const type = fs::symlink_status(target_, code).type();
  expects(type == fs::file_type::directory || type == fs::file_type::not_found || type == fs::file_type::none, target_,
          " exists and is not a folder");
  auto existing = parent_;
  while (existing.has_relative_path() && !fs::exists(existing, code)) existing = existing.parent_path();
  fs::create_directories(parent_, code);
  expects_no_error(code, "cannot create the folder ", parent_);
  for (auto made = parent_; made != existing; made = made.parent_path()) sync_to_disk(made.parent_path());
  old_ = detail::with_suffix(target_, ".old");
  temporary_ = detail::with_suffix(target_, ".tmp-" + std::to_string(current_process()));
  remove_stale();
  recover_old();
  bool const is_new = fs::create_directory(temporary_, code);
  expects_no_error(code, "cannot create ", temporary_, " to save ", target_);
  if (is_new) lock_ = try_lock_folder(temporary_);
  expects(lock_.has_value(), target_, " is being saved already: ", temporary_, " is in use");
}

inline FolderCommit::~FolderCommit() {
  std::error_code ignored;
  if (!finished_) std::filesystem::remove_all(temporary_, ignored);
}

inline std::filesystem::path FolderCommit::path(Path const& name) const {
  bool const leaves = std::ranges::any_of(name, [](Path const& part) { return part == ".."; });
  expects(name.is_relative() && name.has_filename() && !leaves, "expected the name of a file inside ", target_,
          ", found ", name);
  std::error_code code;
  auto const file = temporary_ / name;
  std::filesystem::create_directories(file.parent_path(), code);
  expects_no_error(code, "cannot create the folder ", file.parent_path());
  return file;
}

/// Under a temporary name first: killed half-way, <name>.old must not stay without its marker.
inline void FolderCommit::remove_old() const {
  std::error_code code;
  std::filesystem::rename(old_, temporary_, code);
  if (!code) std::filesystem::remove_all(temporary_, code);
}

/// Completes or undoes what a commit through <name>.old left when it was killed.
inline void FolderCommit::recover_old() const {
  std::error_code code;
  if (detail::is_replaced_folder(old_)) {
    if (std::filesystem::exists(target_, code)) {
      remove_old();
    } else {
      std::filesystem::rename(old_, target_, code);
      expects_no_error(code, "cannot restore ", target_, " from ", old_);
    }
  }
  std::filesystem::remove(target_ / detail::replaced_marker, code);
}

/// Removes temporary folders of this target whose process is dead. One with our own number is of an
/// earlier process (in containers numbers repeat), unless it is locked.
inline void FolderCommit::remove_stale() const {
  namespace fs = std::filesystem;
  std::string const prefix = target_.filename().string() + ".tmp-";
  std::error_code code;
  for (fs::directory_iterator entry{parent_, code}, end; !code && entry != end; entry.increment(code)) {
    std::string const name = entry->path().filename().string();
    if (!name.starts_with(prefix)) continue;
    long process = 0;
    auto const* const last = name.data() + name.size();
    auto const parsed = std::from_chars(name.data() + prefix.size(), last, process);
    std::error_code ignored;
    bool const is_ours = parsed.ec == std::errc{} && parsed.ptr == last && process > 0 &&
                         entry->symlink_status(ignored).type() == fs::file_type::directory;
    if (!is_ours || (process != current_process() && process_lives(process))) continue;
    if (auto const lock = try_lock_folder(entry->path())) fs::remove_all(entry->path(), ignored);
  }
}

inline void FolderCommit::finish() {
  expects(!finished_, target_, " was already saved by this commit");
  std::error_code code;
  bool const replaces = std::filesystem::exists(target_, code);
  sync_files();
  if (replaces) carry_over(target_, temporary_, {});
  sync_folders();
  swap_in();
}

inline void FolderCommit::sync_files() const {
  std::error_code code;
  for (std::filesystem::recursive_directory_iterator entry{temporary_, code}, end; !code && entry != end;
       entry.increment(code)) {
    if (entry->is_regular_file()) sync_to_disk(entry->path());
  }
  expects_no_error(code, "cannot list ", temporary_);
}

inline void FolderCommit::sync_folders() const {
  std::error_code code;
  for (std::filesystem::recursive_directory_iterator entry{temporary_, code}, end; !code && entry != end;
       entry.increment(code)) {
    if (!entry->is_symlink() && entry->is_directory()) sync_to_disk(entry->path());
  }
  expects_no_error(code, "cannot list ", temporary_);
  sync_to_disk(temporary_);
}

inline void FolderCommit::carry_over(Path const& from, Path const& to, Path const& inside) const {
  namespace fs = std::filesystem;
  std::error_code code;
  for (fs::directory_iterator entry{from, code}, end; !code && entry != end; entry.increment(code)) {
    auto const name = inside / entry->path().filename();
    auto const copy = to / entry->path().filename();
    std::error_code failure;
    auto const type = entry->symlink_status(failure).type();
    auto const copy_type = fs::symlink_status(copy, failure).type();
    if (name == detail::replaced_marker || (options_.drops && options_.drops(name.generic_string()))) continue;
    if (type == fs::file_type::directory) {
      if (copy_type == fs::file_type::not_found) {
        fs::create_directory(copy, entry->path(), failure);  // with the same permissions
        expects_no_error(failure, "cannot create ", copy);
      } else if (copy_type != fs::file_type::directory) {
        continue;  // the new folder has a file of this name
      }
      carry_over(entry->path(), copy, name);
      continue;
    }
    if (copy_type != fs::file_type::not_found) continue;
    failure.clear();
    if (type == fs::file_type::symlink) {
      fs::copy_symlink(entry->path(), copy, failure);
    } else {
      expects(type == fs::file_type::regular, entry->path(),
              " is no file, folder or link, and cannot be carried over to the new ", target_);
      fs::create_hard_link(entry->path(), copy, failure);
      if (failure) {  // a file system without links, or a link that we may not make
        failure.clear();
        fs::copy_file(entry->path(), copy, failure);
        if (!failure) sync_to_disk(copy);
      }
    }
    expects_no_error(failure, "cannot carry ", entry->path(), " over to the new ", target_);
  }
  expects_no_error(code, "cannot list ", from);
}

inline void FolderCommit::swap_in() {
  namespace fs = std::filesystem;
  std::error_code code;
  auto const status = fs::symlink_status(target_, code);
  if (status.type() == fs::file_type::not_found) {
    fs::rename(temporary_, target_, code);
    expects_no_error(code, "cannot rename ", temporary_, " to ", target_);
    finished_ = true;
    sync_to_disk(parent_);
    return;
  }
  expects(status.type() == fs::file_type::directory, target_, " is no longer a folder; the new one was not put there");
  fs::permissions(temporary_, status.permissions(), code);
  expects_no_error(code, "cannot set the permissions of ", temporary_);
  if (!options_.use_exchange || !exchange_folders(temporary_, target_)) return swap_by_old();
  finished_ = true;
  sync_to_disk(parent_);
  // The new folder is in place: what cannot be removed of the old one is the next commit's to clean.
  fs::remove_all(temporary_, code);
}

inline void FolderCommit::swap_by_old() {
  namespace fs = std::filesystem;
  std::error_code code;
  expects(!fs::exists(old_, code), old_, " is in the way of replacing ", target_, ": move it away");
  auto const marker = target_ / detail::replaced_marker;
  write_file(marker, "");
  sync_to_disk(target_);
  fs::rename(target_, old_, code);
  if (!code) {
    fs::rename(temporary_, target_, code);
    std::error_code undone;
    if (code) fs::rename(old_, target_, undone);
  }
  if (code) {
    std::error_code ignored;
    fs::remove(marker, ignored);
    fail<Error>("cannot put ", temporary_, " in the place of ", target_, ": ", code.message());
  }
  finished_ = true;
  sync_to_disk(parent_);
  remove_old();
}

}  // namespace moduleformer
