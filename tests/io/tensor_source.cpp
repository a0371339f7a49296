// SPDX-License-Identifier: MIT
// One file or shards with an index look alike; an index that does not tell the truth is refused.

#include "support.hpp"

#include <moduleformer/io/tensor_source.hpp>

#include <boost/test/unit_test.hpp>

#include <exception>
#include <filesystem>
#include <functional>
#include <string>
#include <vector>

namespace mf = moduleformer;
using mf::StorageType;

BOOST_AUTO_TEST_SUITE(tensor_source)

namespace {

/// Tensors of 4, 8, 12, 16, 20 floats.
class Tensors {
 public:
  explicit Tensors(float offset = 0) {
    for (int i = 0; i < 100; ++i) values_.push_back(offset + static_cast<float>(i));
  }
  [[nodiscard]] std::vector<mf::OutputTensor> all() const {
    std::vector<mf::OutputTensor> tensors;
    for (mf::Index i = 1; i <= 5; ++i) {
      tensors.push_back(mf::output_tensor("t" + std::to_string(i), StorageType::f32, {i, 4}, values_.data() + i));
    }
    return tensors;
  }

 private:
  std::vector<float> values_;
};

void check(mf::TensorSource const& source) {
  BOOST_TEST(source.tensors().size() == 5u);
  for (mf::Index i = 1; i <= 5; ++i) {
    auto const& tensor = source.at("t" + std::to_string(i));
    tensor.expect_shape(std::vector<mf::Index>{i, 4});
    auto const values = tensor.read<double>();
    for (std::size_t k = 0; k < values.size(); ++k)
      BOOST_TEST(values[k] == static_cast<double>(i) + static_cast<double>(k));
  }
}

std::vector<std::string> names(std::filesystem::path const& folder) {
  std::vector<std::string> found;
  for (auto const& entry : std::filesystem::directory_iterator{folder})
    found.push_back(entry.path().filename().string());
  std::ranges::sort(found);
  return found;
}

auto message_contains(std::string part) {
  return [part](std::exception const& error) {
    bool const found = std::string{error.what()}.find(part) != std::string::npos;
    if (!found) BOOST_TEST_MESSAGE("message: " << error.what());
    return found;
  };
}

}  // namespace

BOOST_AUTO_TEST_CASE(one_file_and_shards_look_alike) {
  Tensors const tensors;
  mf::test::TemporaryFolder const whole, shards, single;
  mf::write_tensors(whole.path(), "model", tensors.all(), {{"save_id", "7"}, {"format", "pt"}});
  BOOST_TEST(names(whole.path()) == std::vector<std::string>{"model.safetensors"}, boost::test_tools::per_element());
  check(mf::TensorSource{whole.path()});
  check(mf::TensorSource{whole / "model.safetensors"});

  // 16 + 32 | 48 | 64 | 80 (a tensor larger than a shard stands alone)
  mf::write_tensors(shards.path(), "model", tensors.all(), {{"save_id", "7"}, {"format", "pt"}}, 70);
  std::vector<std::string> const expected{"model-00001-of-00004.safetensors", "model-00002-of-00004.safetensors",
                                          "model-00003-of-00004.safetensors", "model-00004-of-00004.safetensors",
                                          "model.safetensors.index.json"};
  BOOST_TEST(names(shards.path()) == expected, boost::test_tools::per_element());
  mf::TensorSource const source{shards.path()};
  check(source);
  BOOST_TEST(source.save_id() == "7");
  BOOST_TEST(source.metadata().find("format")->second == "pt");
  BOOST_TEST(source.at("t5").file->path().filename() == "model-00004-of-00004.safetensors");
  auto const index = mf::read_json(shards / "model.safetensors.index.json");
  BOOST_TEST(index.at("metadata").at("total_size") == 16 * (1 + 2 + 3 + 4 + 5));
  BOOST_TEST(index.at("weight_map").at("t2") == "model-00001-of-00004.safetensors");

  mf::write_tensors(single.path(), "model", {}, {});
  BOOST_TEST(mf::TensorSource{single.path()}.tensors().empty());
  for (auto const& name : expected) BOOST_TEST(mf::is_tensor_file(name, "model"));
  BOOST_TEST(mf::is_tensor_file("model.safetensors", "model"));
  for (auto const* name :
       {"model", "modelx.safetensors", "model-1-of-2.safetensors", "model-0000x-of-00004.safetensors", "config.json",
        "sub/model.safetensors", "model.safetensors.index.json.bak"}) {
    BOOST_TEST(!mf::is_tensor_file(name, "model"), name);
  }
}

