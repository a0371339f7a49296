// SPDX-License-Identifier: MIT
// A folder is replaced as a whole: what was written, what is carried over, what is refused, and what
// interrupted commits leave behind.

#include "support.hpp"

#include <moduleformer/io/folder_commit.hpp>

#include <boost/test/unit_test.hpp>
#include <sys/stat.h>

#include <algorithm>
#include <exception>
#include <filesystem>
#include <string>
#include <vector>

namespace mf = moduleformer;
namespace fs = std::filesystem;
using mf::test::read_text, mf::test::write_text, mf::test::TemporaryFolder;

BOOST_AUTO_TEST_SUITE(folder_commit)

namespace {

void save(fs::path const& target, std::vector<std::string> const& files, std::string const& text,
          mf::CommitOptions options = {}) {
  mf::FolderCommit commit{target, std::move(options)};
  for (auto const& file : files) mf::write_file(commit.path(file), text);
  commit.finish();
}

/// "path=content" of all files below the folder, sorted.
std::vector<std::string> tree(fs::path const& folder) {
  std::vector<std::string> found;
  for (auto const& entry : fs::recursive_directory_iterator{folder}) {
    auto const name = entry.path().lexically_relative(folder).string();
    if (entry.is_symlink()) found.push_back(name + "->" + fs::read_symlink(entry.path()).string());
    else if (entry.is_regular_file()) found.push_back(name + "=" + read_text(entry.path()));
    else if (fs::is_empty(entry.path())) found.push_back(name + "/");
  }
  std::ranges::sort(found);
  return found;
}

using Tree = std::vector<std::string>;

auto message_contains(std::string part) {
  return [part](std::exception const& error) {
    bool const found = std::string{error.what()}.find(part) != std::string::npos;
    if (!found) BOOST_TEST_MESSAGE("message: " << error.what());
    return found;
  };
}

/// The number of a process that is dead.
std::string dead_process() {
  pid_t const child = ::fork();
  if (child == 0) ::_exit(0);
  ::waitpid(child, nullptr, 0);
  return std::to_string(child);
}

}  // namespace

BOOST_AUTO_TEST_CASE(a_new_folder_and_its_parents) {
  TemporaryFolder const base;
  save(base / "a/b/model", {"config.json", "sub/x"}, "1");
  BOOST_TEST(tree(base.path()) == (Tree{"a/b/model/config.json=1", "a/b/model/sub/x=1"}),
             boost::test_tools::per_element());
  save(base / "slash/", {"x"}, "1");
  BOOST_TEST(read_text(base / "slash/x") == "1");
}

BOOST_AUTO_TEST_CASE(a_commit_that_is_not_finished_changes_nothing) {
  TemporaryFolder const base;
  auto const target = base / "model";
  {
    mf::FolderCommit commit{target};
    mf::write_file(commit.path("x"), "1");
    BOOST_TEST(commit.folder().filename() == "model.tmp-" + std::to_string(::getpid()));
    BOOST_TEST(!fs::exists(target));
  }
  BOOST_TEST(tree(base.path()).empty());
  BOOST_TEST(!fs::exists(base / ("model.tmp-" + std::to_string(::getpid()))));
}

