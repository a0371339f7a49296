// SPDX-License-Identifier: MIT
#pragma once
// config.json of the published layout (github.com/IBM/ModuleFormer, configuration_moduleformer.py), read
// into sizes, settings and names of policies, and written from them. What its keys cannot express stands
// under one key of our own: "moduleformer": {"version": 1, "save_id": ..., "policies": {role: name or
// {"name": ..., number: ...}}, "n_att_experts": [one per layer], "n_mlp_experts": [...], "dormant_att_experts": [...],
// "dormant_mlp_experts": [...], "removed_att_experts": [...], "removed_mlp_experts": [...], "router_jitter": ...}.

#include <moduleformer/core/error.hpp>
#include <moduleformer/core/settings.hpp>
#include <moduleformer/io/json_file.hpp>
#include <moduleformer/io/json_object.hpp>
#include <moduleformer/model/config.hpp>

#include <nlohmann/json.hpp>

#include <algorithm>
#include <array>
#include <cmath>
#include <concepts>
#include <filesystem>
#include <map>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace moduleformer {

/// A policy as a file names it.
struct StoredPolicy {
  std::string name;
  std::map<std::string, double, std::less<>> numbers{};  // those that differ from the policy's defaults, at least
  friend bool operator==(StoredPolicy const&, StoredPolicy const&) = default;
};

/// All that config.json says of a model.
struct StoredConfig {
  std::filesystem::path file{};  // for messages
  Config config{};               // labels is 0 where the file does not say
  Settings settings{};
  std::map<std::string, StoredPolicy, std::less<>> policies{};  // by role: attention, gate_type, ...
  std::string architecture{};    // class of the published code; empty where the file does not say
  std::string save_id{};         // empty where there is none
  nlohmann::json others = nlohmann::json::object();  // keys without a meaning here, kept when saving again

  [[nodiscard]] bool classifies() const { return architecture == classifier; }
  /// Why the published code cannot load the folder or computes something else; empty if it can.
  [[nodiscard]] std::string published_obstacle() const;

  static constexpr std::string_view language_model = "ModuleFormerForCausalLM";
  static constexpr std::string_view classifier = "ModuleFormerForSequenceClassification";
};

/// Reads and checks the file. Throws Error if there is none, FormatError naming file and key if a value is
/// missing, of the wrong type, out of range, contradicting another, or not offered.
StoredConfig read_config(std::filesystem::path const& file);

/// The text of config.json. `data_type` is that of the weights in PyTorch's words: float32, bfloat16, float64.
std::string config_text(StoredConfig const& stored, std::string_view data_type);

/// Roles of policies: the published choice where a file names none, and all the names that the published
/// code knows.
struct PublishedRole {
  std::string_view key;
  std::string_view fallback;
  std::array<std::string_view, 5> names;
  [[nodiscard]] constexpr bool knows(std::string_view name) const {
    return !name.empty() && std::ranges::find(names, name) != names.end();
  }
};
inline constexpr std::array<PublishedRole, 9> published_roles{{
    {"attention", "inclusive", {"inclusive"}},
    {"activation_function", "gelu_new", {"gelu_new", "gelu", "relu", "silu", "tanh"}},
    {"gate_type", "mlp", {"mlp", "linear", "gmm"}},
    {"selection", "top_k", {"top_k"}},
    {"gating", "softmax", {"softmax"}},
    {"shared_experts", "none", {"none"}},
    {"aux_loss_type", "mi", {"mi", "switch"}},
    {"statistics", "micro_batch", {"micro_batch"}},
    {"norm", "layer_norm", {"layer_norm"}},
}};