BOOST_AUTO_TEST_CASE(what_is_not_there) {
  mf::test::TemporaryFolder const folder;
  BOOST_CHECK_EXCEPTION(mf::TensorSource{folder.path()}, mf::Error,
                        message_contains("has neither model.safetensors nor model.safetensors.index.json"));
  mf::test::write_text(folder / "pytorch_model.bin", "");
  BOOST_CHECK_EXCEPTION(mf::TensorSource{folder.path()}, mf::Error,
                        message_contains("convert its pytorch_model files"));
  BOOST_CHECK_EXCEPTION(mf::TensorSource{folder / "none"}, mf::Error, message_contains("No such file"));
  BOOST_CHECK_EXCEPTION(mf::write_tensors(folder.path(), "model", {}, {}, 0), mf::Error, message_contains("positive"));
}

BOOST_AUTO_TEST_CASE(an_index_must_tell_the_truth) {
  std::string const first = "model-00001-of-00002.safetensors", second = "model-00002-of-00002.safetensors";
  std::string const index = "model.safetensors.index.json";
  struct Damage {
    std::string_view what;
    std::function<void(std::filesystem::path const&)> apply;
    std::string message;
  };
  auto const set_index = [&](std::string text) {
    return [=](std::filesystem::path const& folder) { mf::test::write_text(folder / index, text); };
  };
  auto const edit_index = [&](std::function<void(nlohmann::json&)> edit) {
    return [=](std::filesystem::path const& folder) {
      auto json = mf::read_json(folder / index);
      edit(json);
      mf::test::write_text(folder / index, json.dump());
    };
  };
  Tensors const tensors;
  std::vector<Damage> const damages{
      {"missing shard", [&](auto const& folder) { std::filesystem::remove(folder / second); },
       "shard '" + second + "' is missing"},
      {"truncated shard", [&](auto const& folder) { std::filesystem::resize_file(folder / second, 100); }, second},
      {"another shard than promised", edit_index([&](auto& json) { json["weight_map"]["t1"] = second; }),
       "says it is in '" + second + "'"},
      {"not promised at all", edit_index([](auto& json) { json["weight_map"].erase("t2"); }),
       "not in the weight_map of"},
      {"promised but missing", edit_index([&](auto& json) { json["weight_map"]["t6"] = first; }),
       "tensor 't6' is missing in shard '" + first + "'"},
      {"a path as shard", edit_index([](auto& json) { json["weight_map"]["t1"] = "../model.safetensors"; }),
       "must give tensor 't1' a file name, found '\"../model.safetensors\"'"},
      {"a number as shard", edit_index([](auto& json) { json["weight_map"]["t1"] = 1; }), "a file name, found '1'"},
      {"no weight_map", set_index("{}"), "expected an object with an object weight_map"},
      {"weight_map is a list", set_index(R"({"weight_map":[]})"), "expected an object with an object weight_map"},
      {"a list", set_index("[]"), "expected an object with an object weight_map"},
      {"not JSON", set_index(R"({"weight_map")"), "not JSON at byte 14"},
      {"empty", set_index(""), "not JSON at byte 1"},
      {"a key twice", set_index(R"({"weight_map":{"a":"x","a":"x"}})"), "the key 'a' stands twice"},
      {"too deep", set_index(R"({"x":[[[[1]]]],"weight_map":{}})"), "nested deeper than 3 levels"},
      {"shards of two saves",
       [&](auto const& folder) {
         mf::test::TemporaryFolder const other;
         mf::write_tensors(other.path(), "model", tensors.all(), {{"save_id", "b"}}, 160);
         std::filesystem::copy_file(other / second, folder / second, std::filesystem::copy_options::overwrite_existing);
       },
       "has save id 'b', expected 'a'"},
      {"an index of another save", edit_index([](auto& json) { json["metadata"]["save_id"] = "c"; }),
       "has save id 'a', expected 'c'"},
  };
  for (auto const& damage : damages) {
    BOOST_TEST_CONTEXT(damage.what) {
      mf::test::TemporaryFolder const folder;
      mf::write_tensors(folder.path(), "model", tensors.all(), {{"save_id", "a"}}, 160);
      BOOST_REQUIRE(std::filesystem::exists(folder / second));
      check(mf::TensorSource{folder.path()});
      damage.apply(folder.path());
      BOOST_CHECK_EXCEPTION(mf::TensorSource{folder.path()}, mf::FormatError, message_contains(damage.message));
    }
  }
}

BOOST_AUTO_TEST_CASE(files_without_a_save_id_are_accepted) {
  mf::SaveIdCheck check;
  check.see("a", "");
  check.see("b", "1");
  check.see("c", "");
  check.see("d", "1");
  BOOST_TEST(check.id() == "1");
  BOOST_CHECK_EXCEPTION(check.see("e", "2"), mf::FormatError,
                        message_contains("\"e\" has save id '2', expected '1' as in \"b\""));
  std::string const id = mf::make_save_id();
  BOOST_TEST(id.size() == 16u);
  BOOST_TEST(id.find_first_not_of("0123456789abcdef") == std::string::npos);
  BOOST_TEST(id != mf::make_save_id());
}

BOOST_AUTO_TEST_SUITE_END()
