// SPDX-License-Identifier: MIT
// Records of routes as files: every value comes back, ids in few bytes; a file that is not what it should be is refused
// with a sentence, and a save that fails leaves the old file.
#include "io/support.hpp"

#include <moduleformer/io/route_file.hpp>

#include <boost/test/unit_test.hpp>
#include <nlohmann/json.hpp>

#include <cstdint>
#include <cstring>
#include <filesystem>
#include <functional>
#include <iterator>
#include <limits>
#include <string>
#include <utility>
#include <vector>

namespace mf = moduleformer;
namespace fs = std::filesystem;
using mf::test::read_text;
using mf::test::TemporaryFolder;
using mf::test::write_text;

namespace {

mf::RecordedRouter router(std::string name, mf::Index experts, mf::Index top_k, mf::Index tokens) {
  mf::RecordedRouter result{{std::move(name), experts, top_k}};
  for (mf::Index i = 0; i < tokens * top_k; ++i) {
    result.experts.push_back(static_cast<mf::ExpertId>((experts - 1 - i % top_k) % experts));  // the highest id occurs
    result.gates.push_back(0.1f * static_cast<float>(i));
  }
  return result;
}

/// Three batches of 1, 4 and 2 tokens, routers with 1 to 2 bytes of id, empty slots, no order of names.
mf::RouteRecord sample() {
  mf::RouteRecord record{{router("transformer.h.10.mlpf.gate", 255, 3, 7),
                          router("transformer.h.2.mlpf.gate", 256, 2, 7), router("a", 1, 1, 7)},
                         {{0, 1, 0xfedcba9876543210u}, {1, 4, 0}, {5, 2, 7}}};
  record.routers[0].experts[4] = record.routers[1].experts[13] = mf::empty_slot;
  record.routers[2].size.shared = 1;
  record.routers[1].gates[0] = std::numeric_limits<float>::denorm_min();
  return record;
}

void check_equal(mf::RouteRecord const& a, mf::RouteRecord const& b) {
  BOOST_REQUIRE(a.routers.size() == b.routers.size());
  for (std::size_t r = 0; r < a.routers.size(); ++r) {
    BOOST_TEST((a.routers[r].size == b.routers[r].size));
    BOOST_TEST(a.routers[r].experts == b.routers[r].experts, boost::test_tools::per_element());
    BOOST_TEST(a.routers[r].gates == b.routers[r].gates, boost::test_tools::per_element());
  }
  BOOST_REQUIRE(a.batches.size() == b.batches.size());
  for (std::size_t i = 0; i < a.batches.size(); ++i) {
    BOOST_TEST(a.batches[i].first == b.batches[i].first);
    BOOST_TEST(a.batches[i].tokens == b.batches[i].tokens);
    BOOST_TEST(a.batches[i].text == b.batches[i].text);
  }
}

/// The message of the exception that f throws.
template <class Exception = mf::FormatError>
std::string complaint(std::function<void()> const& f) {
  try {
    f();
  } catch (Exception const& error) {
    return error.what();
  }
  return "none";
}

void expect(std::string const& found, std::string const& message) {
  BOOST_TEST(found.find(message) != std::string::npos, found << " does not say: " << message);
}

/// What loading says of a sample after its header and data were edited.
struct Edited {
  TemporaryFolder folder;
  fs::path file = folder / "r.safetensors";
  nlohmann::json header;
  std::string data;

  Edited() {
    mf::save_routes(sample(), file);
    std::string const bytes = read_text(file);
    std::uint64_t length = 0;
    std::memcpy(&length, bytes.data(), 8);
    header = nlohmann::json::parse(bytes.substr(8, length));
    data = bytes.substr(8 + length);
  }
  void expect_refusal(std::string const& message) const {
    write_text(file, mf::test::safetensors_bytes(header.dump(), data));
    std::string const found = complaint([&] { (void)mf::load_routes(file); });
    expect(found, message);
    expect(found, "r.safetensors");
  }
  /// An element of a tensor.
  template <class T>
  void set(std::string const& tensor, std::size_t i, T value) {
    std::memcpy(data.data() + header[tensor]["data_offsets"][0].get<std::size_t>() + i * sizeof(T), &value, sizeof(T));
  }
  [[nodiscard]] nlohmann::json routers() const {
    return nlohmann::json::parse(header["__metadata__"]["routers"].get<std::string>());
  }
  void set_routers(nlohmann::json const& routers) { header["__metadata__"]["routers"] = routers.dump(); }
};

}  // namespace

