// SPDX-License-Identifier: MIT
#pragma once
// For tests of files: a folder that goes away, whole files as strings, safetensors bytes from a header,
// and code run in a child process.

#include <sys/wait.h>
#include <unistd.h>

#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <exception>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <stdexcept>
#include <string>
#include <string_view>

namespace moduleformer::test {

/// A new folder, removed at the end.
class TemporaryFolder {
 public:
  explicit TemporaryFolder(std::filesystem::path const& base = std::filesystem::temp_directory_path()) {
    std::string name = (base / "moduleformer-test-XXXXXX").string();
    if (::mkdtemp(name.data()) == nullptr) throw std::runtime_error("cannot make " + name);
    path_ = std::filesystem::canonical(name);
  }
  TemporaryFolder(TemporaryFolder const&) = delete;
  TemporaryFolder& operator=(TemporaryFolder const&) = delete;
  ~TemporaryFolder() {
    std::error_code ignored;
    std::filesystem::remove_all(path_, ignored);
  }

  [[nodiscard]] std::filesystem::path const& path() const { return path_; }
  [[nodiscard]] std::filesystem::path operator/(std::string_view name) const { return path_ / name; }

 private:
  std::filesystem::path path_;
};

inline std::string read_text(std::filesystem::path const& path) {
  std::ifstream stream{path, std::ios::binary};
  if (!stream) throw std::runtime_error("cannot read " + path.string());
  return {std::istreambuf_iterator<char>{stream}, {}};
}

inline void write_text(std::filesystem::path const& path, std::string_view text) {
  std::ofstream stream{path, std::ios::binary};
  stream << text;
  if (!stream) throw std::runtime_error("cannot write " + path.string());
}

/// A safetensors file's bytes: length, header, data.
inline std::string safetensors_bytes(std::string_view header, std::string_view data) {
  std::uint64_t const length = header.size();
  std::string bytes(8, '\0');
  std::memcpy(bytes.data(), &length, 8);
  return bytes.append(header).append(data);
}

/// Runs the function in a child process and returns its string, or how the child died.
template <class Function>
std::string in_child(Function&& function) {
  int ends[2];
  if (::pipe(ends) != 0) throw std::runtime_error("no pipe");
  pid_t const child = ::fork();
  if (child < 0) throw std::runtime_error("no child");
  if (child == 0) {
    std::string answer;
    try {
      answer = function();
    } catch (std::exception const& error) {
      answer = std::string("exception: ") + error.what();
    }
    auto const written = ::write(ends[1], answer.data(), answer.size());
    ::_exit(written == static_cast<ssize_t>(answer.size()) ? 0 : 1);
  }
  ::close(ends[1]);
  std::string answer;
  char buffer[4096];
  for (ssize_t count; (count = ::read(ends[0], buffer, sizeof buffer)) > 0;) {
    answer.append(buffer, static_cast<std::size_t>(count));
  }
  ::close(ends[0]);
  int status = 0;
  ::waitpid(child, &status, 0);
  if (!WIFEXITED(status) || WEXITSTATUS(status) != 0) answer += " [child's status " + std::to_string(status) + "]";
  return answer;
}

}  // namespace moduleformer::test
