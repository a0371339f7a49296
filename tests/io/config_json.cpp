// SPDX-License-Identifier: MIT
// config.json: read into sizes, settings and policies, written with the published keys, refused where wrong.
#include <moduleformer/io/config_json.hpp>
#include <moduleformer/io/output_file.hpp>

#include "io/support.hpp"
#include "support/golden.hpp"

#include <boost/test/unit_test.hpp>
#include <nlohmann/json.hpp>

#include <set>
#include <string>
#include <vector>

namespace mf = moduleformer;
using nlohmann::json;

namespace {

/// The required keys and no others.
json minimal() {
  return {{"vocab_size", 61}, {"n_embd", 24},        {"n_layer", 2}, {"n_head", 2},        {"att_hidden", 16}, {"ffd_hidden", 40},
          {"gating_size", 12}, {"n_att_experts", 4}, {"k_att", 2},   {"n_mlp_experts", 6}, {"k_mlp", 3}};
}

struct Folder {
  mf::test::TemporaryFolder folder;

  mf::StoredConfig read(std::string const& text) const {
    mf::test::write_text(folder / "config.json", text);
    return mf::read_config(folder / "config.json");
  }
  mf::StoredConfig read(json const& value) const { return read(value.dump()); }
  /// The message of the FormatError that reading throws, or "".
  std::string refusal(json const& value) const {
    try {
      (void)read(value);
    } catch (mf::FormatError const& error) {
      BOOST_TEST(std::string(error.what()).find("config.json") != std::string::npos, error.what());
      return error.what();
    }
    return {};
  }
  std::string refusal_with(std::string const& key, json const& value) const {
    json changed = minimal();
    changed[key] = value;
    return refusal(changed);
  }
};

bool contains(std::string const& text, std::string const& part) { return text.find(part) != std::string::npos; }

/// Refused with a message that has the parts.
void check_refused(Folder const& folder, std::string const& key, json const& value, std::vector<std::string> const& parts) {
  std::string const message = folder.refusal_with(key, value);
  BOOST_TEST(!message.empty(), key << " = " << value.dump() << " was accepted");
  for (auto const& part : parts) BOOST_TEST(contains(message, part), message << " lacks " << part);
}

}  // namespace

BOOST_FIXTURE_TEST_CASE(required_keys_and_published_defaults, Folder) {
  auto const stored = read(minimal());
  mf::Config const& c = stored.config;
  BOOST_TEST(c.vocab_size == 61);
  BOOST_TEST(c.hidden_size == 24);
  BOOST_TEST(c.layers == 2);
  BOOST_TEST(c.router_hidden_size == 12);
  BOOST_TEST(c.attention.heads == 2);
  BOOST_TEST(c.attention.hidden_size == 16);
  BOOST_TEST(c.attention.top_k == 2);
  BOOST_TEST((c.attention.experts == mf::ExpertCounts(4)));
  BOOST_TEST(c.feed_forward.hidden_size == 40);
  BOOST_TEST(c.feed_forward.top_k == 3);
  BOOST_TEST((c.feed_forward.experts == mf::ExpertCounts(6)));
  BOOST_TEST(c.labels == 0);
  BOOST_TEST(c.pad_token_id == -1);
  BOOST_TEST(c.eos_token_id == -1);  // the published 50256 is not in this vocabulary
  BOOST_TEST((stored.settings == mf::Settings{}));
  BOOST_TEST(stored.policies.at("gate_type").name == "mlp");
  BOOST_TEST(stored.policies.at("aux_loss_type").name == "mi");
  BOOST_TEST(stored.policies.at("activation_function").name == "gelu_new");
  BOOST_TEST(stored.policies.at("attention").name == "inclusive");
  BOOST_TEST(stored.architecture.empty());
  BOOST_TEST(stored.published_obstacle().empty());

  json written = minimal();  // as transformers writes the defaults
  written["bos_token_id"] = written["eos_token_id"] = 50256;
  BOOST_TEST(read(written).config.bos_token_id == -1);
  BOOST_TEST(read(written).config.eos_token_id == -1);
  json large = minimal();
  large["vocab_size"] = 50295;
  BOOST_TEST(read(large).config.eos_token_id == 50256);
  large["eos_token_id"] = nullptr;
  BOOST_TEST(read(large).config.eos_token_id == -1);

  json const required = minimal();
  for (auto const& [key, value] : required.items()) {
    json less = minimal();
    less.erase(key);
    BOOST_TEST(contains(refusal(less), "the key " + key + " is missing"));
  }
  json linear = minimal();
  linear["gate_type"] = "linear";
  linear.erase("gating_size");
  BOOST_TEST(read(linear).config.router_hidden_size == 0);
}