BOOST_AUTO_TEST_CASE(replacing_carries_over_the_files_of_others) {
  for (bool const use_exchange : {true, false}) {
    BOOST_TEST_CONTEXT("exchange " << use_exchange) {
      TemporaryFolder const base;
      auto const target = base / "model";
      save(target, {"config.json", "model-00001-of-00002.safetensors", "both/ours", "was_file"}, "old");
      fs::create_directories(target / "notes/deep/empty");
      write_text(target / "notes/deep/todo.txt", "mine");
      write_text(target / "both/theirs", "mine");
      write_text(target / "readme", "mine");
      fs::create_symlink("readme", target / "link");
      fs::create_symlink("nowhere", target / "dangling");
      fs::create_directory_symlink("notes", target / "folder_link");
      fs::permissions(target / "notes", fs::perms::owner_all);
      fs::permissions(target, fs::perms::owner_all | fs::perms::group_read);
      std::vector<std::string> asked;
      save(target, {"config.json", "model.safetensors", "both/ours", "was_file/inside"}, "new",
           {.drops =
                [&](std::string_view path) {
                  asked.emplace_back(path);
                  return path.ends_with(".safetensors");
                },
            .use_exchange = use_exchange});
      Tree const expected{"both/ours=new",         "both/theirs=mine",   "config.json=new",
                          "dangling->nowhere",     "folder_link->notes", "link->readme",
                          "model.safetensors=new", "notes/deep/empty/",  "notes/deep/todo.txt=mine",
                          "readme=mine",           "was_file/inside=new"};
      BOOST_TEST(tree(target) == expected, boost::test_tools::per_element());
      BOOST_TEST(std::ranges::count(asked, "notes/deep/todo.txt") == 1);
      BOOST_TEST((fs::status(target / "notes").permissions() == fs::perms::owner_all));
      BOOST_TEST((fs::status(target).permissions() == (fs::perms::owner_all | fs::perms::group_read)));
      BOOST_TEST(std::distance(fs::directory_iterator{base.path()}, {}) == 1);  // nothing beside it
    }
  }
}

BOOST_AUTO_TEST_CASE(a_link_to_a_folder_stays_a_link) {
  TemporaryFolder const base;
  save(base / "real/model", {"x"}, "old");
  fs::create_directory_symlink("real/model", base / "model");
  save(base / "model", {"x"}, "new");
  BOOST_TEST(fs::is_symlink(base / "model"));
  BOOST_TEST(read_text(base / "real/model/x") == "new");
}

BOOST_AUTO_TEST_CASE(targets_that_are_refused) {
  TemporaryFolder const base;
  write_text(base / "file", "mine");
  fs::create_symlink("nowhere", base / "dangling");
  fs::create_directories(base / "here/below");
  auto const refused = [&](fs::path const& target, std::string const& part) {
    BOOST_CHECK_EXCEPTION(mf::FolderCommit{target}, mf::Error, message_contains(part));
  };
  refused(base / "file", "exists and is not a folder");
  refused(base / "dangling", "exists and is not a folder");
  refused(base / "file/model", "cannot create the folder");
  refused("", "expected a folder's name");
  refused("/", "cannot be replaced");
  refused("/proc/moduleformer", "cannot create \"/proc/moduleformer.tmp-");
  for (auto const* inside : {"here", "here/below"}) {
    auto const message = mf::test::in_child([&]() -> std::string {
      fs::current_path(base / inside);
      try {
        mf::FolderCommit{base / "here"};
      } catch (mf::Error const& error) {
        return error.what();
      }
      return "accepted";
    });
    BOOST_TEST(message.find("the current directory is inside") != std::string::npos, message);
  }
  mf::FolderCommit commit{base / "model"};
  for (auto const* name : {"", "/etc/passwd", "../x", "a/../../x", "a/"}) {
    BOOST_CHECK_EXCEPTION((void)commit.path(name), mf::Error, message_contains("expected the name of a file inside"));
  }
  BOOST_CHECK_EXCEPTION(mf::FolderCommit{base / "model"}, mf::Error, message_contains("is being saved already"));
  commit.finish();
  BOOST_CHECK_EXCEPTION(commit.finish(), mf::Error, message_contains("already saved"));
  BOOST_TEST(fs::is_directory(base / "model"));
}

BOOST_AUTO_TEST_CASE(a_pipe_in_the_old_folder_stops_the_commit) {
  TemporaryFolder const base;
  auto const target = base / "model";
  save(target, {"x"}, "old");
  BOOST_REQUIRE(::mkfifo((target / "pipe").c_str(), 0600) == 0);
  BOOST_CHECK_EXCEPTION(save(target, {"x"}, "new"), mf::Error, message_contains("cannot be carried over"));
  BOOST_TEST(read_text(target / "x") == "old");
  BOOST_TEST(fs::exists(target / "pipe"));
  BOOST_TEST(std::distance(fs::directory_iterator{base.path()}, {}) == 1);
}

