// SPDX-License-Identifier: MIT
// Generation: equal to sampling from full forwards, repeatable, independent of threads and neighbours;
// every way to end; refused input.
#include "generation_support.hpp"

#include <moduleformer/model/generation.hpp>

#include <boost/test/unit_test.hpp>

#include <map>
#include <thread>

namespace mf = moduleformer;
using namespace moduleformer::test;

namespace {

using Prompts = std::vector<std::vector<mf::TokenId>>;
Prompts prompts() { return {some_ids(5, 1), some_ids(1, 2), some_ids(70, 3)}; }

/// What generate should give, by one full forward per token.
template <class S>
std::vector<mf::TokenId> by_full_forwards(SmallModel<S> const& model, std::vector<mf::TokenId> ids, mf::Index sequence,
                                          mf::GenerationOptions const& options) {
  mf::Session session{model, {.threads = 2}};
  mf::Sampler sampler(options.sampling());
  std::size_t const begin = ids.size();
  for (mf::Index i = 0; i < options.max_new_tokens; ++i) {
    auto const logits = model.logits(session, one_row(ids));
    auto const last = std::span<S const>(logits.values).last(static_cast<std::size_t>(logits.outputs));
    ids.push_back(sampler(last, ids, mf::sampling_number(options.seed, sequence, static_cast<mf::Index>(ids.size()))));
  }
  return {ids.begin() + static_cast<std::ptrdiff_t>(begin), ids.end()};
}

std::string message_of(auto const& call) {
  try {
    call();
  } catch (mf::Error const& error) {
    return error.what();
  }
  return "no error";
}

}  // namespace

BOOST_AUTO_TEST_CASE(greedy_generation_is_the_argmax_of_full_forwards) {
  for (Variant const& variant : variants) {
    auto const model = small_model<double>(variant);
    mf::GenerationOptions const options{.max_new_tokens = 20, .temperature = 0};
    auto const results = mf::generate(model, prompts(), options);
    BOOST_REQUIRE_EQUAL(results.size(), 3u);
    for (std::size_t i = 0; i < 3; ++i) {
      auto const expected = by_full_forwards(model, prompts()[i], static_cast<mf::Index>(i), options);
      BOOST_TEST(results[i].tokens == expected, boost::test_tools::per_element());
      BOOST_TEST((results[i].reason == mf::FinishReason::length));
      BOOST_TEST(results[i].stop_id == -1);
    }
  }
}

BOOST_AUTO_TEST_CASE(sampled_generation_is_sampling_from_full_forwards) {
  auto const model = small_model<float>(variants[0]);
  mf::GenerationOptions const options{
      .max_new_tokens = 30, .temperature = 0.8, .top_k = 12, .top_p = 0.95, .repetition_penalty = 1.2, .seed = 9};
  auto const results = mf::generate(model, prompts(), options);
  for (std::size_t i = 0; i < 3; ++i) {
    auto const expected = by_full_forwards(model, prompts()[i], static_cast<mf::Index>(i), options);
    BOOST_TEST(results[i].tokens == expected, boost::test_tools::per_element());
  }
}

BOOST_AUTO_TEST_CASE(a_seed_gives_the_same_tokens_for_any_threads_and_neighbours) {
  auto const model = small_model<float>(variants[0]);
  mf::GenerationOptions options{.max_new_tokens = 40, .seed = 4, .threads = 1};
  auto const first = mf::generate(model, prompts(), options);
  auto same = [&](std::vector<mf::Generated> const& other, std::size_t i) { return other[i].tokens == first[i].tokens; };
  for (int const threads : {1, 2, 3}) {
    options.threads = threads;
    auto const again = mf::generate(model, prompts(), options);
    for (std::size_t i = 0; i < 3; ++i) BOOST_TEST(same(again, i));
  }
  Prompts others = prompts();
  others[1] = some_ids(33, 8);
  auto const mixed = mf::generate(model, others, options);
  BOOST_TEST(same(mixed, 0));
  BOOST_TEST(!same(mixed, 1));
  BOOST_TEST(same(mixed, 2));
  options.seed = 5;
  BOOST_TEST(!same(mf::generate(model, prompts(), options), 0));
  // The same prompt twice draws different numbers.
  auto const twins = mf::generate(model, {some_ids(5, 1), some_ids(5, 1)}, options);
  BOOST_TEST((twins[0].tokens != twins[1].tokens));
}

BOOST_AUTO_TEST_CASE(two_threads_generate_from_one_model_at_once) {
  auto const model = small_model<float>(variants[0]);
  mf::GenerationOptions const options{.max_new_tokens = 60, .seed = 2};
  auto const run = [&] {
    mf::Session session{model, {.threads = 1}};
    return mf::generate(model, session, prompts(), options);
  };
  auto const expected = run();
  std::vector<std::vector<mf::Generated>> results(2);
  {
    std::jthread const one([&] { results[0] = run(); }), two([&] { results[1] = run(); });
  }
  for (auto const& result : results)
    for (std::size_t i = 0; i < 3; ++i) BOOST_TEST(result[i].tokens == expected[i].tokens, boost::test_tools::per_element());
}

