// SPDX-License-Identifier: MIT
// Malformed safetensors files: each is a FormatError that names file, byte and tensor. A small valid file
// with any byte changed or cut off is either still valid or a FormatError.

#include "support.hpp"

#include <moduleformer/io/safetensors.hpp>

#include <boost/test/unit_test.hpp>

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace mf = moduleformer;

BOOST_AUTO_TEST_SUITE(safetensors_malformed)

namespace {

struct BadFile {
  std::string_view what;
  std::string bytes;
  std::vector<std::string> message;  // each part must occur
};

std::string one(std::string_view entry, std::size_t data_size) {
  return mf::test::safetensors_bytes(std::string{"{\"w\":"}.append(entry).append("}"), std::string(data_size, '\0'));
}

std::string header(std::string_view json, std::size_t data_size = 0) {
  return mf::test::safetensors_bytes(json, std::string(data_size, '\0'));
}

std::string with_length(std::uint64_t length, std::string_view rest) {
  std::string bytes(8, '\0');
  std::memcpy(bytes.data(), &length, 8);
  return bytes.append(rest);
}

std::vector<BadFile> bad_files() {
  std::string const valid = R"({"dtype":"F32","shape":[2],"data_offsets":[0,8]})";
  auto const second = [](std::string_view offsets) {
    return std::string{R"({"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]},"b":{"dtype":"F32","shape":[2],)"}
        .append(R"("data_offsets":)")
        .append(offsets)
        .append("}}");
  };
  return {
      {"an empty file", "", {"0 bytes, too short"}},
      {"a cut length", "\1\2\3", {"3 bytes, too short"}},
      {"header length beyond the file",
       with_length(9, "{}"),
       {"header length 9 at byte 0 reaches beyond the file's 10"}},
      {"header length beyond the limit", with_length(100'000'001, "{}"), {"header length 100000001", "over the limit"}},
      {"largest header length", with_length(~std::uint64_t{0}, "{}"), {"18446744073709551615", "over the limit"}},
      {"no header", with_length(0, "{}"), {"header at byte 8: expected an object"}},
      {"an array", header("[]"), {"header at byte 8: expected an object"}},
      {"a leading space", header(" {}"), {"header at byte 8: expected an object"}},
      {"not JSON", header("{w:1}"), {"header at byte 10", "not JSON near '{w'"}},
      {"cut JSON", header(R"({"w":{"dtype")"), {"not JSON"}},
      {"text after JSON", header("{} x"), {"not JSON near '{} x'"}},
      {"a comment", header("{/**/}"), {"not JSON"}},
      {"bytes that are no UTF-8", header("{\"\xff\":1}"), {"not JSON"}},
      {"NUL padding", header(std::string_view{"{}\0\0", 4}), {"zero byte in the header at byte 10"}},
      {"a tensor that is a number",
       one("1", 0),
       {"header at byte 15: expected an object for each tensor, found the number 1"}},
      {"a tensor that is an array", one("[]", 0), {"expected an object for each tensor, found an array"}},
      {"a tensor that is null", one("null", 0), {"expected an object for each tensor, found null"}},
      {"metadata that are a list",
       header(R"({"__metadata__":[]})"),
       {"expected an object of strings as __metadata__, found an array"}},
      {"metadata of numbers",
       header(R"({"__metadata__":{"a":1}})"),
       {"expected a string for each key of __metadata__, found the number 1"}},
      {"nested metadata",
       header(R"({"__metadata__":{"a":{}}})"),
       {"expected a string for each key of __metadata__, found an object"}},
      {"metadata twice", header(R"({"__metadata__":{},"__metadata__":{}})"), {"__metadata__ stands twice"}},
      {"a metadata key twice", header(R"({"__metadata__":{"a":"1","a":"1"}})"), {"__metadata__ has the key 'a' twice"}},
      {"a tensor twice", header("{\"w\":" + valid + ",\"w\":" + valid + "}", 8), {"two tensors are named 'w'"}},
      {"dtype twice",
       one(R"({"dtype":"F32","dtype":"F32","shape":[2],"data_offsets":[0,8]})", 8),
       {"tensor 'w'", "the key 'dtype' stands twice"}},
      {"shape twice",
       one(R"({"dtype":"F32","shape":[2],"shape":[2],"data_offsets":[0,8]})", 8),
       {"the key 'shape' stands twice"}},
      {"no dtype", one(R"({"shape":[2],"data_offsets":[0,8]})", 8), {"tensor 'w'", "dtype is missing"}},
      {"no shape", one(R"({"dtype":"F32","data_offsets":[0,8]})", 8), {"tensor 'w'", "shape is missing"}},
      {"misnamed offsets",
       one(R"({"dtype":"F32","shape":[2],"data_offset":[0,8]})", 8),
       {"tensor 'w'", "data_offsets is missing"}},
      {"unknown dtype",
       one(R"({"dtype":"F33","shape":[2],"data_offsets":[0,8]})", 8),
       {"tensor 'w'", "unknown dtype 'F33'"}},
      {"lower case dtype", one(R"({"dtype":"f32","shape":[2],"data_offsets":[0,8]})", 8), {"unknown dtype 'f32'"}},
      {"dtype that is a number",
       one(R"({"dtype":32,"shape":[2],"data_offsets":[0,8]})", 8),
       {"tensor 'w'", "expected a string as dtype, found the number 32"}},
      {"shape that is a number",
       one(R"({"dtype":"F32","shape":2,"data_offsets":[0,8]})", 8),
       {"expected an array as shape, found the number 2"}},
      {"shape that is a string",
       one(R"({"dtype":"F32","shape":"2","data_offsets":[0,8]})", 8),
       {"expected an array as shape, found a string"}},
      {"shape of strings",
       one(R"({"dtype":"F32","shape":["2"],"data_offsets":[0,8]})", 8),
       {"expected non-negative integers in shape, found a string"}},
      {"shape of shapes",
       one(R"({"dtype":"F32","shape":[[2]],"data_offsets":[0,8]})", 8),
       {"expected non-negative integers in shape, found an array"}},
      {"negative shape",
       one(R"({"dtype":"F32","shape":[-2,-1],"data_offsets":[0,8]})", 8),
       {"tensor 'w'", "expected non-negative integers in shape, found the number -2"}},
      {"fractional shape",
       one(R"({"dtype":"F32","shape":[2.0],"data_offsets":[0,8]})", 8),
       {"expected non-negative integers in shape, found the number '2.0'"}},
      {"shape beyond 63 bits",
       one(R"({"dtype":"F32","shape":[9223372036854775808],"data_offsets":[0,8]})", 8),
       {"shape overflows: 9223372036854775808"}},
      {"shape beyond 64 bits",
       one(R"({"dtype":"F32","shape":[18446744073709551617],"data_offsets":[0,8]})", 8),
       {"found the number '18446744073709551617'"}},
      {"overflowing product",
       one(R"({"dtype":"F32","shape":[4294967296,4294967298],"data_offsets":[0,8]})", 8),
       {"tensor 'w'", "shape (4294967296, 4294967298) overflows"}},
      {"overflowing bytes",
       one(R"({"dtype":"F64","shape":[2305843009213693953],"data_offsets":[0,8]})", 8),
       {"shape (2305843009213693953) overflows"}},
      {"offsets that are an object",
       one(R"({"dtype":"F32","shape":[2],"data_offsets":{}})", 8),
       {"expected an array as data_offsets, found an object"}},
      {"one offset",
       one(R"({"dtype":"F32","shape":[2],"data_offsets":[0]})", 8),
       {"tensor 'w'", "data_offsets has 1 numbers, expected 2"}},
      {"three offsets",
       one(R"({"dtype":"F32","shape":[2],"data_offsets":[0,8,8]})", 8),
       {"data_offsets has 3 numbers, expected 2"}},
      {"negative offset",
       one(R"({"dtype":"F32","shape":[2],"data_offsets":[-8,0]})", 8),
       {"expected non-negative integers in data_offsets, found the number -8"}},
      {"truth as offset",
       one(R"({"dtype":"F32","shape":[2],"data_offsets":[true,8]})", 8),
       {"expected non-negative integers in data_offsets, found a truth value"}},
      {"reversed offsets",
       one(R"({"dtype":"F32","shape":[2],"data_offsets":[8,0]})", 8),
       {"tensor 'w'", "data_offsets [8, 0] are reversed"}},
      {"offsets beyond the file",
       one(R"({"dtype":"F32","shape":[2],"data_offsets":[0,8]})", 7),
       {"tensor 'w'", "data_offsets [0, 8] reach beyond the file, whose data are bytes 62 to 69"}},
      {"huge offsets",
       one(R"({"dtype":"F32","shape":[2],"data_offsets":[9223372036854775799,9223372036854775807]})", 8),
       {"reach beyond the file"}},
      {"size against shape",
       one(R"({"dtype":"F32","shape":[3],"data_offsets":[0,8]})", 8),
       {"tensor 'w'", "hold 8 bytes, but shape (3) of F32 needs 12"}},
      {"size against dtype",
       one(R"({"dtype":"F64","shape":[2],"data_offsets":[0,8]})", 8),
       {"hold 8 bytes, but shape (2) of F64 needs 16"}},
      {"size of a scalar",
       one(R"({"dtype":"BF16","shape":[],"data_offsets":[0,8]})", 8),
       {"hold 8 bytes, but shape () of BF16 needs 2"}},
      {"overlap", header(second("[4,12]"), 12), {"tensor 'b' at byte 120 overlaps 'a', which ends at byte 124"}},
      {"the same bytes twice", header(second("[0,8]"), 8), {"overlaps"}},
      {"a gap", header(second("[9,17]"), 17), {"gap of 1 bytes at byte 124, before tensor 'b'"}},
      {"a gap at the start",
       one(R"({"dtype":"U8","shape":[1],"data_offsets":[3,4]})", 4),
       {"gap of 3 bytes at byte 61, before tensor 'w'"}},
      {"bytes after the data",
       one(R"({"dtype":"F32","shape":[2],"data_offsets":[0,8]})", 10),
       {"2 bytes at byte 70 belong to no tensor"}},
      {"data of nobody", header("{}", 1), {"1 bytes at byte 10 belong to no tensor"}},
      {"deep nesting", one(R"({"x":)" + std::string(100000, '[') + "}", 0), {"not JSON"}},
      {"a very long name", header("{\"" + std::string(100000, 'n') + "\":1}"), {"expected an object for each tensor"}},
  };
}

}  // namespace