BOOST_FIXTURE_TEST_CASE(settings_and_names, Folder) {
  json all = minimal();
  all.update({{"aux_loss_weight", 0.05}, {"embd_pdrop", 0.1}, {"resid_pdrop", 0.2}, {"moe_pdrop", 0.3}, {"sample_topk", 1},
              {"initializer_range", 0.5}, {"activation_function", "silu"}, {"gate_type", "gmm"}, {"aux_loss_type", "switch"},
              {"pad_token_id", 0}, {"bos_token_id", 1}, {"eos_token_id", 2}, {"block_size", 32}, {"transformers_version", "4.30"},
              {"architectures", {"ModuleFormerForCausalLM"}}, {"layer_norm_epsilon", 1e-5}, {"attn_pdrop", 0},
              {"tie_word_embeddings", false}, {"model_type", "moduleformer"}});
  auto const stored = read(all);
  BOOST_TEST((stored.settings == mf::Settings{.aux_loss_weight = 0.05, .embedding_dropout = 0.1, .residual_dropout = 0.2,
                                              .router_dropout = 0.3, .sampled_slots = 1, .initializer_range = 0.5}));
  BOOST_TEST(stored.policies.at("activation_function").name == "silu");
  BOOST_TEST(stored.policies.at("gate_type").name == "gmm");
  BOOST_TEST(stored.policies.at("aux_loss_type").name == "switch");
  BOOST_TEST(stored.config.pad_token_id == 0);
  BOOST_TEST(stored.architecture == mf::StoredConfig::language_model);
  BOOST_TEST(!stored.classifies());
  BOOST_TEST(stored.others == json({{"block_size", 32}, {"transformers_version", "4.30"}}));
  // As the published code has it, everything else is switch.
  all["aux_loss_type"] = "router_z";
  BOOST_TEST(read(all).policies.at("aux_loss_type").name == "switch");
}