namespace detail {

/// Roles whose name stands in a published key.
inline bool is_published_key(std::string_view role) {
  return role == "activation_function" || role == "gate_type" || role == "aux_loss_type";
}

/// Whether the published keys alone say which policy it is.
inline bool is_published(PublishedRole const& role, StoredPolicy const& policy) {
  if (!role.knows(policy.name)) return false;
  if (policy.name != "switch") return policy.numbers.empty();
  auto const weight = policy.numbers.find("z_weight");
  return weight == policy.numbers.end() || weight->second == 0.1;
}

inline StoredPolicy read_policy(JsonObject& object, std::string const& key, nlohmann::json const& value,
                                std::filesystem::path const& file) {
  if (value.is_string()) return {value.get<std::string>()};
  if (!value.is_object()) object.refuse(key, "a policy's name, or an object with it", value);
  JsonObject inner(value, file, "moduleformer.policies." + key + ".");
  StoredPolicy policy{inner.text("name")};
  nlohmann::json const numbers = inner.rest();
  for (auto const& [name, number] : numbers.items()) policy.numbers[name] = inner.number(name);
  return policy;
}

/// The published keys of policies, then those of our own, which win.
inline void read_policies(StoredConfig& stored, JsonObject& published, JsonObject* own) {
  for (auto const& role : published_roles) {
    StoredPolicy& policy = stored.policies[std::string(role.key)];
    policy.name = is_published_key(role.key) ? published.text(role.key, std::string(role.fallback)) : role.fallback;
  }
  // The published code takes any other name for switch.
  StoredPolicy& loss = stored.policies.find("aux_loss_type")->second;
  if (loss.name != "mi") loss.name = "switch";
  auto const* const policies = own == nullptr ? nullptr : own->find("policies");
  if (policies == nullptr) return;
  JsonObject object(*policies, stored.file, "moduleformer.policies.");
  for (auto const& role : published_roles) {
    std::string const key(role.key);
    auto const* const value = object.find(key);
    if (value == nullptr) continue;
    StoredPolicy const policy = read_policy(object, key, *value, stored.file);
    bool const is_bound = key == "activation_function" || key == "gate_type";
    if (auto const* const name = is_bound ? published.find(key) : nullptr; name != nullptr && *name != policy.name)
      object.refuse_as(key, "is ", quoted_name(policy.name), ", but the key ", key, " is ", quoted_value(*name));
    stored.policies[key] = policy;
  }
  if (auto const rest = object.rest(); !rest.empty())
    object.refuse_as(rest.begin().key(), "not known here; was this folder saved by a newer version?");
}

inline ExpertCounts read_experts(JsonObject& own, std::string_view key, ExpertCounts const& uniform) {
  auto const* const value = own.find(key);
  if (value == nullptr) return uniform;
  if (!value->is_array()) own.refuse(key, "an array of integers, one per layer", *value);
  std::vector<Index> counts;
  for (auto const& count : *value) counts.push_back(own.integer_of(key, count));
  if (counts.empty()) own.refuse_as(key, "expected one integer per layer, found none");
  return counts;
}

/// Counts of experts that only our key knows, 0 by default.
template <class SomeConfig, class Visitor>
void visit_own_counts(SomeConfig& config, Visitor&& visit) {
  visit("dormant_att_experts", config.attention.dormant);
  visit("dormant_mlp_experts", config.feed_forward.dormant);
  visit("removed_att_experts", config.attention.removed);
  visit("removed_mlp_experts", config.feed_forward.removed);
}

/// An id, or -1 for null. Ids that are absent are the published default where the vocabulary has it; the
/// published code also writes that default into folders whose vocabulary has not.
inline Index read_special_id(JsonObject& object, std::string_view key, Index fallback, Index vocab_size) {
  auto const* const value = object.find(key);
  if (value == nullptr) return fallback < vocab_size ? fallback : -1;
  if (value->is_null()) return -1;
  Index const id = object.integer_of(key, *value);
  if (id < 0) object.refuse(key, "an id of the vocabulary or null", *value);
  return id == fallback && id >= vocab_size ? -1 : id;
}

inline std::string read_architecture(JsonObject& object) {
  auto const* const value = object.find("architectures");
  if (value == nullptr || value->is_null()) return {};
  if (!value->is_array()) object.refuse("architectures", "an array of names", *value);
  for (auto const& name : *value) {
    if (!name.is_string()) object.refuse("architectures", "an array of names", name);
    if (name == StoredConfig::language_model || name == StoredConfig::classifier) return name.get<std::string>();
  }
  if (value->empty()) return {};
  object.refuse("architectures",
                "one of " + std::string(StoredConfig::language_model) + ", " + std::string(StoredConfig::classifier), value->front());
}

/// num_labels and the size of id2label; 0 where neither is there.
inline Index read_labels(JsonObject& object) {
  auto const* const names = object.find("id2label");
  Index labels = object.integer("num_labels", 0);
  if (object.find("num_labels") != nullptr && labels < 1) object.refuse_as("num_labels", "expected at least 1, found ", labels);
  if (names != nullptr && !names->is_null()) {
    if (!names->is_object()) object.refuse("id2label", "an object with a name for each label", *names);
    auto const count = static_cast<Index>(names->size());
    if (labels != 0 && labels != count) object.refuse_as("num_labels", "is ", labels, ", but id2label has ", count, " labels");
    labels = count;
  }
  auto const* const problem = object.find("problem_type");
  if (problem != nullptr && !problem->is_null() && *problem != "single_label_classification")
    object.refuse("problem_type", "single_label_classification or null (others are not offered)", *problem);
  return labels;
}

/// Keys that only one value is right for, since the published code computes with that one.
inline void read_fixed(JsonObject& object) {
  if (auto const type = object.text("model_type", "moduleformer"); type != "moduleformer")
    object.refuse_as("model_type", "expected 'moduleformer', found ", quoted_name(type));
  if (double const epsilon = object.number("layer_norm_epsilon", 1e-5); !(std::abs(epsilon - 1e-5) <= 1e-11))
    object.refuse_as("layer_norm_epsilon", "expected 1e-5, which the published code uses whatever the key says, found ", epsilon);
  if (double const dropout = object.number("attn_pdrop", 0.0); dropout != 0)
    object.refuse_as("attn_pdrop", "expected 0, since the published code never applies it, found ", dropout);
  if (object.boolean("tie_word_embeddings", false))
    object.refuse_as("tie_word_embeddings", "expected false, since the head of the published code is untied, found true");
}

/// Turns the Error of a check into a FormatError that names the file.
template <class Check>
void check_for_file(std::filesystem::path const& file, Check&& check) {
  try {
    check();
  } catch (FormatError const&) {
    throw;
  } catch (Error const& error) {
    fail<FormatError>(file, ": ", error.what());
  }
}

}  // namespace detail

