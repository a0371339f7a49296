// SPDX-License-Identifier: MIT
// Config and extents: what no model can have is refused by name; counts equal the parameter table.

#include <moduleformer/model/causal_lm.hpp>
#include <moduleformer/model/count.hpp>

#include <boost/test/unit_test.hpp>

#include <string>

namespace mf = moduleformer;

namespace {

constexpr mf::Shape shape{.vocab_size = 61, .hidden_size = 24, .layers = 2, .router_hidden_size = 12,
                          .attention = {.experts = 4, .top_k = 2, .heads = 2, .hidden_size = 16},
                          .feed_forward = {.experts = 6, .top_k = 3, .hidden_size = 40}};

template <class Change>
void refused(Change change, std::string const& part) {
  auto config = mf::Config::of(shape);
  change(config);
  try {
    config.check();
    BOOST_ERROR("no error, expected one that says: " << part);
  } catch (mf::Error const& error) {
    BOOST_TEST(std::string(error.what()).find(part) != std::string::npos, error.what() << " lacks: " << part);
  }
}

}  // namespace

BOOST_AUTO_TEST_CASE(sizes_that_no_model_can_have) {
  mf::Config::of(shape).check();
  refused([](auto& c) { c.vocab_size = 0; }, "vocab_size: expected 1");
  refused([](auto& c) { c.hidden_size = -3; }, "n_embd: expected 1 to 2147483647, found -3");
  refused([](auto& c) { c.layers = mf::Index{1} << 40; }, "n_layer");
  refused([](auto& c) { c.attention.top_k = 5; }, "k_att: 5 exceeds n_att_experts 4");
  refused([](auto& c) { c.feed_forward.top_k = 7; }, "k_mlp: 7 exceeds n_mlp_experts 6");
  refused([](auto& c) { c.attention.heads = 3; }, "n_head: 3 does not divide att_hidden 16");
  refused([](auto& c) { c.attention.experts = std::vector<mf::Index>{4}; }, "expected one count per layer, 2, found 1");
  refused([](auto& c) { c.feed_forward.experts = std::vector<mf::Index>{4, 2}; }, "k_mlp: 3 exceeds n_mlp_experts 2");
  refused([](auto& c) { c.pad_token_id = 61; }, "pad_token_id: expected an id below vocab_size 61, found 61");
}

BOOST_AUTO_TEST_CASE(a_static_shape_refuses_another_config) {
  using Model = mf::CausalLM<shape>;
  auto config = mf::Config::of(shape);
  config.attention.top_k = 1;
  try {
    Model model(config, {});
    BOOST_ERROR("no error");
  } catch (mf::Error const& error) {
    BOOST_TEST(std::string(error.what()) == "k_att: the model's type says 2, the config says 1");
  }
  BOOST_CHECK_THROW(Model::random(1, {.residual_dropout = 1.0}), mf::Error);
  BOOST_CHECK_THROW(Model::random(1, {.sampled_slots = 3}), mf::Error);
  BOOST_CHECK_THROW(Model::random(1, {.aux_loss_weight = -1}), mf::Error);
}

BOOST_AUTO_TEST_CASE(counts_equal_the_table) {
  constexpr auto counts = mf::count<shape>();
  auto const model = mf::CausalLM<shape>::random(1);
  BOOST_TEST(counts.parameters == model.parameter_count());
  BOOST_TEST(mf::count(model.config(), model.policies(), model.outputs()).parameters == counts.parameters);
  BOOST_TEST(counts.active_parameters < counts.parameters);
  auto config = mf::Config::of(shape);
  config.attention.experts = std::vector<mf::Index>{4, 7};
  config.feed_forward.experts = std::vector<mf::Index>{5, 3};
  auto const ragged = mf::CausalLM<mf::dynamic_shape, mf::Policies<mf::GmmRouter>>::random(1, config);
  BOOST_TEST(mf::count(config, ragged.policies(), 61).parameters == ragged.parameter_count());
  // One head as wide as the model shares its keys: no projections.
  constexpr mf::Shape shared{.vocab_size = 61, .hidden_size = 24, .layers = 2, .router_hidden_size = 12,
                             .attention = {.experts = 4, .top_k = 2, .heads = 1, .hidden_size = 24},
                             .feed_forward = {.experts = 6, .top_k = 3, .hidden_size = 40}};
  BOOST_TEST(mf::count<shared>().parameters == mf::CausalLM<shared>::random(1).parameter_count());
}

BOOST_AUTO_TEST_CASE(initial_values_follow_their_rules) {
  auto const model = mf::CausalLM<shape>::random(7, {.initializer_range = 0.5});
  auto const again = mf::CausalLM<shape>::random(7, {.initializer_range = 0.5});
  auto const other = mf::CausalLM<shape>::random(8, {.initializer_range = 0.5});
  for (std::size_t i = 0; i < model.table().count(); ++i) {
    auto const& segment = model.table()[i];
    auto const v = model.values(i);
    BOOST_TEST(std::equal(v.begin(), v.end(), again.values(i).begin()));
    double mean = 0, square = 0, largest = 0;
    for (float const x : v) {
      mean += x;
      square += double{x} * x;
      largest = std::max(largest, std::abs(double{x}));
    }
    double const n = static_cast<double>(v.size());
    if (segment.initial == mf::Initial::zero) BOOST_TEST(largest == 0);
    if (segment.initial == mf::Initial::one) BOOST_TEST(mean == n);
    if (segment.initial == mf::Initial::normal) {
      BOOST_TEST(std::abs(std::sqrt(square / n) - 0.5) < 3 * 0.5 / std::sqrt(n), segment.name);
      BOOST_TEST(std::abs(mean / n) < 4 * 0.5 / std::sqrt(n), segment.name);
    }
    if (segment.initial == mf::Initial::expert_uniform) {
      double const bound = 1.0 / static_cast<double>(segment.shape[1]);
      BOOST_TEST(largest <= bound * (1 + 1e-6));
      BOOST_TEST(largest > bound * 0.95);
      BOOST_TEST(!std::equal(v.begin(), v.end(), other.values(i).begin()));
    }
  }
}
