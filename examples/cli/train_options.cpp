// SPDX-License-Identifier: MIT
#include "train_options.hpp"

#include "command.hpp"
#include "values.hpp"

#include <fmt/core.h>

#include <algorithm>
#include <cctype>
#include <cstddef>
#include <set>
#include <sstream>
#include <stdexcept>
#include <type_traits>
#include <utility>

namespace cli {

namespace mf = moduleformer;

namespace {

/// Group and help of each option, and the range of a number.
struct Help {
  std::string_view group, text;
  Range range{};
};
std::map<std::string_view, Help> const& helps() {
  constexpr std::string_view sizes = "Sizes", policies = "Policies", settings = "Settings", data = "Batches",
                             optimizer = "Optimizer and schedule";
  constexpr Range size{1, largest_size}, from_zero{0, largest_size}, experts_of_layer{1, most_experts},
      below_one{0, 1, false, true};
  constexpr Range steps{1, static_cast<double>(most_steps)}, steps_or_automatic{-1, static_cast<double>(most_steps)};
  static std::map<std::string_view, Help> const all{
      {"vocab", {sizes, "vocabulary; 256 for text (257 with --eos), to be given with --tokens", size}},
      {"hidden", {sizes, "hidden size D", size}},
      {"layers", {sizes, "blocks", size}},
      {"router-hidden", {sizes, "hidden size of mlp and gmm routers", from_zero}},
      {"attention-experts", {sizes, "attention experts of a layer", experts_of_layer}},
      {"attention-top-k", {sizes, "of these, chosen for a token", experts_of_layer}},
      {"heads", {sizes, "heads of an attention expert", size}},
      {"attention-hidden", {sizes, "attention hidden size; with one head and D, keys and values are shared", size}},
      {"ffn-experts", {sizes, "feed-forward experts of a layer", experts_of_layer}},
      {"ffn-top-k", {sizes, "of these, chosen for a token", experts_of_layer}},
      {"ffn-hidden", {sizes, "width of a feed-forward expert", size}},
      {"attention", {policies, "stick-breaking variant"}},
      {"activation", {policies, "activation of feed-forward experts"}},
      {"router", {policies, "router"}},
      {"selection", {policies, "how experts are chosen from a router's logits"}},
      {"selection-numbers",
       {policies,
        "numbers of that selection, as KEY=VALUE,...: scale of gumbel_top_k, rate of biased_top_k,\n"
        "capacity and most_experts of expert_choice, smallest, largest and evaluation_size of document_pool"}},
      {"gating", {policies, "how the logits of the chosen become gates"}},
      {"shared-experts", {policies, "whether some experts of a layer serve every token, beside those that are routed"}},
      {"shared-numbers",
       {policies,
        "how many of them, as attention=0,feed_forward=2; 1 of a kind not named; they count in experts\n"
        "and top-k"}},
      {"norm", {policies, "norm"}},
      {"routing-loss", {policies, "auxiliary loss of each router"}},
      {"loss-numbers",
       {policies,
        "numbers of that loss, as KEY=VALUE,...: the weights of weighted_sum (mi=1,router_z=0.1), or\n"
        "z_weight of switch"}},
      {"statistics", {policies, "over what that loss runs, where a step has several micro-batches"}},
      {"aux-loss-weight", {settings, "weight of the routing losses in the total", Range{0, 1e12, false, true}}},
      {"embedding-dropout", {settings, "dropout after the embedding", below_one}},
      {"residual-dropout", {settings, "dropout on residual branches", below_one}},
      {"router-dropout", {settings, "dropout inside mlp and mlp_relu routers", below_one}},
      {"router-jitter",
       {settings, "in training, a router's input is multiplied by draws from 1 - this to 1 + this", below_one}},
      {"sampled-slots", {settings, "of the chosen experts, how many are drawn at random in training", from_zero}},
      {"initializer-range", {settings, "standard deviation of initial weights", Range{0, 1e6, false, true}}},
      {"rows", {data, "windows of a micro-batch", size}},
      {"window", {data, "tokens of a window", size}},
      {"steps", {data, "training steps of the whole run", steps}},
      {"accumulate", {data, "micro-batches of a step", size}},
      {"held-out", {data, "fraction of each document, its tail, that is not trained on", below_one}},
      {"eos", {data, "id 256 begins and ends each document"}},
      {"schedule", {optimizer, "learning-rate schedule"}},
      {"rate", {optimizer, "learning rate", Range{.low = 0}}},
      {"warmup", {optimizer, "steps of linear warm-up; -1: a tenth of all, at most 100", steps_or_automatic}},
      {"decay", {optimizer, "last steps, in which stable_decay falls; -1: a fifth of all", steps_or_automatic}},
      {"floor", {optimizer, "the schedule's last factor", Range{0, 1}}},
      {"weight-decay", {optimizer, "weight decay of matrices", Range{.low = 0}}},
      {"beta1", {optimizer, "AdamW's decay of the first moment", below_one}},
      {"beta2", {optimizer, "AdamW's decay of the second moment", below_one}},
      {"epsilon", {optimizer, "AdamW's epsilon", Range{.low = 0, .above = true}}},
      {"clip", {optimizer, "largest norm of a gradient, 0 for no clipping", Range{.low = 0}}},
      {"observe-load",
       {optimizer, "keep the routers' load of each so many steps beside the model, for `routing`; 0: of none",
        Range{0, static_cast<double>(most_steps)}}},
      {"recompute", {optimizer, "compute blocks again in backward instead of keeping them"}},
      {"seed", {optimizer, "of initial weights, windows, dropout"}},
  };
  return all;
}

/// Sets a policy's numbers to those of a list KEY=VALUE,... that an option gave.
template <class Policy>
void set_numbers(std::string_view option, std::string const& list, Policy& policy) {
  std::istringstream stream(list);
  std::set<std::string> given;
  for (std::string item; std::getline(stream, item, ',');) {
    auto const equals = item.find('=');
    std::size_t used = 0;
    double value = 0;
    try {
      if (equals != std::string::npos) value = std::stod(item.substr(equals + 1), &used);
    } catch (std::logic_error const&) {
      used = 0;
    }
    if (used == 0 || equals + 1 + used != item.size())
      throw UsageError(fmt::format("--{}: expected KEY=VALUE,..., found '{}'", option, item));
    std::string const key = item.substr(0, equals);
    if (!given.insert(key).second) throw UsageError(fmt::format("--{}: {} is given twice", option, key));
    bool known = false;
    mf::visit_policy_numbers(policy, [&]<class Number>(std::string_view name, Number& number) {
      if (name == key && !mf::set_policy_number(number, value))
        throw UsageError(fmt::format("--{}: {}: expected {}, found '{}'", option, key,
                                     std::is_integral_v<Number> ? "an integer" : "a finite number",
                                     item.substr(equals + 1)));
      known = known || name == key;
    });
    if (!known) throw UsageError(fmt::format("--{}: {} has no number '{}'", option, mf::policy_name(policy), key));
  }
}

/// Policies have names; whoever adds one to the library adds it here too.
template <class Policies, class Options, class Visit>
void with_policies(Policies& policies, Options& options, Visit&& visit) {
  visit("attention", policies.attention, options.attention);
  visit("activation", policies.activation, options.activation);
  visit("router", policies.router, options.router);
  visit("selection", policies.selection, options.selection);
  visit("gating", policies.gating, options.gating);
  visit("shared-experts", policies.shared_experts, options.shared_experts);
  visit("norm", policies.norm, options.norm);
  visit("routing-loss", policies.routing_loss, options.routing_loss);
  visit("statistics", policies.statistics, options.statistics);
}

/// The names that an option may have; empty if it has no such list.
std::vector<std::string> choices(std::string_view option) {
  std::string names;
  mf::dynamic_policies policies;
  TrainOptions unused;
  with_policies(policies, unused, [&](std::string_view name, auto const& policy, std::string const&) {
    if (name == option) names = mf::policy_choices(policy);
  });
  if (option == "schedule") names = mf::policy_choices(mf::AnySchedule{});
  std::vector<std::string> list;
  for (std::size_t begin = 0; begin < names.size();) {
    auto const end = std::min(names.find(", ", begin), names.size());
    list.push_back(names.substr(begin, end - begin));
    begin = end + 2;
  }
  return list;
}

}  // namespace

TrainOptions::TrainOptions() {
  mf::dynamic_policies const published;
  with_policies(published, *this,
                [](std::string_view, auto const& policy, std::string& name) { name = mf::policy_name(policy); });
  schedule = mf::policy_name(mf::AnySchedule{});
}

std::map<std::string, CLI::Option*, std::less<>> add_train_options(CLI::App& command, TrainOptions& options,
                                                                   std::set<std::string, std::less<>> const& only) {
  std::map<std::string, CLI::Option*, std::less<>> all;
  TrainOptions::visit(options, [&]<class T>(std::string const& name, T& value) {
    if (!only.empty() && !only.contains(name)) return;
    auto const& help = helps().at(name);
    CLI::Option* option = nullptr;
    if constexpr (std::same_as<T, bool>) {
      option = command.add_flag("--" + name, value, std::string(help.text));
    } else {
      option = command.add_option("--" + name, value, std::string(help.text))->capture_default_str();
      if (auto const names = choices(name); !names.empty()) option->check(CLI::IsMember(names))->type_name("NAME");
      else if constexpr (std::same_as<T, std::string>) option->type_name("TEXT");
      else if constexpr (std::same_as<T, double>) option->check(number(help.range))->type_name("NUMBER");
      else if constexpr (std::same_as<T, std::uint64_t>) option->check(seed())->type_name("INTEGER");
      else
        option->check(integer(static_cast<mf::Index>(help.range.low), static_cast<mf::Index>(help.range.high)))
            ->type_name("INTEGER");
    }
    option->group(std::string(help.group))->take_last();
    all.emplace(name, option);
  });
  return all;
}

std::string in_option_terms(std::string message) {
  static constexpr std::pair<std::string_view, std::string_view> options[] = {
      {"vocab_size", "--vocab"},
      {"n_embd", "--hidden"},
      {"n_layer", "--layers"},
      {"gating_size", "--router-hidden"},
      {"n_att_experts", "--attention-experts"},
      {"k_att", "--attention-top-k"},
      {"n_head", "--heads"},
      {"att_hidden", "--attention-hidden"},
      {"n_mlp_experts", "--ffn-experts"},
      {"k_mlp", "--ffn-top-k"},
      {"ffd_hidden", "--ffn-hidden"},
      {"activation_function", "--activation"},
      {"gate_type", "--router"},
      {"shared_experts", "--shared-numbers"},
      {"aux_loss_type", "--routing-loss"},
      {"aux_loss_weight", "--aux-loss-weight"},
      {"embd_pdrop", "--embedding-dropout"},
      {"resid_pdrop", "--residual-dropout"},
      {"moe_pdrop", "--router-dropout"},
      {"sample_topk", "--sampled-slots"},
      {"router_jitter", "--router-jitter"},
      {"initializer_range", "--initializer-range"}};
  auto const in_word = [&](std::size_t i) {
    return i < message.size() &&
           (std::isalnum(static_cast<unsigned char>(message[i])) != 0 || message[i] == '_' || message[i] == '-');
  };
  for (auto const& [key, option] : options)
    for (std::size_t at = 0; (at = message.find(key, at)) != std::string::npos; at += option.size()) {
      if ((at > 0 && in_word(at - 1)) || in_word(at + key.size())) continue;
      message.replace(at, key.size(), option);
    }
  return message;
}

mf::Config TrainOptions::config() const {
  mf::Config config;
  config.vocab_size = eos ? 257 : vocab;
  config.hidden_size = hidden;
  config.layers = layers;
  config.router_hidden_size = router_hidden;
  config.attention = {attention_experts, attention_top_k, heads, attention_hidden};
  config.feed_forward = {ffn_experts, ffn_top_k, ffn_hidden};
  if (eos) config.eos_token_id = mf::ByteBatches::eos_id;
  return config;
}

mf::Settings TrainOptions::settings() const {
  return {.aux_loss_weight = aux_loss_weight,
          .embedding_dropout = embedding_dropout,
          .residual_dropout = residual_dropout,
          .router_dropout = router_dropout,
          .router_jitter = router_jitter,
          .sampled_slots = sampled_slots,
          .initializer_range = initializer_range};
}

mf::dynamic_policies TrainOptions::policies() const {
  mf::dynamic_policies chosen;
  with_policies(chosen, *this, [](std::string_view option, auto& policy, std::string const& name) {
    mf::expects(mf::choose_policy(policy, name), "--", option, ": expected one of ", mf::policy_choices(policy),
                ", found ", name);
  });
  set_numbers("loss-numbers", loss_numbers, chosen.routing_loss);
  set_numbers("selection-numbers", selection_numbers, chosen.selection);
  set_numbers("shared-numbers", shared_numbers, chosen.shared_experts);
  if (routing_loss == "weighted_sum" && loss_numbers.empty())
    throw UsageError("--routing-loss weighted_sum: expected its weights as --loss-numbers KEY=VALUE,..., found none");
  chosen.checkpointing.recompute_blocks = recompute;
  return chosen;
}

mf::AdamW TrainOptions::optimizer() const {
  return {.learning_rate = rate,
          .beta1 = beta1,
          .beta2 = beta2,
          .epsilon = epsilon,
          .weight_decay = weight_decay,
          .clip_norm = clip};
}

mf::AnySchedule TrainOptions::rates() const {
  mf::AnySchedule chosen;
  mf::expects(mf::choose_policy(chosen, schedule), "--schedule: expected one of ", mf::policy_choices(chosen),
              ", found ", schedule);
  mf::visit_policy_numbers(chosen, [this]<class T>(std::string_view key, T& number) {
    if constexpr (std::same_as<T, double>) number = floor;
    else if (key == "total") number = steps;
    else if (key == "warmup") number = warmup == -1 ? std::min(mf::Index{100}, steps / 10) : warmup;
    else number = decay == -1 ? steps / 5 : decay;
  });
  return chosen;
}

mf::BatchOptions TrainOptions::batches() const {
  return {.rows = rows, .tokens = window, .steps = steps * accumulate, .seed = seed, .held_out = held_out, .eos = eos};
}

}  // namespace cli
