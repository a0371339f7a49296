// SPDX-License-Identifier: MIT
// Safetensors files: what is written is read again, in every type; the layout is the documented one; the
// golden files are read as an independent reader reads them.

#include "support.hpp"

#include <moduleformer/io/safetensors.hpp>
#include <moduleformer/io/safetensors_writer.hpp>

#include <boost/test/unit_test.hpp>

#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <functional>
#include <limits>
#include <string>
#include <utility>
#include <vector>

#if defined(MODULEFORMER_TEST_DATA)
#include "../support/golden.hpp"
#endif

namespace mf = moduleformer;
using mf::StorageType;

BOOST_AUTO_TEST_SUITE(safetensors)

namespace {

auto message_contains(std::string part) {
  return [part](std::exception const& error) {
    bool const found = std::string{error.what()}.find(part) != std::string::npos;
    if (!found) BOOST_TEST_MESSAGE("message: " << error.what());
    return found;
  };
}

std::uint64_t header_length(std::string const& bytes) {
  std::uint64_t length = 0;
  std::memcpy(&length, bytes.data(), 8);
  return length;
}

}  // namespace

BOOST_AUTO_TEST_CASE(every_type_round_trips) {
  mf::test::TemporaryFolder const folder;
  auto const path = folder / "all.safetensors";
  std::vector<double> const doubles{1.0 / 3, -0.0, 1e300, std::nan(""), 5e-324, 2};
  std::vector<float> const floats{1.0f / 3, -0.0f, 3e38f, 1e-45f, std::numeric_limits<float>::infinity(), 7};
  std::vector<std::int64_t> const longs{std::numeric_limits<std::int64_t>::min(), -1, 1 << 30};
  std::vector<std::int32_t> const ints{std::numeric_limits<std::int32_t>::min(), 0, 5};
  std::vector<std::uint8_t> const bytes{0, 255, 7};
  std::vector<mf::float16> halves(2);
  halves[0].bits = 0x3c01;
  halves[1].bits = 0x7e05;
  std::vector<mf::bfloat16> const brains{mf::bfloat16{1.5f}, mf::bfloat16{-3e38f}};
  std::vector<mf::OutputTensor> const tensors{
      mf::output_tensor("u8", StorageType::u8, {3}, bytes.data()),
      mf::output_tensor("f32", StorageType::f32, {2, 3}, floats.data()),
      mf::output_tensor("f64", StorageType::f64, {3, 2, 1}, doubles.data()),
      mf::output_tensor("f64 as f32", StorageType::f32, {6}, doubles.data()),
      mf::output_tensor("f64 as bf16", StorageType::bf16, {6}, doubles.data()),
      mf::output_tensor("f32 as bf16", StorageType::bf16, {6}, floats.data()),
      mf::output_tensor("f32 as f64", StorageType::f64, {6}, floats.data()),
      mf::output_tensor("f16", StorageType::f16, {2}, halves.data()),
      mf::output_tensor("bf16", StorageType::bf16, {2}, brains.data()),
      mf::output_tensor("i64", StorageType::i64, {3}, longs.data()),
      mf::output_tensor("i32", StorageType::i32, {1, 3}, ints.data()),
      mf::output_tensor("i32 as i64", StorageType::i64, {3}, ints.data()),
      mf::output_tensor("scalar", StorageType::f32, {}, floats.data()),
      mf::output_tensor("empty", StorageType::f32, {0, 5}, floats.data()),
      mf::output_tensor("\u00e4\"\\\n", StorageType::u8, {1}, bytes.data()),
  };
  mf::write_safetensors(path, tensors, {{"format", "pt"}, {"a \"key\"", "line\nbreak"}});

  mf::SafetensorsFile const file{path};
  BOOST_TEST(file.tensors().size() == tensors.size());
  BOOST_TEST(file.metadata("format") == "pt");
  BOOST_TEST(file.metadata("a \"key\"") == "line\nbreak");
  BOOST_TEST(file.metadata("none") == "");
  for (auto const& tensor : tensors) {
    auto const& stored = file.at(tensor.name);
    BOOST_TEST(stored.shape == tensor.shape, boost::test_tools::per_element());
    BOOST_TEST((stored.data_type.type == tensor.type));
    BOOST_TEST(stored.end - stored.begin == tensor.bytes());
    BOOST_TEST(stored.begin % mf::storage_size(tensor.type) == 0);  // aligned for every reader
  }
  auto const same_bits = [&](std::string const& name, auto const& values) {
    auto const& stored = file.at(name);
    BOOST_TEST(std::memcmp(stored.data(), values.data(), values.size() * sizeof(values[0])) == 0, name);
  };
  same_bits("f64", doubles);
  same_bits("f32", floats);
  same_bits("i64", longs);
  same_bits("i32", ints);
  same_bits("u8", bytes);
  same_bits("f16", halves);
  same_bits("bf16", brains);
  auto const doubles_again = file.at("f64").read<double>();
  BOOST_TEST(std::memcmp(doubles_again.data(), doubles.data(), 6 * sizeof(double)) == 0);
  auto const narrow = file.at("f64 as f32").read<float>();
  auto const narrower = file.at("f64 as bf16").read<double>();
  auto const from_floats = file.at("f32 as bf16").read<float>();
  auto const wide = file.at("f32 as f64").read<double>();
  for (std::size_t i : {0u, 1u, 2u, 4u, 5u}) {
    BOOST_TEST(narrow[i] == static_cast<float>(doubles[i]));
    BOOST_TEST(narrower[i] == static_cast<double>(static_cast<float>(mf::bfloat16(static_cast<float>(doubles[i])))));
    BOOST_TEST(from_floats[i] == static_cast<float>(mf::bfloat16(floats[i])));
    BOOST_TEST(wide[i] == static_cast<double>(floats[i]));
  }
  BOOST_TEST(std::isnan(narrow[3]));
  BOOST_TEST(std::isnan(narrower[3]));
  BOOST_TEST(std::signbit(narrow[1]));
  BOOST_TEST(file.at("i64").read<std::int64_t>() == longs, boost::test_tools::per_element());
  BOOST_TEST(file.at("i32 as i64").read<std::int32_t>() == ints, boost::test_tools::per_element());
  BOOST_TEST(file.at("u8").read<mf::TokenId>()[1] == 255);
  BOOST_TEST(file.at("scalar").read<double>()[0] == static_cast<double>(floats[0]));
  BOOST_TEST(file.at("scalar").shape.empty());
  BOOST_TEST(file.at("empty").read<float>().empty());
  BOOST_TEST(file.find("absent") == nullptr);

  std::string const raw = mf::test::read_text(path);
  BOOST_TEST(header_length(raw) % 8 == 0u);
  BOOST_TEST(raw[8] == '{');
}

