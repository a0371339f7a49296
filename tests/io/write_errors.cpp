// SPDX-License-Identifier: MIT
// Saving to a full, limited or unwritable place: an Error with the system's reason, the old folder whole,
// nothing left beside it.

#include "support.hpp"

#include <moduleformer/io/folder_commit.hpp>
#include <moduleformer/io/output_file.hpp>
#include <moduleformer/io/tensor_source.hpp>

#include <boost/test/unit_test.hpp>
#include <sched.h>
#include <signal.h>
#include <sys/mount.h>
#include <sys/resource.h>

#include <cerrno>
#include <cstring>
#include <exception>
#include <filesystem>
#include <string>
#include <vector>

namespace mf = moduleformer;
namespace fs = std::filesystem;
using mf::test::in_child;

BOOST_AUTO_TEST_SUITE(write_errors)

namespace {

bool contains(std::string const& text, std::string const& part) { return text.find(part) != std::string::npos; }

void save(fs::path const& target, float value, std::size_t elements) {
  std::vector<float> const values(elements, value);
  mf::FolderCommit commit{target};
  mf::write_file(commit.path("config.json"), std::to_string(value));
  mf::write_tensors(
      commit.folder(), "model",
      std::vector{mf::output_tensor("w", mf::StorageType::f32, {static_cast<mf::Index>(elements)}, values.data())}, {});
  commit.finish();
}

/// Empty if the folder holds exactly what save wrote and stands alone.
std::string check(fs::path const& target, float value, std::size_t elements) {
  if (mf::test::read_text(target / "config.json") != std::to_string(value)) return "config.json changed";
  mf::TensorSource const source{target};
  if (source.at("w").read<float>() != std::vector<float>(elements, value)) return "tensor changed";
  for (auto const& entry : fs::directory_iterator{target.parent_path()}) {
    if (entry.path() != target) return "left behind: " + entry.path().string();
  }
  return {};
}

/// The message of the Error that saving throws.
std::string save_error(fs::path const& target, float value, std::size_t elements) {
  try {
    save(target, value, elements);
  } catch (mf::Error const& error) {
    return error.what();
  }
  return "no error";
}

/// In this process alone, which ends soon, the folder becomes a small file system of its own. Empty, or why not.
std::string mount_small(fs::path const& folder, std::string const& options, unsigned long flags = 0) {
  auto const user = std::to_string(::geteuid()), group = std::to_string(::getegid());
  if (::unshare(CLONE_NEWNS) != 0) {
    if (::unshare(CLONE_NEWUSER | CLONE_NEWNS) != 0) return std::strerror(errno);
    mf::test::write_text("/proc/self/setgroups", "deny");
    mf::test::write_text("/proc/self/uid_map", user + " " + user + " 1");
    mf::test::write_text("/proc/self/gid_map", group + " " + group + " 1");
  }
  if (::mount("none", "/", nullptr, MS_REC | MS_PRIVATE, nullptr) != 0) return std::strerror(errno);
  if (::mount("none", folder.c_str(), "tmpfs", 0, options.c_str()) != 0) return std::strerror(errno);
  if (flags != 0 && ::mount("none", folder.c_str(), nullptr, MS_REMOUNT | flags, nullptr) != 0)
    return std::strerror(errno);
  return {};
}

}  // namespace

BOOST_AUTO_TEST_CASE(a_device_without_space) {
  BOOST_TEST_REQUIRE(fs::exists("/dev/full"));
  std::vector<float> const values(1000, 1.0f);
  auto const tensors = std::vector{mf::output_tensor("w", mf::StorageType::f32, {1000}, values.data())};
  std::string message;
  try {
    mf::write_safetensors("/dev/full", tensors);
  } catch (mf::Error const& error) {
    message = error.what();
  }
  BOOST_TEST(message == "cannot write \"/dev/full\" at byte 0: No space left on device");
  BOOST_TEST(fs::exists("/dev/full"));  // what is no regular file is not removed
}

