// SPDX-License-Identifier: MIT
#pragma once
// Reading a whole text as bytes, whatever its encoding.

#include <moduleformer/core/error.hpp>

#include <cerrno>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <system_error>
#include <vector>

namespace moduleformer {

/// The file's bytes. Throws Error naming the file if it is missing, not a file, unreadable or empty.
inline std::vector<unsigned char> read_text_file(std::filesystem::path const& path) {
  std::error_code error;
  auto const status = std::filesystem::status(path, error);
  expects(std::filesystem::exists(status), path.string(), ": expected a text file, found nothing of that name");
  expects(!std::filesystem::is_directory(status), path.string(), ": expected a text file, found a folder");
  expects(!std::filesystem::is_character_file(status) && !std::filesystem::is_block_file(status), path.string(),
          ": expected a text file, found a device, which may never end");
  errno = 0;
  std::ifstream stream(path, std::ios::binary);
  expects(stream.is_open(), path.string(), ": cannot be opened: ", std::strerror(errno));
  std::vector<unsigned char> bytes;
  std::vector<char> block(std::size_t{1} << 16);
  if (std::filesystem::is_regular_file(status)) {
    auto const size = std::filesystem::file_size(path, error);
    if (!error) bytes.reserve(static_cast<std::size_t>(size));
  }
  while (stream.read(block.data(), static_cast<std::streamsize>(block.size())), stream.gcount() > 0)
    bytes.insert(bytes.end(), block.begin(), block.begin() + stream.gcount());
  expects(!stream.bad(), path.string(), ": reading stopped after ", bytes.size(), " bytes: ", std::strerror(errno));
  expects(!bytes.empty(), path.string(), ": expected text, found an empty file");
  return bytes;
}

}  // namespace moduleformer
