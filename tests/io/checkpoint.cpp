// SPDX-License-Identifier: MIT
// Models saved and loaded: the same bits, in one file or shards, mapped or owned, from every storage type.
#include <moduleformer/backend/cpu.hpp>
#include <moduleformer/io/checkpoint.hpp>
#include <moduleformer/model/causal_lm.hpp>
#include <moduleformer/model/sequence_classifier.hpp>

#include "io/model_folder.hpp"

#include <boost/test/unit_test.hpp>

#include <bit>
#include <cstring>
#include <filesystem>
#include <set>

namespace mf = moduleformer;
namespace fs = std::filesystem;
using mf::test::ModelFolder;
using mf::test::TemporaryFolder;

namespace {

constexpr mf::Shape small{
    .vocab_size = 11, .hidden_size = 8, .layers = 2, .router_hidden_size = 5,
    .attention    = {.experts = 3, .top_k = 2, .heads = 2, .hidden_size = 6},
    .feed_forward = {.experts = 4, .top_k = 2, .hidden_size = 7},
};
using Model = mf::CausalLM<small, mf::Policies<>, mf::Cpu<float>>;
using DoubleModel = mf::CausalLM<small, mf::Policies<>, mf::Cpu<double>>;
using Dynamic = mf::CausalLM<mf::dynamic_shape, mf::dynamic_policies, mf::Cpu<float>>;
using DynamicClassifier = mf::SequenceClassifier<mf::dynamic_shape, mf::dynamic_policies, mf::Cpu<float>>;

template <class A, class B>
void check_same_values(A const& a, B const& b) {
  BOOST_REQUIRE(a.table().count() == b.table().count());
  for (std::size_t i = 0; i < a.table().count(); ++i) {
    BOOST_TEST(a.table()[i].name == b.table()[i].name);
    BOOST_TEST(a.table()[i].shape == b.table()[i].shape, boost::test_tools::per_element());
    auto const x = a.values(i), y = b.values(i);
    BOOST_REQUIRE(x.size() == y.size());
    BOOST_TEST(std::memcmp(x.data(), y.data(), static_cast<std::size_t>(x.size()) * sizeof(x[0])) == 0, a.table()[i].name);
  }
}

template <class AnyModel>
std::vector<typename AnyModel::Scalar> logits_of(AnyModel const& model) {
  typename AnyModel::SessionType session{mf::SessionOptions{.threads = 2}};
  mf::Batch batch{.rows = 2, .tokens = 3, .ids = {1, 2, 3, 4, 5, 6}};
  return model.logits(session, batch).values;
}

std::set<std::string> files_in(fs::path const& folder) {
  std::set<std::string> names;
  for (auto const& entry : fs::directory_iterator(folder)) names.insert(entry.path().filename());
  return names;
}

}  // namespace

BOOST_FIXTURE_TEST_CASE(every_bit_comes_back, TemporaryFolder) {
  auto const model = Model::random(7, {.aux_loss_weight = 0.25, .embedding_dropout = 0.1, .sampled_slots = 1});
  auto const folder = path() / "model";
  mf::save(model, folder);
  BOOST_TEST(files_in(folder) == (std::set<std::string>{"config.json", "model.safetensors"}), boost::test_tools::per_element());
  auto const again = mf::load<Model>(folder);
  BOOST_TEST((again.config() == model.config()));
  BOOST_TEST((again.settings() == model.settings()));
  check_same_values(model, again);
  check_same_values(model, mf::load<Dynamic>(folder));
  BOOST_TEST(mf::describe_folder(folder).published_obstacle().empty());
  BOOST_TEST(mf::read_json(folder / "config.json").at("torch_dtype") == "float32");
}