BOOST_AUTO_TEST_CASE(every_value_comes_back) {
  TemporaryFolder const folder;
  auto const record = sample();
  mf::save_routes(record, folder / "r.safetensors");
  check_equal(record, mf::load_routes(folder / "r.safetensors"));
  mf::SafetensorsFile const file{folder / "r.safetensors"};
  BOOST_TEST(file.at("transformer.h.10.mlpf.gate.experts").data_type.name == "U8");
  BOOST_TEST(file.at("transformer.h.2.mlpf.gate.experts").data_type.name == "I32");
  BOOST_TEST(file.at("a.gates").data_type.name == "F32");
  BOOST_TEST(fs::file_size(folder / "r.safetensors") < 1200u);
}

BOOST_AUTO_TEST_CASE(more_elements_than_a_buffer) {
  TemporaryFolder const folder;
  mf::RouteRecord const record{{router("large", 9, 3, 500'001)}, {{0, 500'001, 3}}};
  mf::save_routes(record, folder / "r.safetensors");
  check_equal(record, mf::load_routes(folder / "r.safetensors"));
}

BOOST_AUTO_TEST_CASE(damaged_files) {
  Edited const good;
  std::string const bytes = read_text(good.file);
  for (std::size_t const size : {bytes.size() - 1, bytes.size() / 2, std::size_t{5}, std::size_t{0}}) {
    write_text(good.file, bytes.substr(0, size));
    expect(complaint([&] { (void)mf::load_routes(good.file); }), "r.safetensors");
  }
  expect(complaint<mf::Error>([&] { (void)mf::load_routes(good.folder / "absent"); }), "absent");
  {
    Edited e;
    e.header["__metadata__"].erase("format");
    e.expect_refusal("expected a record of routes, metadata key 'format' moduleformer-routes-1, found ''");
  }
  for (char const* const routers : {"", "{", "{}", "[]", "7"}) {
    Edited e;
    e.header["__metadata__"]["routers"] = routers;
    e.expect_refusal("expected an array of routers");
  }
  {
    Edited e;
    e.set_routers({1, 2, 3});
    e.expect_refusal("routers: expected an object, found 1");
    auto routers = Edited().routers();
    routers[1].erase("experts");
    e.set_routers(routers);
    e.expect_refusal("the key routers.experts is missing");
    routers[1]["experts"] = 2;
    e.set_routers(routers);
    e.expect_refusal("expected U8, found I32");
    routers[1]["experts"] = 256;
    routers[2]["name"] = "b";
    e.set_routers(routers);
    e.expect_refusal("no tensor 'b.experts'");
    routers.erase(2);
    e.set_routers(routers);
    e.expect_refusal("expected 6 tensors for 2 routers, found 8");
  }
  {
    Edited e;
    auto routers = e.routers();
    routers[0]["experts"] = 3;
    e.set_routers(routers);
    e.expect_refusal(
        "router 'transformer.h.10.mlpf.gate' with 3 experts, 3 slots, batch 0, token 0: expected different experts "
        "from 0 to 2, or -1, found 254");
    routers[0]["experts"] = 2;
    e.set_routers(routers);
    e.expect_refusal("expected 1 to 2 slots");
    routers[0] = {{"name", "transformer.h.10.mlpf.gate"}, {"experts", 255}, {"shared", 4}};
    e.set_routers(routers);
    e.expect_refusal("255 experts, 3 slots, 4 shared: expected at most as many shared experts as slots");
  }
}

