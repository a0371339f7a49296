// SPDX-License-Identifier: MIT
#include <moduleformer/training/data.hpp>

#include <boost/test/unit_test.hpp>

#include "io/support.hpp"

#include <string>

namespace mf = moduleformer;

namespace {

template <class Files>
std::string complaint(Files const& files) {
  try {
    (void)mf::ByteBatches(files);
  } catch (mf::Error const& error) {
    return error.what();
  }
  return "none";
}

}  // namespace

BOOST_AUTO_TEST_CASE(bytes_are_read_as_they_are) {
  mf::test::TemporaryFolder const folder;
  std::string bytes;
  for (int i = 0; i < 70000; ++i) bytes += static_cast<char>(i % 251);  // more than one block, with zeros and newlines
  mf::test::write_text(folder / "text", bytes);
  auto const read = mf::read_text_file(folder / "text");
  BOOST_TEST((std::string(read.begin(), read.end()) == bytes));
}

BOOST_AUTO_TEST_CASE(one_file_or_several) {
  mf::test::TemporaryFolder const folder;
  mf::test::write_text(folder / "a", "first");
  mf::test::write_text(folder / "b", "second one");
  mf::ByteBatches const both{{folder / "a", folder / "b"}, {.rows = 2, .tokens = 4, .steps = 3}};
  BOOST_TEST(both.documents().count() == 2);
  int steps = 0;
  for (auto const& batch : mf::ByteBatches{(folder / "b").c_str(), {.rows = 2, .tokens = 4, .steps = 3}}) {
    BOOST_TEST(batch.ids.size() == 8);
    ++steps;
  }
  BOOST_TEST(steps == 3);
}

BOOST_AUTO_TEST_CASE(files_that_hold_no_text_are_named) {
  mf::test::TemporaryFolder const folder;
  mf::test::write_text(folder / "good", "text");
  mf::test::write_text(folder / "empty", "");
  auto const path = [&](char const* name) { return (folder / name).string(); };
  BOOST_TEST(complaint(path("good")) == "none");
  BOOST_TEST(complaint(path("missing")) == path("missing") + ": expected a text file, found nothing of that name");
  BOOST_TEST(complaint(path("empty")) == path("empty") + ": expected text, found an empty file");
  BOOST_TEST(complaint(folder.path()) == folder.path().string() + ": expected a text file, found a folder");
  BOOST_TEST(complaint(mf::ByteBatches::Files{path("good"), path("empty")}).find("empty file") != std::string::npos);
  BOOST_TEST(complaint(mf::ByteBatches::Files{}).find("at least one text file") != std::string::npos);
  // Opens, but cannot be read.
  BOOST_TEST(complaint(std::string("/proc/self/mem")).find("/proc/self/mem: ") == 0);
}