inline StoredConfig read_config(std::filesystem::path const& file) {
  StoredConfig stored;
  stored.file = file;
  nlohmann::json const json = read_json(file);
  JsonObject object(json, file);
  detail::read_fixed(object);
  stored.architecture = detail::read_architecture(object);

  Config& config = stored.config;
  config.vocab_size = object.integer("vocab_size");
  config.hidden_size = object.integer("n_embd");
  config.layers = object.integer("n_layer");
  config.attention = {object.integer("n_att_experts"), object.integer("k_att"), object.integer("n_head"),
                      object.integer("att_hidden")};
  config.feed_forward = {object.integer("n_mlp_experts"), object.integer("k_mlp"), object.integer("ffd_hidden")};
  config.pad_token_id = detail::read_special_id(object, "pad_token_id", -1, config.vocab_size);
  config.bos_token_id = detail::read_special_id(object, "bos_token_id", 50256, config.vocab_size);
  config.eos_token_id = detail::read_special_id(object, "eos_token_id", 50256, config.vocab_size);

  auto const* const own_value = object.find("moduleformer");
  if (own_value == nullptr) {
    detail::read_policies(stored, object, nullptr);
  } else {
    JsonObject own(*own_value, file, "moduleformer.");
    if (Index const version = own.integer("version", 1); version != 1)
      own.refuse_as("version", "expected 1, found ", version, "; this folder was saved by a newer version");
    stored.save_id = own.text("save_id", "");
    detail::read_policies(stored, object, &own);
    config.attention.experts = detail::read_experts(own, "n_att_experts", config.attention.experts);
    config.feed_forward.experts = detail::read_experts(own, "n_mlp_experts", config.feed_forward.experts);
    detail::visit_own_counts(config, [&](char const* key, ExpertCounts& counts) { counts = detail::read_experts(own, key, 0); });
    Settings::visit_own(stored.settings, [&](char const* key, double& value) { value = own.number(key, value); });
    if (auto const rest = own.rest(); !rest.empty())
      own.refuse_as(rest.begin().key(), "not known here; was this folder saved by a newer version?");
  }
  std::string const& router = stored.policies.find("gate_type")->second.name;
  bool const has_hidden_layer = router == "mlp" || router == "mlp_relu" || router == "gmm";
  config.router_hidden_size = has_hidden_layer ? object.integer("gating_size") : object.integer("gating_size", 0);
  if (has_hidden_layer && config.router_hidden_size < 1)
    object.refuse_as("gating_size", "expected a positive number, found ", config.router_hidden_size);

  Settings::visit(stored.settings, [&]<class T>(char const* key, T& value) {
    if constexpr (std::same_as<T, double>) value = object.number(key, value);
    else value = object.integer(key, value);
  });
  // A language model ignores what is said of labels.
  if (stored.architecture != StoredConfig::language_model) config.labels = detail::read_labels(object);
  detail::check_for_file(file, [&] {
    config.check();
    stored.settings.check(std::min(config.attention.top_k, config.feed_forward.top_k));
  });

  stored.others = object.rest();
  for (char const* const names : {"id2label", "label2id", "problem_type"})
    if (json.contains(names)) stored.others[names] = json[names];
  return stored;
}