BOOST_AUTO_TEST_CASE(a_full_disk_leaves_the_old_folder) {
  mf::test::TemporaryFolder const base;
  // The disk is full after 0, 1, 2, ... pages beyond the old folder.
  int full = 0, fits = 0;
  std::string reason;
  for (int pages = 12; pages <= 40; ++pages) {
    auto const answer = in_child([&]() -> std::string {
      auto const mounted = mount_small(base.path(), "size=" + std::to_string(pages * 4) + "k");
      if (!mounted.empty()) return "mount: " + mounted;
      auto const target = base / "model";
      save(target, 1, 10000);
      auto const message = save_error(target, 2, 10000);
      if (message == "no error") return check(target, 2, 10000) + "fits";
      if (!contains(message, "No space left on device") || !contains(message, base.path().string())) return message;
      auto const kept = check(target, 1, 10000);
      return kept.empty() ? "full" : kept;
    });
    if (answer.starts_with("mount: ")) {
      reason = answer;
      break;
    }
    BOOST_TEST((answer == "full" || answer == "fits"), answer);
    (answer == "full" ? full : fits) += 1;
  }
  if (!reason.empty()) {
    BOOST_WARN_MESSAGE(false, "a full disk was not tried, cannot make a small one: " << reason);
    return;
  }
  BOOST_TEST(full >= 8);
  BOOST_TEST(fits >= 8);
}

BOOST_AUTO_TEST_CASE(a_limit_on_file_size_leaves_the_old_folder) {
  mf::test::TemporaryFolder const base;
  auto const target = base / "model";
  save(target, 1, 10000);
  for (rlim_t limit : {0u, 5u, 100u, 4096u, 40000u}) {
    auto const message = in_child([&] {
      ::signal(SIGXFSZ, SIG_IGN);
      rlimit const limits{limit, limit};
      ::setrlimit(RLIMIT_FSIZE, &limits);
      return save_error(target, 2, 10000);
    });
    BOOST_TEST(contains(message, "File too large"), message);
    BOOST_TEST(contains(message, "at byte " + std::to_string(limit)), message);
    BOOST_TEST(check(target, 1, 10000) == "");
  }
}

BOOST_AUTO_TEST_CASE(an_unwritable_parent) {
  mf::test::TemporaryFolder const base;
  auto const answer = in_child([&]() -> std::string {
    auto const mounted = mount_small(base.path(), "size=64k", MS_RDONLY);
    return mounted.empty() ? save_error(base / "model", 1, 10) : "mount: " + mounted;
  });
  if (answer.starts_with("mount: ")) BOOST_WARN_MESSAGE(false, "a read-only disk was not tried: " << answer);
  else BOOST_TEST(contains(answer, "Read-only file system"), answer);

  mf::test::write_text(base / "file", "");
  BOOST_TEST(contains(save_error(base / "file/model", 1, 10), "Not a directory"));
  auto const denied = in_child([&]() -> std::string {
    fs::create_directory(base / "locked");
    fs::permissions(base / "locked", fs::perms::owner_read | fs::perms::owner_exec);
    fs::permissions(base.path(), fs::perms::owner_all | fs::perms::others_exec);
    if (::geteuid() == 0 && ::seteuid(65534) != 0) return "cannot become nobody";  // root may write everywhere
    return save_error(base / "locked/model", 1, 10);
  });
  BOOST_TEST(contains(denied, "Permission denied"), denied);
}

BOOST_AUTO_TEST_CASE(a_file_that_cannot_be_made) {
  mf::test::TemporaryFolder const base;
  try {
    mf::OutputFile{base / "none/x"};
    BOOST_ERROR("no error");
  } catch (mf::Error const& error) {
    BOOST_TEST(error.what() == "cannot create \"" + (base / "none/x").string() + "\": No such file or directory");
  }
  {
    mf::OutputFile unfinished{base / "x"};
    unfinished.write("half");
    BOOST_TEST(unfinished.size() == 4);
  }
  BOOST_TEST(!fs::exists(base / "x"));
}

BOOST_AUTO_TEST_SUITE_END()