BOOST_FIXTURE_TEST_CASE(policies_and_layers_of_all_kinds, TemporaryFolder) {
  mf::Config config = mf::Config::of(small);
  config.attention.experts = std::vector<mf::Index>{3, 5};
  config.feed_forward.experts = std::vector<mf::Index>{4, 2};
  config.eos_token_id = 10;
  mf::dynamic_policies policies;
  policies.attention = mf::StrictRemainderAttention{};
  policies.activation = mf::Silu{};
  policies.router = mf::MlpReluRouter{};
  using Sum = mf::WeightedSum<mf::MutualInformationLoss, mf::LoadConcentrationLoss, mf::SwitchLoss, mf::RouterZLoss,
                              mf::ImportanceLoss, mf::LoadLoss>;
  policies.routing_loss = Sum{.weights = {1, 0, 0.1, 1e-3, 0, 0.25}};
  policies.statistics = mf::WholeBatchStatistics{};
  auto const model = Dynamic::random(3, config, {.router_dropout = 0.125}, policies);
  mf::save(model, path() / "m");
  auto const again = mf::load<Dynamic>(path() / "m");
  BOOST_TEST((again.config() == config));
  BOOST_TEST((again.settings() == model.settings()));
  BOOST_TEST((mf::store_policies(again.policies()) == mf::store_policies(policies)));
  check_same_values(model, again);
  BOOST_TEST(logits_of(model) == logits_of(again), boost::test_tools::per_element());
  BOOST_TEST(!mf::describe_folder(path() / "m").published_obstacle().empty());

  policies.routing_loss = mf::SwitchLoss{.z_weight = 0.5};
  policies.router = mf::GmmRouter{};
  auto const other = Dynamic::random(3, config, {}, policies);
  mf::save(other, path() / "m");
  auto const reloaded = mf::load<Dynamic>(path() / "m");
  BOOST_TEST((mf::store_policies(reloaded.policies()) == mf::store_policies(policies)));
  check_same_values(other, reloaded);
}

BOOST_FIXTURE_TEST_CASE(bfloat16_is_rounded_once, TemporaryFolder) {
  auto const model = DoubleModel::random(5);
  mf::save(model, path() / "m", {.storage = mf::StorageType::bf16});
  BOOST_TEST(mf::read_json(path() / "m" / "config.json").at("torch_dtype") == "bfloat16");
  mf::TensorSource const source{path() / "m"};
  auto const again = mf::load<Model>(path() / "m");
  for (std::size_t i = 0; i < model.table().count(); ++i) {
    BOOST_TEST(source.at(model.table()[i].name).data_type.name == "BF16");
    for (mf::Index j = 0; j < model.values(i).size(); ++j) {
      float const expected = static_cast<float>(mf::convert_element<mf::bfloat16>(model.values(i)[j]));
      if (again.values(i)[j] != expected) BOOST_ERROR(model.table()[i].name << ": " << again.values(i)[j] << " != " << expected);
    }
  }
}

BOOST_FIXTURE_TEST_CASE(double_models, TemporaryFolder) {
  auto const model = DoubleModel::random(5);
  mf::save(model, path() / "wide", {.storage = mf::StorageType::f64});
  check_same_values(model, mf::load<DoubleModel>(path() / "wide"));
  mf::save(model, path() / "narrow");
  auto const narrow = mf::load<DoubleModel>(path() / "narrow");
  auto const from_wide = mf::load<Model>(path() / "wide");
  for (std::size_t i = 0; i < model.table().count(); ++i)
    for (mf::Index j = 0; j < model.values(i).size(); ++j) {
      BOOST_REQUIRE(narrow.values(i)[j] == static_cast<double>(static_cast<float>(model.values(i)[j])));
      BOOST_REQUIRE(from_wide.values(i)[j] == static_cast<float>(model.values(i)[j]));
    }
}

BOOST_FIXTURE_TEST_CASE(shards, TemporaryFolder) {
  auto const model = Model::random(9);
  auto const folder = path() / "m";
  mf::save(model, folder, {.max_shard_bytes = 1000});
  auto const sharded = files_in(folder);
  BOOST_TEST(sharded.contains("model.safetensors.index.json"));
  BOOST_TEST(sharded.size() > 11u);
  BOOST_TEST(sharded.contains("model-00010-of-000" + std::to_string(sharded.size() - 2) + ".safetensors"));
  check_same_values(model, mf::load<Model>(folder));
  check_same_values(model, mf::load<Model>(folder, {.map = false}));
  // One file again: no shard stays behind, what is not ours does.
  mf::test::write_text(folder / "tokenizer.json", "{}");
  mf::test::write_text(folder / "other.safetensors", mf::test::safetensors_bytes("{}", ""));
  mf::save(model, folder);
  BOOST_TEST(files_in(folder) ==
                 (std::set<std::string>{"config.json", "model.safetensors", "other.safetensors", "tokenizer.json"}),
             boost::test_tools::per_element());
  check_same_values(model, mf::load<Model>(folder));
}

