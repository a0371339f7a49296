// SPDX-License-Identifier: MIT
#pragma once
// One golden case of the published reference against a model type: every tensor of expected.safetensors.
// Errors are relative to the tensor's largest magnitude. Where a case has an attention_mask, only unmasked
// positions are compared, and no auxiliary loss (the reference counts padding).

#include <moduleformer/io/checkpoint.hpp>
#include <moduleformer/model/causal_lm.hpp>
#include <moduleformer/model/sequence_classifier.hpp>
#include <moduleformer/training/trainer.hpp>

#include "support/golden.hpp"

#include <boost/test/unit_test.hpp>

#include <algorithm>
#include <cmath>
#include <map>
#include <set>
#include <string>
#include <utility>
#include <vector>

namespace moduleformer::test {

inline constexpr char const* language_cases[] = {"dense_all_experts",         "gmm_router_mutual_information", "left_padded_batch",
                                                 "linear_router_switch_loss", "mlp_router_mutual_information", "single_head_shared_keys"};
inline constexpr char const* classifier_cases[] = {"sequence_classification"};

/// Compares tensors of one case and remembers the worst error of each kind.
template <class S>
class GoldenComparison {
 public:
  explicit GoldenComparison(std::string const& name) : name_(name), expected_(name + "/expected.safetensors") {
    if (expected_.has("attention_mask")) mask_ = expected_.tensor<double>("attention_mask").values;
    auto const ids = expected_.tensor<double>("input_ids");
    rows_ = ids.shape[0];
    tokens_ = ids.shape[1];
    for (char const* const input : {"input_ids", "labels", "attention_mask"}) compared_.insert(input);
  }

  [[nodiscard]] GoldenFile const& expected() const { return expected_; }
  [[nodiscard]] bool has_mask() const { return !mask_.empty(); }

  [[nodiscard]] Batch batch() const {
    Batch batch{.rows = rows_, .tokens = tokens_};
    batch.ids = expected_.tensor<TokenId>("input_ids").values;
    batch.labels = expected_.tensor<TokenId>("labels").values;
    if (has_mask()) batch.mask = expected_.tensor<std::uint8_t>("attention_mask").values;
    return batch;
  }

  /// All elements.
  template <class Value>
  void compare(std::string const& kind, std::string const& tensor, std::vector<Value> const& found, double in_double,
               double in_float) {
    compare_if(kind, tensor, found, in_double, in_float, [](std::size_t) { return true; });
  }
  /// The elements of unmasked positions; a position (b,t) has `width` elements in a row.
  template <class Value>
  void compare_tokens(std::string const& kind, std::string const& tensor, std::vector<Value> const& found) {
    std::size_t const width = found.size() / static_cast<std::size_t>(rows_ * tokens_);
    compare_if(kind, tensor, found, 1e-9, 2e-5, [&](std::size_t i) { return is_real(i / width); });
  }
  /// (B,K,H,T,S): the elements of unmasked queries.
  void compare_attention(std::string const& tensor, std::vector<S> const& found) {
    auto const t = static_cast<std::size_t>(tokens_);
    std::size_t const maps = found.size() / (static_cast<std::size_t>(rows_) * t * t);
    compare_if("attentions", tensor, found, 1e-9, 2e-5,
               [&](std::size_t i) { return is_real(i / (maps * t * t) * t + i / t % t); });
  }
  /// Chosen experts, which must be identical.
  void compare_experts(std::string const& tensor, std::vector<ExpertId> const& found) {
    auto const wanted = begin(tensor, found.size());
    std::size_t const k = found.size() / static_cast<std::size_t>(rows_ * tokens_);
    std::size_t differing = 0;
    for (std::size_t i = 0; i < found.size(); ++i)
      differing += is_real(i / k) && static_cast<double>(found[i]) != wanted[i];
    BOOST_TEST(differing == 0u, name_ << ": " << differing << " of the experts in " << tensor << " differ");
  }
  template <class Value, class Predicate>
  void compare_if(std::string const& kind, std::string const& tensor, std::vector<Value> const& found, double in_double,
                  double in_float, Predicate const& counts) {
    auto const wanted = begin(tensor, found.size());
    double largest = 0, worst = 0;
    for (std::size_t i = 0; i < found.size(); ++i) {
      if (!counts(i)) continue;
      double const error = std::abs(static_cast<double>(found[i]) - wanted[i]);
      largest = std::max(largest, std::abs(wanted[i]));
      worst = std::isnan(error) ? HUGE_VAL : std::max(worst, error);
    }
    double const error = worst == 0 ? 0 : worst / largest;
    // What the file holds in float is no better than that.
    double const stored = expected_.type(tensor) == "F32" ? std::max(in_double, 1e-6) : in_double;
    double const limit = std::is_same_v<S, double> ? stored : in_float;
    BOOST_TEST(error <= limit, name_ << ": " << tensor << ": relative error " << error << " above " << limit);
    auto& seen = errors_[kind];
    if (error >= seen.first) seen = {error, tensor};
  }
  /// Leaves a tensor out, which the case has but the comparison must not make.
  void skip(std::string const& tensor) { compared_.insert(tensor); }