BOOST_AUTO_TEST_CASE(reading_checks_types_and_sizes) {
  mf::test::TemporaryFolder const folder;
  auto const path = folder / "a.safetensors";
  std::vector<std::int64_t> const longs{5, std::int64_t{1} << 31, 0};
  std::vector<float> const floats{1, 2};
  mf::write_safetensors(path, std::vector{mf::output_tensor("ids", StorageType::i64, {3}, longs.data()),
                                          mf::output_tensor("w", StorageType::f32, {1, 2}, floats.data())});
  mf::SafetensorsFile const file{path};
  auto const& ids = file.at("ids");
  auto const& w = file.at("w");
  std::string const bad_byte = "integer at byte " + std::to_string(ids.begin + 8) + " does not fit into 32 bits";
  BOOST_CHECK_EXCEPTION((void)ids.read<std::int32_t>(), mf::FormatError, message_contains(bad_byte));
  BOOST_CHECK_EXCEPTION((void)ids.read<float>(), mf::FormatError,
                        message_contains("expected a tensor of F64, F32, F16 or BF16, found I64"));
  BOOST_CHECK_EXCEPTION((void)w.read<mf::TokenId>(), mf::FormatError,
                        message_contains("tensor 'w' at byte " + std::to_string(w.begin) +
                                         ": expected a tensor of I64, I32 or U8, found F32"));
  std::vector<float> three(3);
  BOOST_CHECK_EXCEPTION(w.read(std::span<float>{three}), mf::Error, message_contains("has 2 elements, read into 3"));
  BOOST_CHECK_EXCEPTION(w.expect_shape(std::vector<mf::Index>{2, 1}), mf::FormatError,
                        message_contains("expected shape (2, 1), found (1, 2)"));
  w.expect_shape(std::vector<mf::Index>{1, 2});
  BOOST_CHECK_EXCEPTION((void)file.at("W"), mf::FormatError, message_contains("no tensor 'W'"));
  BOOST_CHECK_EXCEPTION(mf::SafetensorsFile{folder / "none"}, mf::Error, message_contains("No such file"));
  BOOST_CHECK_EXCEPTION(mf::SafetensorsFile{folder.path()}, mf::Error, message_contains("not a regular file"));
}

