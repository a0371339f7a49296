// SPDX-License-Identifier: MIT
// Folders that cannot be loaded: each is refused with a message that says what and where.
#include <moduleformer/backend/cpu.hpp>
#include <moduleformer/io/checkpoint.hpp>
#include <moduleformer/model/causal_lm.hpp>
#include <moduleformer/model/sequence_classifier.hpp>

#include "io/model_folder.hpp"

#include <boost/test/unit_test.hpp>

#include <filesystem>
#include <functional>
#include <string>
#include <vector>

namespace mf = moduleformer;
namespace fs = std::filesystem;
using mf::test::ModelFolder;
using nlohmann::json;

namespace {

using Dynamic = mf::CausalLM<mf::dynamic_shape, mf::dynamic_policies, mf::Cpu<float>>;
using DynamicClassifier = mf::SequenceClassifier<mf::dynamic_shape, mf::dynamic_policies, mf::Cpu<float>>;

bool contains(std::string const& text, std::string const& part) { return text.find(part) != std::string::npos; }

/// Throws that exception, with a message that has the parts.
template <class Exception>
void check_refused(std::function<void()> const& action, std::vector<std::string> const& parts) {
  try {
    action();
    BOOST_ERROR("accepted, expected a refusal with " << parts.front());
  } catch (Exception const& error) {
    for (auto const& part : parts) BOOST_TEST(contains(error.what(), part), error.what() << " lacks " << part);
    // A caller's mistake is not a bad file.
    if constexpr (std::is_same_v<Exception, mf::Error>)
      BOOST_TEST(dynamic_cast<mf::FormatError const*>(&error) == nullptr, error.what());
  }
}
template <class Model = Dynamic, class Exception = mf::FormatError>
void check_load(ModelFolder const& folder, std::vector<std::string> const& parts) {
  check_refused<Exception>([&] { (void)mf::load<Model>(folder.path()); }, parts);
}

/// The golden model's shape with one extent changed.
constexpr mf::Shape changed(auto change) {
  mf::Shape shape{.vocab_size = 61, .hidden_size = 24, .layers = 2, .router_hidden_size = 12,
                  .attention = {.experts = 4, .top_k = 2, .heads = 2, .hidden_size = 16},
                  .feed_forward = {.experts = 6, .top_k = 2, .hidden_size = 40}};
  change(shape);
  return shape;
}
/// Only what load needs of a model type.
template <mf::Shape shape, class PolicySet = mf::Policies<>>
void check_type(std::vector<std::string> const& parts) {
  ModelFolder folder;
  check_load<mf::CausalLM<shape, PolicySet, mf::Cpu<float>>, mf::Error>(folder, parts);
}

}  // namespace

BOOST_AUTO_TEST_CASE(tensors_that_do_not_fit) {
  std::string const name = "transformer.h.1.mlpf.experts.weight";
  ModelFolder missing;
  missing.edit_tensors([&](auto& tensors) {
    std::erase_if(tensors, [](auto const& tensor) { return tensor.name.starts_with("transformer.h.1.mlpf."); });
  });
  check_load(missing, {"model.safetensors", "missing tensors: '" + name + "'", "(6, 24, 40)"});

  ModelFolder renamed;
  renamed.edit_tensor(name, [](auto& tensor) { tensor.name = "transformer.h.1.mlpf.experts.wait"; });
  check_load(renamed, {"missing tensors: '" + name + "'", "not known: 'transformer.h.1.mlpf.experts.wait'"});

  ModelFolder shape;
  shape.edit_tensor(name, [](auto& tensor) { tensor.shape = {6, 40, 24}; });
  check_load(shape, {"'" + name + "' at byte", "expected shape (6, 24, 40)", "found (6, 40, 24)"});

  ModelFolder integers;
  integers.edit_tensor(name, [&](auto& tensor) { tensor = mf::test::zeros(name, mf::StorageType::i32, {6, 24, 40}); });
  check_load(integers, {"'" + name + "' at byte", "expected F64, F32, F16 or BF16, found I32"});

  ModelFolder extra("dense_all_experts");
  extra.edit_tensors([](auto& tensors) {
    tensors.push_back(mf::test::zeros("transformer.h.0.attn.mask", mf::StorageType::u8, {8, 8}));
    tensors.push_back(mf::test::zeros("transformer.h.1.attn.cum_weight", mf::StorageType::f32, {8, 8}));
  });
  (void)mf::load<Dynamic>(extra.path());
  extra.edit_tensors([](auto& tensors) {
    tensors.push_back(mf::test::zeros("transformer.h.2.attn.bias", mf::StorageType::f32, {3}));
    tensors.push_back(mf::test::zeros("optimizer", mf::StorageType::f32, {3}));
  });
  check_load(extra, {"tensors that the model does not have: 'optimizer', 'transformer.h.2.attn.bias'"});
  (void)mf::load<Dynamic>(extra.path(), {.allow_extra_tensors = true});
}

