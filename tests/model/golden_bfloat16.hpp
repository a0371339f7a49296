// SPDX-License-Identifier: MIT
#pragma once
// One golden case on a backend that stores in bfloat16. With the case's own routes replayed: every forward tensor, and
// the gradients, by the norm of the difference relative to the tensor's. Without: the same experts for each token
// whose choice is clear.

#include <moduleformer/io/checkpoint.hpp>
#include <moduleformer/model/causal_lm.hpp>
#include <moduleformer/model/sequence_classifier.hpp>

#include "support/golden.hpp"

#include <boost/test/unit_test.hpp>

#include <algorithm>
#include <cmath>
#include <set>
#include <string>
#include <utility>
#include <vector>

namespace moduleformer::test {

/// A case's inputs and tensors; positions are rows*tokens + t.
class GoldenCase {
 public:
  explicit GoldenCase(std::string const& name) : name_(name), expected_(name + "/expected.safetensors") {
    auto const ids = expected_.tensor<TokenId>("input_ids");
    batch_ = {.rows = ids.shape[0], .tokens = ids.shape[1], .ids = ids.values};
    batch_.labels = expected_.tensor<TokenId>("labels").values;
    if (expected_.has("attention_mask")) batch_.mask = expected_.tensor<std::uint8_t>("attention_mask").values;
  }
  [[nodiscard]] std::string const& name() const { return name_; }
  [[nodiscard]] Batch const& batch() const { return batch_; }
  [[nodiscard]] bool is_real(std::size_t position) const { return batch_.is_real(static_cast<Index>(position)); }
  [[nodiscard]] std::size_t positions() const { return batch_.ids.size(); }
  [[nodiscard]] std::vector<double> values(std::string const& tensor) const { return expected_.tensor<double>(tensor).values; }

  /// |found - expected| / |expected| over the elements of positions that are not masked.
  [[nodiscard]] double error(std::string const& tensor, std::vector<float> const& found) const {
    return error_if(tensor, found, [&](std::size_t i) { return is_real(i / (found.size() / positions())); });
  }
  template <class Predicate>
  [[nodiscard]] double error_if(std::string const& tensor, std::vector<float> const& found, Predicate const& counts) const {
    auto const wanted = values(tensor);
    BOOST_REQUIRE(wanted.size() == found.size());
    double difference = 0, norm = 0;
    for (std::size_t i = 0; i < found.size(); ++i) {
      if (!counts(i)) continue;
      difference += std::pow(static_cast<double>(found[i]) - wanted[i], 2);
      norm += wanted[i] * wanted[i];
    }
    return difference == 0 ? 0 : std::sqrt(difference / norm);
  }
  /// Experts of the tokens that are not masked, in their order.
  [[nodiscard]] std::vector<ExpertId> routes(std::string const& router) const {
    auto const all = values("router." + router + ".indices");
    std::size_t const k = all.size() / positions();
    std::vector<ExpertId> packed;
    for (std::size_t i = 0; i < all.size(); ++i)
      if (is_real(i / k)) packed.push_back(static_cast<ExpertId>(all[i]));
    return packed;
  }

