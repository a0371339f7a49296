// SPDX-License-Identifier: MIT
#pragma once
// The save id: 64 random bits that one save writes into each of its files, so that loading notices
// files of different saves in one folder.

#include <moduleformer/core/error.hpp>
#include <moduleformer/io/file_system.hpp>

#include <atomic>
#include <chrono>
#include <cstdint>
#include <filesystem>
#include <random>
#include <string>
#include <string_view>

namespace moduleformer {

/// The id's key in a file's metadata.
inline constexpr std::string_view save_id_key = "save_id";

/// A new id, 16 hexadecimal digits.
inline std::string make_save_id() {
  static std::atomic<std::uint64_t> count{0};
  std::random_device device;
  std::uint64_t bits = (std::uint64_t{device()} << 32) | device();
  // Some systems' random_device repeats its numbers: time, process and count tell saves apart there.
  bits ^= static_cast<std::uint64_t>(std::chrono::system_clock::now().time_since_epoch().count());
  bits += (static_cast<std::uint64_t>(current_process()) << 40) + (count++ << 24);
  for (auto const factor : {0xbf58476d1ce4e5b9u, 0x94d049bb133111ebu}) bits = (bits ^ (bits >> 30)) * factor;
  std::string digits(16, '0');
  for (auto& digit : digits) {
    digit = "0123456789abcdef"[bits >> 60];
    bits <<= 4;
  }
  return digits;
}

/// Sees the ids of a folder's files and throws FormatError at the first that differs from an earlier one.
class SaveIdCheck {
 public:
  /// An empty id is that of a file without one, which is accepted.
  void see(std::filesystem::path const& file, std::string_view id) {
    if (id.empty()) return;
    if (id_.empty()) {
      id_ = id;
      file_ = file;
    } else if (id != id_) {
      fail<FormatError>(file, " has save id '", id, "', expected '", id_, "' as in ", file_,
                        ": these files were not saved together");
    }
  }

  /// The id of all files so far; empty if none had one.
  [[nodiscard]] std::string const& id() const { return id_; }

 private:
  std::string id_;
  std::filesystem::path file_;
};

}  // namespace moduleformer