// Names, shapes and config keys are those of the published code.
BOOST_AUTO_TEST_CASE(golden_folders_saved_again) {
  auto check = []<class AnyModel>(std::string const& name) {
    fs::path const golden = mf::test::golden_path(name);
    auto const model = mf::load<AnyModel>(golden);
    TemporaryFolder temporary;
    auto const folder = temporary / "m";
    mf::save(model, folder, {.config_from = golden});
    mf::TensorSource const before{golden}, after{folder};
    std::size_t parameters = 0;
    for (auto const& [tensor, entry] : before.tensors()) {
      if (mf::is_published_buffer(tensor)) continue;
      ++parameters;
      auto const* const found = after.find(tensor);
      BOOST_REQUIRE_MESSAGE(found != nullptr, name << ": " << tensor);
      BOOST_TEST(found->shape == entry.shape, boost::test_tools::per_element());
      BOOST_TEST(found->data_type.name == "F32");
      BOOST_TEST(found->template read<float>() == entry.template read<float>(), boost::test_tools::per_element());
    }
    BOOST_TEST(after.tensors().size() == parameters);
    auto const config = mf::read_json(folder / "config.json");
    auto const golden_config = mf::read_json(golden / "config.json");
    for (auto const& [key, value] : golden_config.items()) BOOST_TEST(config.at(key) == value, name << ": " << key);
    BOOST_TEST(mf::describe_folder(folder).published_obstacle().empty());
    // Over itself, the other keys stay as they are.
    mf::save(mf::load<AnyModel>(folder), folder);
    BOOST_TEST(mf::read_json(folder / "config.json").at("block_size") == 32);
    check_same_values(model, mf::load<AnyModel>(folder));
  };
  for (char const* const name : {"dense_all_experts", "gmm_router_mutual_information", "left_padded_batch", "linear_router_switch_loss",
                                 "mlp_router_mutual_information", "single_head_shared_keys"})
    check.template operator()<Dynamic>(name);
  check.template operator()<DynamicClassifier>("sequence_classification");
}

BOOST_AUTO_TEST_CASE(mapped_owned_and_unaligned_values_compute_the_same_bits) {
  ModelFolder folder;
  auto mapped = mf::load<Dynamic>(folder.path());
  auto owned = mf::load<Dynamic>(folder.path(), {.map = false});
  check_same_values(mapped, owned);
  auto const expected = logits_of(owned);
  BOOST_TEST(logits_of(mapped) == expected, boost::test_tools::per_element());
  BOOST_CHECK_THROW((void)mapped.writable(0), mf::Error);
  (void)owned.writable(0);
  mapped.own_values();
  (void)mapped.writable(0);
  check_same_values(mapped, owned);

  // One space more in the header: data at multiples of 4, not of 8; then at odd addresses.
  auto bytes = mf::test::read_text(folder.path() / "model.safetensors");
  std::uint64_t length = 0;
  std::memcpy(&length, bytes.data(), 8);
  for (std::uint64_t const extra : {4u, 1u}) {
    std::uint64_t const longer = length + extra;
    std::string shifted = bytes;
    std::memcpy(shifted.data(), &longer, 8);
    shifted.insert(8 + length, extra, ' ');
    mf::test::write_text(folder.path() / "model.safetensors.new", shifted);
    fs::rename(folder.path() / "model.safetensors.new", folder.path() / "model.safetensors");
    auto other = mf::load<Dynamic>(folder.path());
    check_same_values(other, owned);
    BOOST_TEST(logits_of(other) == expected, boost::test_tools::per_element());
    if (extra == 4) BOOST_CHECK_THROW((void)other.writable(0), mf::Error);  // still mapped
    else (void)other.writable(0);
  }
}