BOOST_AUTO_TEST_CASE(each_is_refused_with_its_reason) {
  mf::test::TemporaryFolder const folder;
  auto const path = folder / "bad.safetensors";
  for (auto const& bad : bad_files()) {
    BOOST_TEST_CONTEXT(bad.what) {
      mf::test::write_text(path, bad.bytes);
      std::string message = "accepted";
      try {
        mf::SafetensorsFile const file{path};
      } catch (mf::FormatError const& error) {
        message = error.what();
      }
      BOOST_TEST_CONTEXT("message: " << message) {
        BOOST_TEST(message.find(path.string()) != std::string::npos);
        BOOST_TEST(message.size() < 1000u);
        for (auto const& part : bad.message) BOOST_TEST(message.find(part) != std::string::npos, "lacks: " << part);
      }
    }
  }
}

BOOST_AUTO_TEST_CASE(what_looks_odd_but_is_valid) {
  for (
      auto const& bytes :
      {header("{}"), header("{}     "), header(R"({"__metadata__":{}})"),
       header(R"({"a":{"dtype":"F32","shape":[0,9223372036854775807],"data_offsets":[0,0]}})"),
       header(
           R"({"b":{"dtype":"U8","shape":[2],"data_offsets":[0,2]},"e":{"dtype":"F32","shape":[0],"data_offsets":[2,2]},)"
           R"("c":{"shape":[1],"data_offsets":[2,3],"dtype":"U8"}})",
           3)}) {
    auto const file = std::as_bytes(std::span{bytes.data(), bytes.size()});
    BOOST_CHECK_NO_THROW(mf::read_safetensors_header(file, "odd"));
  }
}