BOOST_AUTO_TEST_CASE(a_stop_id_ends_its_sequence_only_and_is_left_out) {
  auto const model = small_model<float>(variants[0]);
  mf::GenerationOptions options{.max_new_tokens = 40, .seed = 4};
  auto const free = mf::generate(model, prompts(), options);
  mf::TokenId const stop = free[0].tokens[7];
  options.stop_ids = {stop};
  auto const stopped = mf::generate(model, prompts(), options);
  for (std::size_t i = 0; i < 3; ++i) {
    auto const end = std::ranges::find(free[i].tokens, stop);
    std::vector<mf::TokenId> const expected(free[i].tokens.begin(), end);
    BOOST_TEST(stopped[i].tokens == expected, boost::test_tools::per_element());
    bool const found = end != free[i].tokens.end();
    BOOST_TEST((stopped[i].reason == (found ? mf::FinishReason::stop_id : mf::FinishReason::length)));
    BOOST_TEST(stopped[i].stop_id == (found ? stop : -1));
  }
  BOOST_TEST((stopped[0].reason == mf::FinishReason::stop_id));
}

BOOST_AUTO_TEST_CASE(the_callback_sees_every_token_in_order_and_can_end_a_sequence) {
  auto const model = small_model<float>(variants[0]);
  mf::GenerationOptions const options{.max_new_tokens = 12, .seed = 1};
  auto const free = mf::generate(model, prompts(), options);
  std::map<mf::Index, std::vector<mf::TokenId>> seen;
  auto const results = mf::generate(model, prompts(), options, [&](mf::Index sequence, mf::TokenId id) {
    seen[sequence].push_back(id);
    return sequence != 1 || seen[1].size() < 5;
  });
  for (std::size_t i = 0; i < 3; ++i) BOOST_TEST(results[i].tokens == seen[static_cast<mf::Index>(i)], boost::test_tools::per_element());
  BOOST_TEST(results[1].tokens.size() == 5u);
  BOOST_TEST((results[1].reason == mf::FinishReason::callback));
  BOOST_TEST((results[0].reason == mf::FinishReason::length));
  BOOST_TEST(results[2].tokens == free[2].tokens, boost::test_tools::per_element());
  // A callback without a result never ends anything.
  mf::Index count = 0;
  (void)mf::generate(model, prompts(), options, [&](mf::Index, mf::TokenId) { ++count; });
  BOOST_TEST(count == 36);
}

BOOST_AUTO_TEST_CASE(a_session_can_be_used_again) {
  auto const model = small_model<float>(variants[0]);
  mf::Session session{model, {.threads = 2}};
  mf::GenerationOptions const options{.max_new_tokens = 10, .seed = 6};
  auto const first = mf::generate(model, session, prompts(), options);
  (void)model.logits(session, one_row(some_ids(90, 1)));
  auto const second = mf::generate(model, session, prompts(), options);
  for (std::size_t i = 0; i < 3; ++i) BOOST_TEST(first[i].tokens == second[i].tokens, boost::test_tools::per_element());
}

BOOST_AUTO_TEST_CASE(refused_input_is_named) {
  auto const model = small_model<float>(variants[0]);
  auto const message = [&](Prompts const& given, mf::GenerationOptions const& options) {
    return message_of([&] { (void)mf::generate(model, given, options); });
  };
  BOOST_TEST(message({}, {}) == "generate: expected at least one prompt");
  BOOST_TEST(message({{1}, {}}, {}) == "generate: prompt 1 is empty, expected at least one token");
  BOOST_TEST(message({{1, 23}}, {}) == "generate: prompt 0: expected ids from 0 to 22, found 23");
  BOOST_TEST(message({{-1}}, {}) == "generate: prompt 0: expected ids from 0 to 22, found -1");
  BOOST_TEST(message({{1}}, {.stop_ids = {99}}) == "generate: stop_ids: expected ids from 0 to 22, found 99");
  BOOST_TEST(message({{1}}, {.max_new_tokens = 0}).starts_with("generate: max_new_tokens: expected 1 to"));
  BOOST_TEST(message({{1}}, {.max_new_tokens = -3}).starts_with("generate: max_new_tokens: expected 1 to"));
  BOOST_TEST(message({{1}}, {.temperature = -1}).starts_with("temperature: expected"));
  BOOST_TEST(message({{1}}, {.top_p = 2}).starts_with("top_p: expected"));
  // More than any cache holds: refused before anything is allocated.
  BOOST_TEST(message({{1}, {1}, {1}}, {.max_new_tokens = mf::Index{1} << 30}).starts_with("KvCache: "));
}