BOOST_AUTO_TEST_CASE(a_tensor_outlives_its_file_object) {
  mf::test::TemporaryFolder const folder;
  auto const path = folder / "a.safetensors";
  std::vector<float> const floats{1, 2};
  mf::write_safetensors(path, std::vector{mf::output_tensor("w", StorageType::f32, {2}, floats.data())});
  auto const tensor = mf::SafetensorsFile{path}.at("w");
  std::filesystem::remove(path);
  BOOST_TEST(tensor.read<float>() == floats, boost::test_tools::per_element());
}

BOOST_AUTO_TEST_CASE(unaligned_and_unreadable_tensors) {
  mf::test::TemporaryFolder const folder;
  auto const path = folder / "a.safetensors";
  // One byte of I8 shifts the rest, as in files that others wrote; unknown keys are for later versions.
  std::string data(1 + 8 + 2, '\0');
  double const value = -1.25;
  std::memcpy(data.data() + 1, &value, 8);
  data[9] = 1;
  mf::test::write_text(path, mf::test::safetensors_bytes(
                                 R"({"mask":{"dtype":"I8","shape":[1],"data_offsets":[0,1]},)"
                                 R"("x":{"later":[{"a":[1]},null,-2.5],"dtype":"F64","shape":[],"data_offsets":[1,9]},)"
                                 R"("b":{"dtype":"BOOL","shape":[2],"data_offsets":[9,11]}}   )",
                                 data));
  mf::SafetensorsFile const file{path};
  BOOST_TEST(file.at("x").read<double>()[0] == value);
  BOOST_TEST(file.at("x").read<float>()[0] == -1.25f);
  BOOST_TEST(file.at("b").read<mf::TokenId>() == (std::vector<mf::TokenId>{1, 0}), boost::test_tools::per_element());
  BOOST_TEST(file.at("mask").data_type.name == "I8");
  BOOST_CHECK_EXCEPTION((void)file.at("mask").read<mf::TokenId>(), mf::FormatError, message_contains("found I8"));
}