BOOST_AUTO_TEST_CASE(files_that_are_not_there_or_broken) {
  ModelFolder folder;
  check_refused<mf::Error>([&] { (void)mf::load<Dynamic>(folder.beside("absent")); }, {"absent", "no such folder"});
  auto const text = mf::test::read_text(folder.path() / "model.safetensors");
  mf::test::write_text(folder.path() / "model.safetensors", text.substr(0, text.size() / 2));
  check_load(folder, {"model.safetensors", "reach beyond the file"});
  fs::remove(folder.path() / "model.safetensors");
  check_load<Dynamic, mf::Error>(folder, {"has neither model.safetensors nor model.safetensors.index.json"});
  fs::remove(folder.path() / "config.json");
  check_load<Dynamic, mf::Error>(folder, {"config.json"});
  // A file is no folder.
  mf::test::write_text(folder.beside("file"), "");
  check_refused<mf::Error>([&] { (void)mf::load<Dynamic>(folder.beside("file")); }, {"is not a folder"});
  check_refused<mf::Error>([&] { mf::save(mf::load<Dynamic>(mf::test::golden_path("dense_all_experts")), folder.beside("file")); },
                           {"is not a folder"});
}

// Sizes are compared with the file before anything of that size is made.
BOOST_AUTO_TEST_CASE(hostile_sizes) {
  ModelFolder layers;
  layers.set("n_layer", 2147483647);
  check_load(layers, {"n_layer is 2147483647", "no tensor begins with 'transformer.h.2.'"});
  layers.set("n_layer", 1);
  check_load(layers, {"tensors that the model does not have: 'transformer.h.1."});
  ModelFolder wide;
  for (char const* const key : {"vocab_size", "n_embd", "att_hidden", "ffd_hidden", "gating_size"}) wide.set(key, 2147483646);
  check_load(wide, {"config.json", "overflows"});
  ModelFolder large;
  large.set("vocab_size", 1 << 30);
  check_load(large, {"'transformer.wte.weight' at byte", "expected shape (1073741824, 24)", "found (61, 24)"});
}

BOOST_AUTO_TEST_CASE(the_other_head) {
  ModelFolder language;
  check_load<DynamicClassifier, mf::Error>(language, {"ModuleFormerForCausalLM", "ModuleFormerForSequenceClassification"});
  ModelFolder classifier("sequence_classification");
  check_load<Dynamic, mf::Error>(classifier, {"ModuleFormerForSequenceClassification", "ModuleFormerForCausalLM"});
  language.set("architectures", {"ModuleFormerForSequenceClassification"});
  language.set("num_labels", 3);
  check_load<DynamicClassifier>(language, {"architectures says ModuleFormerForSequenceClassification", "head of ModuleFormerForCausalLM"});
  language.edit_tensors([](auto& tensors) { tensors.push_back(mf::test::zeros("score.weight", mf::StorageType::f32, {3, 24})); });
  check_load(language, {"expected lm_head.weight of a language model or score.weight of a classifier, found both"});
  language.edit_tensors([](auto& tensors) {
    std::erase_if(tensors, [](auto const& tensor) { return tensor.name == "score.weight" || tensor.name == "lm_head.weight"; });
  });
  check_load(language, {"found neither"});
}

BOOST_AUTO_TEST_CASE(labels_that_disagree) {
  ModelFolder folder("sequence_classification");
  folder.set("num_labels", 4);
  check_load<DynamicClassifier>(folder, {"num_labels or id2label says 4 labels", "has 3 rows"});
  folder.remove("num_labels");
  folder.set("id2label", {{"0", "a"}, {"1", "b"}});
  check_load<DynamicClassifier>(folder, {"num_labels or id2label says 2 labels", "has 3 rows"});
  folder.remove("id2label");
  folder.edit_tensor("score.weight", [](auto& tensor) { tensor = mf::test::zeros("score.weight", mf::StorageType::f32, {1, 24}); });
  check_load<DynamicClassifier>(folder, {"num_labels", "regression"});
}