  /// Nothing in the file was forgotten; prints the worst errors.
  void finish() const {
    for (std::string const& tensor : expected_.names())
      BOOST_TEST(compared_.contains(tensor), name_ << ": " << tensor << " was not compared");
    for (auto const& [kind, worst] : errors_)
      BOOST_TEST_MESSAGE("golden " << (sizeof(S) == 8 ? "double " : "float ") << name_ << ' ' << kind << ' ' << worst.first << ' '
                                   << worst.second);
  }

 private:
  [[nodiscard]] bool is_real(std::size_t position) const { return mask_.empty() || mask_[position] != 0; }
  std::vector<double> begin(std::string const& tensor, std::size_t size) {
    auto wanted = expected_.tensor<double>(tensor).values;
    BOOST_REQUIRE_MESSAGE(wanted.size() == size, name_ << ": " << tensor << " has " << wanted.size() << " elements, found " << size);
    compared_.insert(tensor);
    return wanted;
  }

  std::string name_;
  GoldenFile expected_;
  std::vector<double> mask_;
  Index rows_ = 0, tokens_ = 0;
  std::set<std::string> compared_;
  std::map<std::string, std::pair<double, std::string>> errors_;
};

/// A copy of values in backend memory.
template <class B, class A>
std::vector<A> on_host(B& backend, Vector<A const> values) {
  std::vector<A> host(static_cast<std::size_t>(values.size()));
  to_host(backend, values, host.data());
  return host;
}

/// Logits and everything that an observation sees.
template <class Model, class S = typename Model::Accumulator>
void check_golden_forward(Model const& model, typename Model::SessionType& session, GoldenComparison<S>& golden) {
  Observation<S> seen{.want_hidden_states = true, .want_routing = true, .want_attention = true};
  auto const logits = model.logits(session, golden.batch(), {.observation = &seen});
  if (Model::HeadType::classifies) golden.compare("logits", "logits", logits.values, 1e-9, 2e-5);
  else golden.compare_tokens("logits", "logits", logits.values);
  for (std::size_t i = 0; i < seen.hidden_states.size(); ++i)
    golden.compare_tokens("hidden_states", "hidden_states." + std::to_string(i), seen.hidden_states[i]);
  for (std::size_t i = 0; i < seen.attentions.size(); ++i)
    golden.compare_attention("attentions." + std::to_string(i), seen.attentions[i]);
  for (auto const& router : seen.routers) {
    std::string const prefix = "router." + router.name + ".";
    golden.compare_experts(prefix + "indices", router.experts);
    golden.compare_tokens("router.gates", prefix + "gates", router.gates);
    golden.compare_tokens("router.probs", prefix + "probs", router.probabilities);
    if (golden.has_mask()) golden.skip(prefix + "loss");
    else golden.compare("router.loss", prefix + "loss", std::vector{router.loss}, 1e-9, 2e-5);
  }
}

/// Loss, auxiliary loss and the gradient of every parameter.
template <class Model, class S = typename Model::Accumulator>
void check_golden_gradients(Model const& model, typename Model::SessionType& session, GoldenComparison<S>& golden) {
  auto gradient = model.make_gradient();
  fill(session.backend(), gradient.values(), S(0));
  LossReport const report = model.gradients(session, golden.batch(), gradient);
  LossReport const forward_only = model.loss(session, golden.batch());
  BOOST_TEST(forward_only.total == report.total);
  golden.compare("loss", "loss", std::vector{report.total}, 1e-9, 2e-5);
  if (golden.has_mask()) golden.skip("aux_loss");
  else golden.compare("aux_loss", "aux_loss", std::vector{report.auxiliary}, 1e-9, 2e-5);
  for (Segment const& segment : model.table().segments()) {
    golden.compare("grad", "grad." + segment.name, on_host(session.backend(), gradient.segment(segment)), 1e-9, 2e-4);
  }
}

/// Three steps of AdamW. A float's step has an arbitrary sign where the gradient is next to nothing.
template <class Model, class S = typename Model::Accumulator>
void check_golden_training(Model& model, GoldenComparison<S>& golden) {
  Trainer trainer{model, AdamW{.learning_rate = 3e-3, .beta1 = 0.9, .beta2 = 0.95, .epsilon = 1e-8, .weight_decay = 0.1,
                               .clip_norm = 1, .decay = Decay::everything}};
  std::vector<double> losses;
  for (int i = 0; i < 3; ++i) losses.push_back(trainer.step(golden.batch()).total);
  golden.compare("adamw.losses", "adamw.losses", losses, 1e-9, 2e-4);
  for (std::size_t i = 0; i < model.table().count(); ++i) {
    std::string const& name = model.table()[i].name;
    auto const gradient = golden.expected().template tensor<double>("grad." + name).values;
    double largest = 0;
    for (double const g : gradient) largest = std::max(largest, std::abs(g));
    golden.compare_if("adamw", "adamw." + name, on_host(trainer.session().backend(), model.values(i)), 1e-6, 2e-4, [&](std::size_t at) {
      return std::is_same_v<S, double> || gradient[at] == 0 || std::abs(gradient[at]) > 1e-4 * largest;
    });
  }
}

template <class Model>
void check_golden(std::string const& name) {
  using S = typename Model::Accumulator;
  auto model = load<Model>(golden_path(name), {.map = false});
  GoldenComparison<S> golden(name);
  typename Model::SessionType session{SessionOptions{.threads = 2}};
  check_golden_forward(model, session, golden);
  check_golden_gradients(model, session, golden);
  check_golden_training(model, golden);
  golden.finish();
}

}  // namespace moduleformer::test