BOOST_AUTO_TEST_CASE(experts_and_batches_that_do_not_fit) {
  {
    Edited e;
    e.set("transformer.h.2.mlpf.gate.experts", 2 * 6 + 1, std::int32_t{256});
    e.expect_refusal(
        "router 'transformer.h.2.mlpf.gate' with 256 experts, 2 slots, batch 2, token 1: expected different experts "
        "from 0 to 255, or -1, found 256");
    e.set("transformer.h.2.mlpf.gate.experts", 2 * 6 + 1, std::int32_t{-2});
    e.expect_refusal("found -2");
    e.set("transformer.h.2.mlpf.gate.experts", 2 * 6 + 1, std::int32_t{255});  // as the first of that token
    e.expect_refusal("batch 2, token 1: expected different experts from 0 to 255, or -1, found 255 twice");
  }
  {
    Edited e;
    e.set("batches.tokens", 1, std::int64_t{5});
    e.expect_refusal("expected shape (8, 3), found (7, 3)");
    for (std::int64_t const n :
         {std::int64_t{0}, std::int64_t{-4}, std::int64_t{1} << 31, std::numeric_limits<std::int64_t>::max()}) {
      e.set("batches.tokens", 1, n);
      e.expect_refusal("batch 1: expected 1 to 2147483647 tokens, found " + std::to_string(n));
    }
  }
  {
    Edited e;
    e.header["batches.text"]["shape"] = {1, 3};
    e.expect_refusal("expected shape (3), found (1, 3)");
  }
  {
    Edited e;
    e.header["a.gates"]["shape"] = {1, 7};
    e.expect_refusal("'a.gates'");
  }
}

BOOST_AUTO_TEST_CASE(saving_replaces_the_file_or_nothing) {
  TemporaryFolder const folder;
  auto const file = folder / "r.safetensors";
  mf::save_routes(sample(), file);
  auto other = sample();
  other.batches[1].text = 9;
  mf::save_routes(other, file);
  check_equal(other, mf::load_routes(file));
  std::string const before = read_text(file);

  auto bad = sample();
  bad.routers[0].experts[0] = 255;
  expect(complaint<mf::Error>([&] { mf::save_routes(bad, file); }), "found 255");
  bad = sample();
  bad.routers[2].gates.pop_back();
  expect(complaint<mf::Error>([&] { mf::save_routes(bad, file); }), "expected 7 experts and gates, found 7 and 6");
  bad = sample();
  bad.batches[2].first = 4;
  expect(complaint<mf::Error>([&] { mf::save_routes(bad, file); }),
         "batch 2: expected at least one token, from number 5");
  bad = sample();
  bad.routers[1].size.name = bad.routers[0].size.name;
  expect(complaint<mf::Error>([&] { mf::save_routes(bad, file); }), "is taken");
  bad = sample();
  bad.routers[1].size.name = "\xff";
  expect(complaint<mf::Error>([&] { mf::save_routes(bad, file); }), "not UTF-8");
  expect(complaint<mf::Error>([&] { mf::save_routes({}, file); }), "at least one batch");
  BOOST_TEST(read_text(file) == before);
  expect(complaint<mf::Error>([&] { mf::save_routes(sample(), folder.path()); }),
         "expected a file, found something else");
  expect(complaint<mf::Error>([&] { mf::save_routes(sample(), "/dev/full"); }),
         "expected a file, found something else");
  expect(complaint<mf::Error>([&] { mf::save_routes(sample(), folder / "absent/r"); }), "absent");
  expect(complaint<mf::Error>([&] { mf::save_routes(sample(), ""); }), "expected a file's name");
  // Nothing temporary stays.
  BOOST_TEST(std::distance(fs::directory_iterator(folder.path()), fs::directory_iterator{}) == 1);

  fs::create_symlink("r.safetensors", folder / "link");
  mf::save_routes(sample(), folder / "link");
  BOOST_TEST(fs::is_symlink(folder / "link"));
  check_equal(sample(), mf::load_routes(file));
}