BOOST_AUTO_TEST_CASE(policies_that_are_not_offered) {
  for (auto const& [key, choices] : {std::pair{"gate_type", "mlp, mlp_relu, linear, gmm"},
                                     std::pair{"activation_function", "gelu_new, gelu, relu, silu, tanh"}}) {
    ModelFolder folder;
    folder.set(key, "quadratic");
    check_load(folder, {"config.json", std::string(key) + ": expected one of " + choices + ", found 'quadratic'"});
  }
  ModelFolder own;
  own.set("moduleformer", {{"policies", {{"attention", "sideways"}}}});
  check_load(own, {"attention: expected one of inclusive, inclusive_remainder, strict, strict_remainder, found 'sideways'"});
  own.set("moduleformer", {{"policies", {{"aux_loss_type", {{"name", "switch"}, {"z_wait", 1}}}}}});
  check_load(own, {"aux_loss_type: 'switch' has only the numbers z_weight"});
  own.set("moduleformer", {{"policies", {{"aux_loss_type", {{"name", "mi"}, {"weight", 1}}}}}});
  check_load(own, {"aux_loss_type: 'mi' has no numbers"});
}

BOOST_AUTO_TEST_CASE(a_type_and_a_folder_that_differ) {
  using mf::Shape;
  check_type<changed([](Shape& s) { s.vocab_size = 62; })>({"vocab_size: the model's type says 62, the file says 61"});
  check_type<changed([](Shape& s) { s.hidden_size = 32; })>({"n_embd: the model's type says 32, the file says 24"});
  check_type<changed([](Shape& s) { s.layers = 3; })>({"n_layer: the model's type says 3, the file says 2"});
  check_type<changed([](Shape& s) { s.router_hidden_size = 13; })>({"gating_size: the model's type says 13, the file says 12"});
  check_type<changed([](Shape& s) { s.attention.experts = 5; })>({"n_att_experts: the model's type says 5, the file says 4"});
  check_type<changed([](Shape& s) { s.attention.top_k = 1; })>({"k_att: the model's type says 1, the file says 2"});
  check_type<changed([](Shape& s) { s.attention.heads = 4; })>({"n_head: the model's type says 4, the file says 2"});
  check_type<changed([](Shape& s) { s.attention.hidden_size = 8; })>({"att_hidden: the model's type says 8, the file says 16"});
  check_type<changed([](Shape& s) { s.feed_forward.experts = 7; })>({"n_mlp_experts: the model's type says 7, the file says 6"});
  check_type<changed([](Shape& s) { s.feed_forward.top_k = 3; })>({"k_mlp: the model's type says 3, the file says 2"});
  check_type<changed([](Shape& s) { s.feed_forward.hidden_size = 41; })>({"ffd_hidden: the model's type says 41, the file says 40"});
  constexpr Shape same = changed([](Shape&) {});
  check_type<same, mf::Policies<mf::LinearRouter>>({"gate_type: the model's type has 'linear', the file says 'mlp'"});
  check_type<same, mf::Policies<mf::Relu>>({"activation_function: the model's type has 'relu', the file says 'gelu_new'"});
  check_type<same, mf::Policies<mf::SwitchLoss>>({"aux_loss_type: the model's type has 'switch', the file says 'mi'"});
  check_type<same, mf::Policies<mf::StrictAttention>>({"attention: the model's type has 'strict', the file says 'inclusive'"});

  ModelFolder classifier("sequence_classification");
  constexpr Shape labels{.labels = 5};
  check_load<mf::SequenceClassifier<labels, mf::dynamic_policies, mf::Cpu<float>>, mf::Error>(
      classifier, {"num_labels: the model's type says 5, the file says 3"});
}

BOOST_AUTO_TEST_CASE(files_of_different_saves) {
  ModelFolder folder;
  auto const model = mf::load<Dynamic>(folder.path());
  auto const one = folder.beside("one"), two = folder.beside("two");
  mf::save(model, one);
  mf::save(model, two);
  fs::copy_file(one / "config.json", two / "config.json", fs::copy_options::overwrite_existing);
  check_refused<mf::FormatError>([&] { (void)mf::load<Dynamic>(two); }, {"save id", "not saved together"});
}

BOOST_AUTO_TEST_CASE(types_that_weights_cannot_be_written_in) {
  ModelFolder folder;
  auto const model = mf::load<Dynamic>(folder.path());
  for (auto const type : {mf::StorageType::i32, mf::StorageType::f16})
    check_refused<mf::Error>([&] { mf::save(model, folder.path(), {.storage = type}); }, {"weights are written as f32, bf16 or f64"});
  check_refused<mf::Error>([&] { mf::save(model, folder.path(), {.max_shard_bytes = 0}); }, {"max_shard_bytes"});
  (void)mf::load<Dynamic>(folder.path());
  BOOST_TEST(!fs::exists(folder.path().string() + ".tmp-" + std::to_string(mf::current_process())));
}