 private:
  std::string name_;
  GoldenFile expected_;
  Batch batch_;
};

/// The case's routes in backend memory.
template <class B>
struct GoldenRoutes {
  GoldenRoutes(B& backend, GoldenCase const& golden, Config const& config) {
    Index const tokens = static_cast<Index>(golden.routes("transformer.h.0.mlpf.gate").size()) / config.feed_forward.top_k;
    for (Index i = 0; i < config.layers; ++i) {
      std::string const layer = "transformer.h." + std::to_string(i);
      auto const upload = [&](std::string const& router, Index k) -> Matrix<ExpertId const> {
        auto const ids = golden.routes(layer + router);
        buffers.emplace_back(static_cast<Index>(ids.size()));
        from_host(backend, ids.data(), buffers.back().view());
        return {buffers.back().data(), {tokens, k}};
      };
      auto const attention = upload(".attn.q_proj.gate", config.attention.top_k);
      routes.push_back({attention, upload(".mlpf.gate", config.feed_forward.top_k)});
    }
  }
  std::vector<Buffer<ExpertId, typename B::Memory>> buffers;
  std::vector<BlockRoutes> routes;
};

template <class Model>
void check_replayed(GoldenCase const& golden, Model& model, typename Model::SessionType& session) {
  using B = typename Model::BackendType;
  GoldenRoutes<B> const given(session.backend(), golden, model.config());
  Observation<float> seen{.want_hidden_states = true, .want_routing = true, .want_attention = true};
  double worst = 0;
  auto const check = [&](std::string const& tensor, double error, double limit) {
    BOOST_TEST(error < limit, golden.name() << ": " << tensor << ": error " << error << " of the norm, above " << limit);
    worst = std::max(worst, error);
  };
  auto const logits = model.logits(session, golden.batch(), {&seen, given.routes});
  auto const all = [](std::size_t) { return true; };
  check("logits", Model::HeadType::classifies ? golden.error_if("logits", logits.values, all) : golden.error("logits", logits.values), 2e-2);
  for (std::size_t i = 0; i < seen.hidden_states.size(); ++i)
    check("hidden_states", golden.error("hidden_states." + std::to_string(i), seen.hidden_states[i]), 2e-2);
  auto const t = static_cast<std::size_t>(golden.batch().tokens);
  for (std::size_t i = 0; i < seen.attentions.size(); ++i) {
    std::size_t const maps = seen.attentions[i].size() / (golden.positions() * t);
    check("attentions", golden.error_if("attentions." + std::to_string(i), seen.attentions[i], [&](std::size_t at) {
      return golden.is_real(at / (maps * t * t) * t + at / t % t);
    }), 2e-2);
  }
  for (auto const& router : seen.routers) {
    check(router.name + ".gates", golden.error("router." + router.name + ".gates", router.gates), 2e-2);
    check(router.name + ".probs", golden.error("router." + router.name + ".probs", router.probabilities), 2e-2);
  }

  auto gradient = model.make_gradient();
  fill(session.backend(), gradient.values(), 0.0f);
  LossReport const report = model.gradients(session, golden.batch(), gradient, {}, false, {.routes = given.routes});
  double const loss = golden.values("loss")[0];
  if (golden.batch().mask.empty()) check("loss", std::abs(report.total - loss) / std::abs(loss), 2e-2);
  std::vector<double> errors;
  for (Segment const& segment : model.table().segments()) {
    std::vector<float> host(static_cast<std::size_t>(segment.size()));
    to_host(session.backend(), gradient.segment(segment), host.data());
    errors.push_back(golden.error_if("grad." + segment.name, host, all));
    BOOST_TEST(errors.back() < 1.5e-1, golden.name() << ": gradient of " << segment.name << ": error " << errors.back());
  }
  std::ranges::sort(errors);
  double const median = errors[errors.size() / 2];
  BOOST_TEST(median < 3e-2, golden.name() << ": median error of the gradients " << median);
  BOOST_TEST_MESSAGE("golden bfloat16 " << golden.name() << " forward " << worst << " gradients " << errors.back() << " median " << median);
}

/// The experts of the K largest of a position's probabilities, and how far the K-th logit is above the next.
struct LargestExperts {
  template <class Values>
  LargestExperts(Values const& probabilities, std::size_t position, std::size_t e, std::size_t k) {
    std::vector<std::pair<double, ExpertId>> sorted;
    for (std::size_t i = 0; i < e; ++i)
      sorted.emplace_back(-static_cast<double>(probabilities[position * e + i]), static_cast<ExpertId>(i));
    std::ranges::sort(sorted);
    for (std::size_t s = 0; s < k; ++s) experts.insert(sorted[s].second);
    gap = k == e ? HUGE_VAL : std::log(sorted[k - 1].first / sorted[k].first);
  }
  std::set<ExpertId> experts;
  double gap;
};

/// A choice is clear if its gap is larger. From `counted_gap` on choices are counted, and those that fall otherwise.
inline constexpr double clear_gap = 2.5e-2, counted_gap = 2e-2;

/// Clear choices, as the router makes them on replayed routes and on its own. On its own, a choice that was not clear may
/// differ, which changes what this token and the later ones of its row hold from there on: those are left out.
template <class Model>
void check_choices(GoldenCase const& golden, Model const& model, typename Model::SessionType& session) {
  using B = typename Model::BackendType;
  GoldenRoutes<B> const given(session.backend(), golden, model.config());
  Observation<float> replayed, own;
  (void)model.logits(session, golden.batch(), {&replayed, given.routes});
  (void)model.logits(session, golden.batch(), {&own});
  std::vector<bool> changed(golden.positions());
  std::size_t clear = 0, compared = 0, counted = 0, otherwise = 0;
  for (std::size_t r = 0; r < own.routers.size(); ++r) {
    auto const& router = own.routers[r];
    auto const e = static_cast<std::size_t>(router.expert_count), k = static_cast<std::size_t>(router.top_k);
    auto const golden_probabilities = golden.values("router." + router.name + ".probs");
    auto const changed_before = changed;
    for (std::size_t position = 0; position < golden.positions(); ++position) {
      if (!golden.is_real(position)) continue;
      LargestExperts const expected(golden_probabilities, position, e, k), seen(replayed.routers[r].probabilities, position, e, k);
      std::set<ExpertId> const chosen(router.experts.begin() + static_cast<std::ptrdiff_t>(position * k),
                                      router.experts.begin() + static_cast<std::ptrdiff_t>((position + 1) * k));
      if (expected.gap > counted_gap) {
        ++counted;
        otherwise += seen.experts != expected.experts;
      }
      if (expected.gap > clear_gap) {
        ++clear;
        BOOST_TEST((seen.experts == expected.experts), golden.name() << ": " << router.name << " chooses otherwise at " << position);
      }
      if (expected.gap > clear_gap && !changed_before[position]) {
        ++compared;
        BOOST_TEST((chosen == expected.experts), golden.name() << ": " << router.name << " chose otherwise at " << position);
      }
      auto const tokens = static_cast<std::size_t>(golden.batch().tokens);
      if (chosen != expected.experts)
        for (std::size_t later = position; later < (position / tokens + 1) * tokens; ++later) changed[later] = true;
    }
  }
  BOOST_TEST(compared > clear / 2);
  BOOST_TEST_MESSAGE("golden bfloat16 " << golden.name() << ": " << clear << " clear choices, " << compared << " before any change; of "
                     << counted << " with a gap above " << counted_gap << ' ' << otherwise << " fall otherwise");
}

template <class Model>
void check_golden_bfloat16(std::string const& name) {
  GoldenCase const golden(name);
  auto model = load<Model>(golden_path(name), {.map = false});
  typename Model::SessionType session;
  check_replayed(golden, model, session);
  check_choices(golden, model, session);
}

}  // namespace moduleformer::test