BOOST_FIXTURE_TEST_CASE(keys_of_our_own, Folder) {
  json own = minimal();
  own["gate_type"] = "mlp_relu";
  own["moduleformer"] = {{"version", 1},
                         {"save_id", "0123456789abcdef"},
                         {"policies", {{"attention", "strict"}, {"gate_type", "mlp_relu"},
                                       {"aux_loss_type", {{"name", "weighted_sum"}, {"mi", 1}, {"router_z", 0.5}}}}},
                         {"n_att_experts", {4, 3}},
                         {"router_jitter", 0.25}};
  auto const stored = read(own);
  BOOST_TEST(stored.save_id == "0123456789abcdef");
  BOOST_TEST(stored.policies.at("attention").name == "strict");
  BOOST_TEST(stored.policies.at("gate_type").name == "mlp_relu");
  BOOST_TEST((stored.policies.at("aux_loss_type") == mf::StoredPolicy{"weighted_sum", {{"mi", 1.0}, {"router_z", 0.5}}}));
  BOOST_TEST((stored.config.attention.experts == mf::ExpertCounts(std::vector<mf::Index>{4, 3})));
  BOOST_TEST((stored.config.feed_forward.experts == mf::ExpertCounts(6)));
  BOOST_TEST(stored.settings.router_jitter == 0.25);
  BOOST_TEST(json::parse(mf::config_text(stored, "float32")).at("moduleformer") == own["moduleformer"]);

  auto const refused = [&](json const& value) { return refusal_with("moduleformer", value); };
  BOOST_TEST(contains(refused(3), "moduleformer: expected an object, found 3"));
  BOOST_TEST(contains(refused({{"version", 2}}), "moduleformer.version: expected 1, found 2"));
  BOOST_TEST(contains(refused({{"dormant", {1}}}), "moduleformer.dormant: not known here"));
  BOOST_TEST(contains(refused({{"save_id", 1}}), "moduleformer.save_id: expected a string"));
  BOOST_TEST(contains(refused({{"n_att_experts", 4}}), "moduleformer.n_att_experts: expected an array"));
  BOOST_TEST(contains(refused({{"n_att_experts", json::array()}}), "moduleformer.n_att_experts: expected one integer per layer"));
  BOOST_TEST(contains(refused({{"n_att_experts", {4, 4.5}}}), "moduleformer.n_att_experts: expected an integer, found 4.5"));
  BOOST_TEST(contains(refused({{"n_att_experts", {4, 4, 4}}}), "n_att_experts: expected one count per layer, 2, found 3"));
  BOOST_TEST(contains(refused({{"n_mlp_experts", {6, 2}}}), "k_mlp: 3 exceeds n_mlp_experts 2"));
  BOOST_TEST(contains(refused({{"policies", {{"attention", 1}}}}), "moduleformer.policies.attention: expected a policy's name"));
  BOOST_TEST(contains(refused({{"policies", {{"colour", "red"}}}}), "moduleformer.policies.colour: not known here"));
  BOOST_TEST(contains(refused({{"policies", {{"attention", json::object()}}}}), "moduleformer.policies.attention.name is missing"));
  BOOST_TEST(contains(refused({{"policies", {{"aux_loss_type", {{"name", "switch"}, {"z_weight", "much"}}}}}}),
                      "moduleformer.policies.aux_loss_type.z_weight: expected a number, found 'much'"));
  BOOST_TEST(contains(refused({{"router_jitter", 1}}), "router_jitter: expected a number in [0, 1), found 1"));
  json contradiction = minimal();
  contradiction["gate_type"] = "gmm";
  contradiction["moduleformer"] = {{"policies", {{"gate_type", "mlp_relu"}}}};
  BOOST_TEST(contains(refusal(contradiction), "gate_type: is 'mlp_relu', but the key gate_type is 'gmm'"));
}