BOOST_AUTO_TEST_CASE(a_mapped_model_outlives_its_folder) {
  auto const mapped = [] {
    ModelFolder folder;
    return mf::load<Dynamic>(folder.path());
  }();
  BOOST_TEST(logits_of(mapped) == logits_of(mf::load<Dynamic>(mf::test::golden_path("mlp_router_mutual_information"), {.map = false})),
             boost::test_tools::per_element());
}

BOOST_AUTO_TEST_CASE(every_storage_type_is_read) {
  ModelFolder folder;
  auto const original = mf::load<Dynamic>(folder.path(), {.map = false});
  auto const& table = original.table();
  // 16-bit types keep the upper bits: of the original float, made exact by hand.
  folder.edit_tensors([&](std::vector<mf::OutputTensor>& tensors) {
    for (std::size_t i = 0; i < table.count(); ++i) {
      auto& tensor = *std::ranges::find(tensors, table[i].name, &mf::OutputTensor::name);
      float const* const data = original.values(i).data();
      constexpr mf::StorageType types[] = {mf::StorageType::f64, mf::StorageType::f32, mf::StorageType::bf16, mf::StorageType::f16};
      tensor.type = types[i % 4];
      if (i % 4 == 3) {
        tensor.store = [](mf::Index first, std::span<std::byte> bytes) {
          for (std::size_t j = 0; j < bytes.size() / 2; ++j) {
            auto const bits = static_cast<std::uint16_t>(0x3000 + (static_cast<std::size_t>(first) + j) % 0x800);
            std::memcpy(bytes.data() + 2 * j, &bits, 2);
          }
        };
      } else {
        tensor.store = mf::output_tensor<float>({}, tensor.type, tensor.shape, data).store;
      }
    }
  });
  auto const read = mf::load<Dynamic>(folder.path());
  for (std::size_t i = 0; i < table.count(); ++i)
    for (mf::Index j = 0; j < table[i].size(); ++j) {
      float expected = original.values(i)[j];
      if (i % 4 == 2) expected = static_cast<float>(mf::bfloat16(expected));
      if (i % 4 == 3) {
        mf::float16 half;
        half.bits = static_cast<std::uint16_t>(0x3000 + j % 0x800);
        expected = static_cast<float>(half);
      }
      BOOST_REQUIRE_MESSAGE(read.values(i)[j] == expected, table[i].name << ' ' << j);
    }
}

BOOST_AUTO_TEST_CASE(folders_that_say_less) {
  ModelFolder folder("sequence_classification");
  folder.remove("architectures");
  folder.remove("num_labels");
  auto const about = mf::describe_folder(folder.path());
  BOOST_TEST(about.classifies());
  BOOST_TEST(about.config.labels == 3);
  BOOST_TEST(mf::load<DynamicClassifier>(folder.path()).config().labels == 3);
  ModelFolder language;
  language.remove("architectures");
  BOOST_TEST(!mf::describe_folder(language.path()).classifies());
  (void)mf::load<Dynamic>(language.path());
  // A linear router has no hidden layer whose size could matter.
  ModelFolder linear("linear_router_switch_loss");
  linear.remove("gating_size");
  constexpr mf::Shape shape{.router_hidden_size = 12};
  (void)mf::load<mf::CausalLM<shape, mf::dynamic_policies, mf::Cpu<float>>>(linear.path());
  BOOST_TEST(mf::load<Dynamic>(linear.path()).config().router_hidden_size == 0);
}

BOOST_AUTO_TEST_CASE(an_interrupted_save_leaves_its_predecessor) {
  ModelFolder folder;
  auto const expected = mf::load<Dynamic>(folder.path(), {.map = false});
  fs::rename(folder.path(), folder.path().string() + ".old");
  check_same_values(expected, mf::load<Dynamic>(folder.path()));
  BOOST_TEST(mf::describe_folder(folder.path()).config.vocab_size == 61);
}