BOOST_AUTO_TEST_CASE(large_tensors_go_through_the_buffer) {
  mf::test::TemporaryFolder const folder;
  auto const path = folder / "a.safetensors";
  // Sizes around and over the writer's buffer of 1 MiB, behind one that leaves it partly full.
  std::vector<std::uint8_t> const bytes{1, 2, 3};
  std::vector<mf::OutputTensor> tensors{mf::output_tensor("bytes", StorageType::u8, {3}, bytes.data())};
  std::vector<std::vector<double>> values;
  for (std::size_t size : {524287u, 3u, 262144u, 786433u}) {
    values.emplace_back();
    for (std::size_t i = 0; i < size; ++i) values.back().push_back(static_cast<double>(i * 7 % 1021) / 16);
  }
  for (std::size_t i = 0; i < values.size(); ++i) {
    tensors.push_back(mf::output_tensor("t" + std::to_string(i), i % 2 == 0 ? StorageType::bf16 : StorageType::f32,
                                        {static_cast<mf::Index>(values[i].size())}, values[i].data()));
  }
  std::size_t largest_piece = 0;
  auto const inner = tensors.back().store;
  tensors.back().store = [&](mf::Index first, std::span<std::byte> piece) {
    largest_piece = std::max(largest_piece, piece.size());
    inner(first, piece);
  };
  mf::write_safetensors(path, tensors);
  BOOST_TEST(largest_piece <= std::size_t{1} << 20);
  mf::SafetensorsFile const file{path};
  for (std::size_t i = 0; i < values.size(); ++i) {
    auto const found = file.at("t" + std::to_string(i)).read<float>();
    BOOST_REQUIRE(found.size() == values[i].size());
    std::size_t wrong = 0;
    for (std::size_t k = 0; k < found.size(); ++k) {
      auto const value = static_cast<float>(values[i][k]);
      wrong += found[k] != (i % 2 == 0 ? static_cast<float>(mf::bfloat16(value)) : value);
    }
    BOOST_TEST(wrong == 0u);
  }
  BOOST_TEST(file.at("bytes").read<std::int32_t>()[2] == 3);
}

BOOST_AUTO_TEST_CASE(the_writer_refuses_what_no_reader_takes) {
  mf::test::TemporaryFolder const folder;
  auto const path = folder / "a.safetensors";
  std::vector<float> const floats{1, 2};
  auto const tensor = [&](std::string name, std::vector<mf::Index> shape = {2}) {
    return mf::output_tensor(std::move(name), StorageType::f32, std::move(shape), floats.data());
  };
  auto const refused = [&](std::vector<mf::OutputTensor> const& tensors, std::string const& part) {
    BOOST_CHECK_EXCEPTION(mf::write_safetensors(path, tensors), mf::Error, message_contains(part));
    BOOST_TEST(!std::filesystem::exists(path));
  };
  refused({tensor("a"), tensor("a")}, "the tensor name 'a' is taken");
  refused({tensor("__metadata__")}, "the tensor name '__metadata__' is taken");
  refused({tensor("a", {-1, 2})}, "shape (-1, 2) cannot be written");
  refused({tensor("a", {mf::Index{1} << 40, mf::Index{1} << 40})}, "negative or too large");
  refused({tensor("\xff")}, "not UTF-8");
  BOOST_CHECK_EXCEPTION(mf::output_tensor("a", StorageType::i64, {2}, floats.data()), mf::Error,
                        message_contains("tensor 'a': F32 cannot be written as I64"));
  BOOST_CHECK_EXCEPTION(mf::output_tensor("a", StorageType::f16, {2}, floats.data()), mf::Error,
                        message_contains("F32 cannot be written as F16"));
}

#if defined(MODULEFORMER_TEST_DATA)
BOOST_AUTO_TEST_CASE(golden_files_agree_with_an_independent_reader) {
  std::size_t compared = 0;
  for (std::string const name : {"ops/routing_losses.safetensors", "mlp_router_mutual_information/model.safetensors",
                                 "left_padded_batch/expected.safetensors"}) {
    mf::test::GoldenFile const golden{name};
    mf::SafetensorsFile const file{mf::test::golden_path(name)};
    BOOST_TEST(file.tensors().size() == golden.names().size());
    for (auto const& tensor : golden.names()) {
      auto const& stored = file.at(tensor);
      if (golden.type(tensor) == "F32" || golden.type(tensor) == "F64") {
        BOOST_TEST((stored.read<double>() == golden.tensor<double>(tensor).values), tensor);
      } else if (golden.type(tensor) == "I64") {
        BOOST_TEST((stored.read<std::int64_t>() == golden.tensor<std::int64_t>(tensor).values), tensor);
      } else {
        continue;
      }
      ++compared;
    }
  }
  BOOST_TEST(compared > 100u);
}
#endif

BOOST_AUTO_TEST_SUITE_END()