BOOST_FIXTURE_TEST_CASE(refused_values, Folder) {
  using Parts = std::vector<std::string>;
  check_refused(*this, "layer_norm_epsilon", 1e-6, Parts{"layer_norm_epsilon", "1e-5", "1e-06"});
  check_refused(*this, "attn_pdrop", 0.1, Parts{"attn_pdrop", "0.1"});
  check_refused(*this, "tie_word_embeddings", true, Parts{"tie_word_embeddings"});
  check_refused(*this, "model_type", "gpt2", Parts{"model_type", "'gpt2'", "'moduleformer'"});
  check_refused(*this, "architectures", json{"GPT2LMHeadModel"}, Parts{"architectures", "ModuleFormerForCausalLM", "'GPT2LMHeadModel'"});
  check_refused(*this, "architectures", "ModuleFormerForCausalLM", Parts{"architectures", "an array"});
  check_refused(*this, "problem_type", "regression", Parts{"problem_type", "'regression'"});

  json const required = minimal();
  for (auto const& [key, value] : required.items()) {
    check_refused(*this, key, "24", Parts{key, "expected an integer, found '24'"});
    check_refused(*this, key, 24.5, Parts{key, "24.5"});
    check_refused(*this, key, 24.0, Parts{key, "24.0"});
    check_refused(*this, key, nullptr, Parts{key, "null"});
    check_refused(*this, key, true, Parts{key, "true"});
    check_refused(*this, key, json::array({24}), Parts{key, "an array"});
    check_refused(*this, key, 0, Parts{key, "found 0"});
    check_refused(*this, key, -3, Parts{key, "-3"});
    check_refused(*this, key, std::int64_t{1} << 40, Parts{key, "1099511627776"});
    check_refused(*this, key, std::uint64_t{1} << 63, Parts{key, "9223372036854775808"});
    check_refused(*this, key, 1e30, Parts{key, "1e+30"});
  }
  check_refused(*this, "k_att", 5, Parts{"k_att: 5 exceeds n_att_experts 4"});
  check_refused(*this, "k_mlp", 7, Parts{"k_mlp: 7 exceeds n_mlp_experts 6"});
  check_refused(*this, "n_head", 3, Parts{"n_head: 3 does not divide att_hidden 16"});
  check_refused(*this, "sample_topk", 3, Parts{"sample_topk", "found 3"});
  check_refused(*this, "sample_topk", -1, Parts{"sample_topk", "found -1"});
  check_refused(*this, "sample_topk", 0.5, Parts{"sample_topk", "expected an integer"});
  for (char const* const key : {"embd_pdrop", "resid_pdrop", "moe_pdrop"}) {
    check_refused(*this, key, 1, Parts{key, "[0, 1)", "found 1"});
    check_refused(*this, key, -0.25, Parts{key, "-0.25"});
    check_refused(*this, key, "0.1", Parts{key, "expected a number, found '0.1'"});
  }
  check_refused(*this, "aux_loss_weight", -1, Parts{"aux_loss_weight", "found -1"});
  check_refused(*this, "initializer_range", -0.02, Parts{"initializer_range", "-0.02"});
  check_refused(*this, "aux_loss_type", 1, Parts{"aux_loss_type", "expected a string, found 1"});
  check_refused(*this, "gate_type", nullptr, Parts{"gate_type", "expected a string, found null"});
  check_refused(*this, "pad_token_id", 61, Parts{"pad_token_id", "61"});
  check_refused(*this, "pad_token_id", -1, Parts{"pad_token_id", "-1"});
  check_refused(*this, "eos_token_id", 61, Parts{"eos_token_id", "61"});
  check_refused(*this, "pad_token_id", 50256, Parts{"pad_token_id", "50256"});
  check_refused(*this, "eos_token_id", "2", Parts{"eos_token_id", "'2'"});
  check_refused(*this, "num_labels", 0, Parts{"num_labels", "found 0"});
  check_refused(*this, "num_labels", "3", Parts{"num_labels", "'3'"});
  check_refused(*this, "id2label", 3, Parts{"id2label", "an object"});
}

BOOST_FIXTURE_TEST_CASE(labels, Folder) {
  json classifier = minimal();
  classifier["architectures"] = {"ModuleFormerForSequenceClassification"};
  BOOST_TEST(read(classifier).config.labels == 0);
  classifier["id2label"] = {{"0", "bad"}, {"1", "good"}, {"2", "so so"}};
  BOOST_TEST(read(classifier).config.labels == 3);
  classifier["num_labels"] = 3;
  BOOST_TEST(read(classifier).config.labels == 3);
  BOOST_TEST(read(classifier).classifies());
  BOOST_TEST(read(classifier).others.contains("id2label"));
  classifier["num_labels"] = 4;
  BOOST_TEST(contains(refusal(classifier), "num_labels: is 4, but id2label has 3 labels"));
  // A language model has no labels, whatever is left there of them.
  classifier["architectures"] = {"ModuleFormerForCausalLM"};
  BOOST_TEST(read(classifier).config.labels == 0);
}

BOOST_FIXTURE_TEST_CASE(malformed_files, Folder) {
  for (char const* const text : {"", "[1]", "{\"vocab_size\": 61", "{\"vocab_size\": 61, \"vocab_size\": 62}", "3"}) {
    BOOST_CHECK_THROW((void)read(std::string(text)), mf::FormatError);
  }
  BOOST_CHECK_THROW((void)mf::read_config(folder / "absent.json"), mf::Error);
}