inline std::string StoredConfig::published_obstacle() const {
  for (auto const& role : published_roles) {
    auto const policy = policies.find(role.key);
    if (policy == policies.end() || detail::is_published(role, policy->second)) continue;
    std::string text = std::string(role.key) + " is '" + policy->second.name + "'";
    if (role.knows(policy->second.name)) return text + " with numbers of its own, which the published code does not read";
    text += ", and the published code knows only";
    for (auto const name : role.names)
      if (!name.empty()) text += " " + std::string(name);
    return text;
  }
  for (auto const& [key, experts] : {std::pair{"n_att_experts", &config.attention.experts},
                                     std::pair{"n_mlp_experts", &config.feed_forward.experts}})
    if (!experts->uniform()) return std::string(key) + " differs between layers, which the published code does not offer";
  std::string obstacle;
  detail::visit_own_counts(config, [&](std::string_view key, ExpertCounts const& counts) {
    if (counts.largest() > 0) obstacle = std::string(key) + " are not 0, and the published code would give every row of a router an expert";
  });
  return obstacle;
}

inline std::string config_text(StoredConfig const& stored, std::string_view data_type) {
  nlohmann::json json = stored.others;
  for (auto const& [key, value] : {std::pair{"block_size", nlohmann::json(512)}, {"history_length", 512}, {"use_cache", true}})
    if (!json.contains(key)) json[key] = value;
  Config const& config = stored.config;
  json["model_type"] = "moduleformer";
  json["architectures"] = {stored.architecture};
  json["torch_dtype"] = data_type;
  json.erase("dtype");  // its newer name, which would contradict
  json["vocab_size"] = config.vocab_size;
  json["n_embd"] = config.hidden_size;
  json["n_layer"] = config.layers;
  json["n_head"] = config.attention.heads;
  json["att_hidden"] = config.attention.hidden_size;
  json["ffd_hidden"] = config.feed_forward.hidden_size;
  json["n_att_experts"] = config.attention.experts.largest();
  json["k_att"] = config.attention.top_k;
  json["n_mlp_experts"] = config.feed_forward.experts.largest();
  json["k_mlp"] = config.feed_forward.top_k;
  if (config.router_hidden_size > 0) json["gating_size"] = config.router_hidden_size;
  json["layer_norm_epsilon"] = 1e-5;
  json["attn_pdrop"] = 0.0;
  json["tie_word_embeddings"] = false;
  Settings::visit(stored.settings, [&](char const* key, auto const& value) { json[key] = value; });
  for (auto const& [key, id] : {std::pair{"pad_token_id", config.pad_token_id}, {"bos_token_id", config.bos_token_id},
                                {"eos_token_id", config.eos_token_id}})
    json[key] = id < 0 ? nlohmann::json() : nlohmann::json(id);
  if (stored.classifies()) {
    json["num_labels"] = config.labels;
    auto const names = json.find("id2label");
    if (names != json.end() && (!names->is_object() || static_cast<Index>(names->size()) != config.labels))
      for (char const* const key : {"id2label", "label2id"}) json.erase(key);
  }

  nlohmann::json own = {{"version", 1}};
  if (!stored.save_id.empty()) own["save_id"] = stored.save_id;
  for (auto const& role : published_roles) {
    auto const policy = stored.policies.find(role.key);
    if (policy == stored.policies.end()) continue;
    if (detail::is_published_key(role.key)) json[std::string(role.key)] = policy->second.name;
    if (detail::is_published(role, policy->second)) continue;
    nlohmann::json& entry = own["policies"][std::string(role.key)];
    entry = policy->second.name;
    if (policy->second.numbers.empty()) continue;
    entry = {{"name", policy->second.name}};
    for (auto const& [name, number] : policy->second.numbers) entry[name] = number;
  }
  if (!config.attention.experts.uniform()) own["n_att_experts"] = config.attention.experts.each();
  if (!config.feed_forward.experts.uniform()) own["n_mlp_experts"] = config.feed_forward.experts.each();
  detail::visit_own_counts(config, [&](char const* key, ExpertCounts const& counts) {
    for (Index i = 0; counts.largest() > 0 && i < config.layers; ++i) own[key].push_back(counts[i]);
  });
  Settings::visit_own(stored.settings, [&](char const* key, double value) {
    if (value != 0) own[key] = value;
  });
  json["moduleformer"] = own;
  return json.dump(2) + "\n";
}

}  // namespace moduleformer