BOOST_AUTO_TEST_CASE(fuzz) {
  std::string const valid = mf::test::safetensors_bytes(
      R"({"__metadata__":{"format":"pt"},"a":{"dtype":"F32","shape":[2,1],"data_offsets":[0,8]},)"
      R"("b":{"dtype":"BF16","shape":[3],"data_offsets":[8,14]},"c":{"dtype":"I64","shape":[],"data_offsets":[14,22]}})",
      std::string(22, '\x40'));
  std::size_t accepted = 0, refused = 0;
  auto const attempt = [&](std::string const& bytes) {
    // A copy of just this size, so that the sanitizer sees a read beyond it.
    std::vector<char> const exact(bytes.begin(), bytes.end());
    try {
      auto const file = std::as_bytes(std::span{exact});
      auto const header = mf::read_safetensors_header(file, "fuzz");
      for (auto const& [name, tensor] : header.tensors) {
        BOOST_REQUIRE(tensor.begin >= 8);
        BOOST_REQUIRE(tensor.end >= tensor.begin);
        BOOST_REQUIRE(tensor.end <= static_cast<mf::Index>(exact.size()));
        BOOST_REQUIRE(tensor.end - tensor.begin == tensor.size * tensor.data_type.bytes);
      }
      ++accepted;
    } catch (mf::FormatError const&) {
      ++refused;
    }
  };
  attempt(valid);
  BOOST_TEST(accepted == 1u);
  for (std::size_t size = 0; size < valid.size(); ++size) attempt(valid.substr(0, size));
  BOOST_TEST(accepted == 1u);  // no prefix is a file
  for (std::size_t i = 0; i < valid.size(); ++i) {
    for (int bit = 0; bit < 8; ++bit) {
      std::string bytes = valid;
      bytes[i] = static_cast<char>(bytes[i] ^ (1 << bit));
      attempt(bytes);
    }
    for (char const c : {'\0', '"', '[', ']', '{', '}', ',', ':', '-', '9', ' ', '\\', '\xff'}) {
      std::string bytes = valid;
      bytes[i] = c;
      attempt(bytes);
      bytes.insert(i, 1, c);
      attempt(bytes);
    }
    attempt(std::string{valid}.erase(i, 1));
  }
  std::uint32_t state = 1;
  for (int round = 0; round < 5000; ++round) {
    std::string bytes = valid;
    for (int changes = 0; changes < 1 + round % 4; ++changes) {
      state = state * 1664525u + 1013904223u;
      bytes[(state >> 8) % bytes.size()] = static_cast<char>(state >> 24);
    }
    attempt(bytes);
  }
  BOOST_TEST_MESSAGE(accepted << " accepted, " << refused << " refused");
  BOOST_TEST(accepted > 100u);  // changes in the data are no errors
  BOOST_TEST(refused > 5000u);
}

BOOST_AUTO_TEST_SUITE_END()