// What was read is what is written, with all the keys of the published code and one of our own.
BOOST_FIXTURE_TEST_CASE(written_again, Folder) {
  for (char const* const name : {"dense_all_experts", "gmm_router_mutual_information", "left_padded_batch", "linear_router_switch_loss",
                                 "mlp_router_mutual_information", "sequence_classification", "single_head_shared_keys"}) {
    json const original = json::parse(mf::test::read_text(mf::test::golden_path(name) + "/config.json"));
    auto const stored = mf::read_config(mf::test::golden_path(name) + "/config.json");
    BOOST_TEST(stored.published_obstacle().empty());
    json const written = json::parse(mf::config_text(stored, "float32"));
    for (auto const& [key, value] : original.items()) BOOST_TEST(written.at(key) == value, name << ": " << key);
    std::set<std::string> const published{
        "vocab_size", "block_size", "history_length", "n_embd", "n_layer", "n_head", "att_hidden", "ffd_hidden",
        "activation_function", "resid_pdrop", "embd_pdrop", "attn_pdrop", "moe_pdrop", "sample_topk", "gating_size",
        "n_att_experts", "k_att", "n_mlp_experts", "k_mlp", "layer_norm_epsilon", "initializer_range", "use_cache", "bos_token_id",
        "eos_token_id", "pad_token_id", "tie_word_embeddings", "aux_loss_type", "aux_loss_weight", "gate_type", "model_type",
        "architectures", "torch_dtype"};
    std::set<std::string> keys;
    for (auto const& [key, value] : written.items()) keys.insert(key);
    BOOST_TEST(keys.erase("moduleformer") == 1u);
    BOOST_TEST(keys.erase("num_labels") == (stored.classifies() ? 1u : 0u));
    BOOST_TEST(keys == published, boost::test_tools::per_element());
    BOOST_TEST(written.at("moduleformer") == json({{"version", 1}}));
    auto const again = read(written);
    BOOST_TEST((again.config == stored.config));
    BOOST_TEST((again.settings == stored.settings));
    BOOST_TEST((again.policies == stored.policies));
    BOOST_TEST(again.architecture == stored.architecture);
  }
}

BOOST_FIXTURE_TEST_CASE(what_the_published_code_cannot_load, Folder) {
  auto obstacle_after = [&](auto change) {
    auto stored = read(minimal());
    stored.architecture = mf::StoredConfig::language_model;
    stored.save_id = "0123456789abcdef";
    change(stored);
    auto const again = read(json::parse(mf::config_text(stored, "float32")));
    BOOST_TEST((again.policies == stored.policies));
    BOOST_TEST((again.config == stored.config));
    BOOST_TEST(again.save_id == stored.save_id);
    BOOST_TEST(again.published_obstacle() == stored.published_obstacle());
    return again.published_obstacle();
  };
  BOOST_TEST(obstacle_after([](mf::StoredConfig&) {}).empty());
  BOOST_TEST(obstacle_after([](mf::StoredConfig& s) { s.policies["aux_loss_type"] = {"switch"}; }).empty());
  BOOST_TEST(contains(obstacle_after([](mf::StoredConfig& s) { s.policies["aux_loss_type"] = {"switch", {{"z_weight", 0.0}}}; }),
                      "aux_loss_type is 'switch' with numbers of its own"));
  BOOST_TEST(contains(obstacle_after([](mf::StoredConfig& s) { s.policies["aux_loss_type"] = {"router_z"}; }),
                      "aux_loss_type is 'router_z', and the published code knows only mi switch"));
  BOOST_TEST(contains(obstacle_after([](mf::StoredConfig& s) {
                        s.policies["aux_loss_type"] = {"weighted_sum", {{"mi", 1.0}, {"router_z", 1e-3}}};
                      }),
                      "weighted_sum"));
  BOOST_TEST(contains(obstacle_after([](mf::StoredConfig& s) { s.policies["attention"] = {"strict_remainder"}; }), "attention"));
  BOOST_TEST(contains(obstacle_after([](mf::StoredConfig& s) { s.policies["gate_type"] = {"mlp_relu"}; }), "gate_type"));
  BOOST_TEST(contains(obstacle_after([](mf::StoredConfig& s) { s.policies["gating"] = {"users_gating"}; }), "gating"));
  BOOST_TEST(contains(obstacle_after([](mf::StoredConfig& s) { s.config.attention.experts = {std::vector<mf::Index>{5, 4}}; }),
                      "n_att_experts differs between layers"));
  BOOST_TEST(contains(obstacle_after([](mf::StoredConfig& s) { s.config.feed_forward.experts = {std::vector<mf::Index>{3, 7}}; }),
                      "n_mlp_experts differs between layers"));
}