BOOST_AUTO_TEST_CASE(what_dead_processes_left_is_removed) {
  TemporaryFolder const base;
  auto const target = base / "model";
  auto const place = [&](std::string const& name) {
    fs::create_directories(base / name);
    write_text(base / (name + "/x"), "left");
  };
  std::string const dead = "model.tmp-" + dead_process(), own = "model.tmp-" + std::to_string(::getpid());
  std::string const alive = "model.tmp-1", other = "other.tmp-" + dead_process();
  for (auto const& name : {dead, own, alive, other, std::string{"model.tmp-12x"}, std::string{"model.tmp-"}})
    place(name);
  write_text(base / ("model.tmp-" + std::to_string(1 << 30)), "a file");
  save(target, {"y"}, "new");
  BOOST_TEST(!fs::exists(base / dead));
  BOOST_TEST(!fs::exists(base / own));
  BOOST_TEST(read_text(base / (alive + "/x")) == "left");
  BOOST_TEST(read_text(base / (other + "/x")) == "left");
  BOOST_TEST(fs::exists(base / "model.tmp-12x"));
  BOOST_TEST(fs::exists(base / "model.tmp-"));
  BOOST_TEST(fs::exists(base / ("model.tmp-" + std::to_string(1 << 30))));
  BOOST_TEST(tree(target) == Tree{"y=new"}, boost::test_tools::per_element());
}

BOOST_AUTO_TEST_CASE(a_temporary_folder_in_use_is_left_alone) {
  // As when another container, with process numbers of its own, saves to the same volume.
  TemporaryFolder const base;
  fs::path const stale = base / ("model.tmp-" + dead_process());
  fs::create_directory(stale);
  auto lock = mf::try_lock_folder(stale);
  BOOST_REQUIRE(lock.has_value());
  save(base / "model", {"x"}, "1");
  BOOST_TEST(fs::exists(stale));
  lock.reset();
  save(base / "model", {"x"}, "2");
  BOOST_TEST(!fs::exists(stale));
}

BOOST_AUTO_TEST_CASE(readers_fall_back_to_old) {
  TemporaryFolder const base;
  auto const target = base / "model";
  BOOST_CHECK_EXCEPTION(mf::resolve_folder(target), mf::Error, message_contains("no such folder"));
  save(base / "model.old", {"x"}, "old");
  BOOST_TEST(mf::resolve_folder(target) == base / "model.old");
  BOOST_TEST(mf::resolve_folder(target.string() + "/") == base / "model.old");
  save(target, {"x"}, "new");  // the user's own model.old is none of our business
  BOOST_TEST(mf::resolve_folder(target) == target);
  BOOST_TEST(read_text(base / "model.old/x") == "old");
  BOOST_CHECK_EXCEPTION(save(target, {"x"}, "newer", {.drops = {}, .use_exchange = false}), mf::Error,
                        message_contains("is in the way"));
  BOOST_TEST(tree(base.path()) == (Tree{"model.old/x=old", "model/x=new"}), boost::test_tools::per_element());
  write_text(base / "file", "");
  BOOST_CHECK_EXCEPTION(mf::resolve_folder(base / "file"), mf::Error, message_contains("is not a folder"));
}

BOOST_AUTO_TEST_CASE(an_interrupted_commit_through_old_is_undone_by_the_next) {
  TemporaryFolder const base;
  auto const target = base / "model";
  save(base / "model.old", {"x", mf::detail::replaced_marker}, "old");
  save(target, {"y"}, "new");
  BOOST_TEST(tree(base.path()) == (Tree{"model/x=old", "model/y=new"}), boost::test_tools::per_element());
  // Interrupted after both renames: the old one is only in the way.
  save(base / "model.old", {"x", mf::detail::replaced_marker}, "older");
  save(target, {"x"}, "newer");
  BOOST_TEST(tree(base.path()) == (Tree{"model/x=newer", "model/y=new"}), boost::test_tools::per_element());
}

BOOST_AUTO_TEST_SUITE_END()
