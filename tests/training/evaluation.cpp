// SPDX-License-Identifier: MIT
#include "training/support.hpp"

#include <moduleformer/training/evaluation.hpp>

#include <boost/test/unit_test.hpp>

#include <cmath>
#include <numeric>

namespace mf = moduleformer;
using namespace mf::test;
using mf::Index;

namespace {

using Model = mf::CausalLM<tiny_shape, mf::Policies<>, mf::Cpu<double>>;

Model some_model() { return Model::random(3, {.initializer_range = 0.5}); }

}  // namespace

BOOST_AUTO_TEST_CASE(cross_entropy_is_that_of_the_logits) {
  auto const model = some_model();
  mf::Session session{model, {.threads = 2}};
  // 11 held-out bytes of the first text, 3 of the second: windows of 4, the last ones short.
  auto const data = mf::ByteBatches::of_texts({"some words to be read", "a b c"}, {.rows = 2, .tokens = 4, .held_out = 0.5});
  auto const result = mf::evaluate(model, session, data.held_out());
  double nats = 2 * std::log(256.0);  // the first byte of each held-out part
  Index count = 2;
  for (Index d : {0, 1}) {
    auto const bytes = data.documents().held_out_units(d);
    for (std::size_t begin = 0; begin + 1 < bytes.size(); begin += 4) {
      std::size_t const n = std::min<std::size_t>(4, bytes.size() - 1 - begin);
      mf::Batch batch{.rows = 1, .tokens = static_cast<Index>(n), .ids = {bytes.begin() + static_cast<std::ptrdiff_t>(begin),
                                                                         bytes.begin() + static_cast<std::ptrdiff_t>(begin + n)}};
      auto const logits = model.logits(session, batch);
      for (std::size_t t = 0; t < n; ++t, ++count) {
        double z = 0;
        for (std::size_t v = 0; v < 256; ++v) z += std::exp(logits.values[t * 256 + v]);
        nats += std::log(z) - logits.values[t * 256 + bytes[begin + t + 1]];
      }
    }
  }
  BOOST_TEST(result.tokens == count);
  BOOST_TEST(result.tokens == 14);
  BOOST_CHECK_CLOSE_FRACTION(result.nats, nats, 1e-12);
  BOOST_CHECK_CLOSE_FRACTION(result.bits_per_byte(), nats / 14 / std::log(2.0), 1e-12);
  BOOST_CHECK_CLOSE_FRACTION(result.perplexity(), std::exp(nats / 14), 1e-12);
}

BOOST_AUTO_TEST_CASE(routers_are_described) {
  auto const model = some_model();
  mf::Session session{model, {.threads = 2}};
  auto const data = tiny_batches(3);
  auto const result = mf::evaluate(model, session, data.held_out());
  BOOST_REQUIRE(result.routers.size() == 4);
  BOOST_TEST(result.routers[3].name == "transformer.h.1.mlpf.gate");
  for (std::size_t r = 0; r < 4; ++r) {
    auto const& use = result.routers[r];
    std::size_t const experts = r % 2 == 0 ? 3 : 4;
    BOOST_TEST(use.experts() == experts);
    BOOST_TEST(mf::RouterSummary::sum(use.load) == 2 * use.tokens);  // top 2
    BOOST_CHECK_CLOSE_FRACTION(mf::RouterSummary::sum(use.mean_probability()), 1.0, 1e-12);
    BOOST_TEST(use.effective_experts() >= 2);  // each token takes two different ones
    BOOST_TEST(use.effective_experts() <= static_cast<double>(experts));
    BOOST_TEST(use.conditional_entropy() > 0);
    BOOST_TEST(use.conditional_entropy() <= use.marginal_entropy());  // the mutual information is not negative
  }
  // One batch of everything gives the same averages as several.
  auto one = tiny_batches(3).options();
  one.rows = 100;
  auto const together = mf::evaluate(model, session, mf::ByteBatches::of_texts({repetitive_text}, one).held_out());
  BOOST_TEST(together.tokens == result.tokens);
  BOOST_CHECK_CLOSE_FRACTION(together.nats, result.nats, 1e-12);
  BOOST_CHECK_CLOSE_FRACTION(together.routers[2].conditional_entropy(), result.routers[2].conditional_entropy(), 1e-12);
  BOOST_CHECK_CLOSE_FRACTION(together.routers[1].load_share()[0] + 1, result.routers[1].load_share()[0] + 1, 1e-12);
}

BOOST_AUTO_TEST_CASE(nothing_to_evaluate) {
  auto const model = some_model();
  mf::Session session{model};
  BOOST_CHECK_THROW((void)mf::evaluate(model, session, std::vector<mf::Batch>{}), mf::Error);
  // A single held-out byte has no context: uniform over the vocabulary.
  auto const one = mf::evaluate(model, session, mf::ByteBatches::of_texts({"ab"}, {.held_out = 0.5}).held_out());
  BOOST_TEST(one.tokens == 1);
  BOOST_CHECK_CLOSE_FRACTION(one.bits_per_byte(), 8.0, 1e-12);
}
