// SPDX-License-Identifier: MIT
#pragma once
// Between a model's type and what config.json says: names and numbers of its policies, and its static
// extents. A dynamic policy or extent takes what the file says; a static one must agree with it.

#include <moduleformer/core/dynamic_policy.hpp>
#include <moduleformer/core/error.hpp>
#include <moduleformer/core/shape.hpp>
#include <moduleformer/io/config_json.hpp>

#include <string>
#include <string_view>
#include <type_traits>

namespace moduleformer {

/// Names and numbers of a model's policies, by role.
template <class PolicySet>
std::map<std::string, StoredPolicy, std::less<>> store_policies(PolicySet const& policies) {
  std::map<std::string, StoredPolicy, std::less<>> stored;
  PolicySet::visit(policies, [&](std::string_view role, auto const& policy) {
    StoredPolicy entry{std::string(policy_name(policy))};
    visit_policy_numbers(policy, [&](std::string_view key, auto const& number) {
      entry.numbers[std::string(key)] = static_cast<double>(number);
    });
    stored.emplace(role, std::move(entry));
  });
  return stored;
}

/// The policies that the file names. Throws FormatError for a name that a dynamic role does not offer, or
/// a number that the policy does not have; Error if a static role is something else than the file says.
template <class PolicySet>
PolicySet choose_policies(StoredConfig const& stored) {
  PolicySet policies;
  PolicySet::visit(policies, [&]<class P>(std::string_view role, P& policy) {
    auto const place = stored.policies.find(role);
    if (place == stored.policies.end()) return;
    StoredPolicy const& wanted = place->second;
    if (!choose_policy(policy, wanted.name)) {
      if constexpr (requires { policy.choice; })
        fail<FormatError>(stored.file, ": ", role, ": expected one of ", policy_choices(policy), ", found ",
                          quoted_name(wanted.name));
      else
        fail<Error>(stored.file, ": ", role, ": the model's type has '", policy_name(policy), "', the file says ",
                    quoted_name(wanted.name));
    }
    std::size_t known = 0;
    visit_policy_numbers(policy, [&]<class Number>(std::string_view key, Number& number) {
      auto const found = wanted.numbers.find(key);
      if (found == wanted.numbers.end()) return;
      if (!set_policy_number(number, found->second))
        fail<FormatError>(stored.file, ": ", role, ": ", key, ": expected ",
                          std::is_integral_v<Number> ? "an integer" : "the number of the model's type, " + std::to_string(Index(number)),
                          ", found ", found->second);
      ++known;
    });
    if (known == wanted.numbers.size()) return;
    std::string names;
    visit_policy_numbers(policy, [&](std::string_view key, auto const&) { names += " " + std::string(key); });
    fail<FormatError>(stored.file, ": ", role, ": '", wanted.name, "' has ", names.empty() ? "no numbers" : "only the numbers",
                      names, ", the file gives others");
  });
  return policies;
}

/// Compares every static extent with the file and fills in what only the type knows (the router's hidden
/// size where no router has one, the labels of a language model). Throws Error naming the first that differs.
template <Shape shape>
Config expect_shape(StoredConfig const& stored) {
  Config config = stored.config;
  auto expect = [&](std::string_view key, Index in_type, Index in_file) {
    if (in_type != dynamic && in_type != in_file)
      fail<Error>(stored.file, ": ", key, ": the model's type says ", in_type, ", the file says ", in_file);
  };
  expect("vocab_size", shape.vocab_size, config.vocab_size);
  expect("n_embd", shape.hidden_size, config.hidden_size);
  expect("n_layer", shape.layers, config.layers);
  auto take = [](Index in_type, Index& in_file) {
    if (in_type != dynamic && in_file == 0) in_file = in_type;
  };
  take(shape.router_hidden_size, config.router_hidden_size);
  expect("gating_size", shape.router_hidden_size, config.router_hidden_size);
  auto expect_experts = [&](char const* key, Index in_type, ExpertCounts const& in_file) {
    for (Index const count : {in_file.smallest(), in_file.largest()}) expect(key, in_type, count);
  };
  expect_experts("n_att_experts", shape.attention.experts, config.attention.experts);
  expect("k_att", shape.attention.top_k, config.attention.top_k);
  expect("n_head", shape.attention.heads, config.attention.heads);
  expect("att_hidden", shape.attention.hidden_size, config.attention.hidden_size);
  expect_experts("n_mlp_experts", shape.feed_forward.experts, config.feed_forward.experts);
  expect("k_mlp", shape.feed_forward.top_k, config.feed_forward.top_k);
  expect("ffd_hidden", shape.feed_forward.hidden_size, config.feed_forward.hidden_size);
  take(shape.labels, config.labels);
  expect("num_labels", shape.labels, config.labels);
  return config;
}

}  // namespace moduleformer
