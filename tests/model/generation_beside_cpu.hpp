// SPDX-License-Identifier: MIT
#pragma once
// Generation on a backend of CUDA: in float the CPU's tokens, greedy and sampled; in bfloat16 the same tokens each time, for
// any neighbours, and from recorded steps. What the CPU generates comes from another file: Eigen and nvcc do not go together.

#include "model/generation_support.hpp"

#include <moduleformer/model/generation.hpp>

#include <boost/test/unit_test.hpp>

#include <cstddef>
#include <vector>

namespace moduleformer::test {

using Prompts = std::vector<std::vector<TokenId>>;
inline Prompts prompts() { return {some_ids(5, 1), some_ids(1, 2), some_ids(70, 3)}; }

template <class B>
std::vector<Generated> generated(Variant const& variant, GenerationOptions const& options) {
  return generate(model_on<B>(variant), prompts(), options);
}
/// generated<Cpu<float>>.
std::vector<Generated> cpu_generated(Variant const& variant, GenerationOptions const& options);

template <class B>
void check_as_on_the_cpu(Variant const& variant, GenerationOptions const& options) {
  auto const expected = cpu_generated(variant, options), found = generated<B>(variant, options);
  BOOST_REQUIRE_EQUAL(found.size(), expected.size());
  for (std::size_t i = 0; i < found.size(); ++i) {
    BOOST_TEST(found[i].tokens == expected[i].tokens, boost::test_tools::per_element());
    BOOST_TEST((found[i].reason == expected[i].reason));
    BOOST_TEST(found[i].stop_id == expected[i].stop_id);
  }
}

template <class B>
void check_greedy() {
  for (Variant const& variant : variants) check_as_on_the_cpu<B>(variant, {.max_new_tokens = 8, .temperature = 0});
}

template <class B>
void check_sampled() {
  check_as_on_the_cpu<B>(variants[0], {.max_new_tokens = 12, .temperature = 0.8, .top_k = 12, .top_p = 0.95,
                                       .repetition_penalty = 1.2, .stop_ids = {3}, .seed = 9});
}

template <class B>
void check_repeats_itself() {
  auto const model = model_on<B>(variants[0]);
  GenerationOptions const options{.max_new_tokens = 8, .seed = 4};
  auto const first = generate(model, prompts(), options), again = generate(model, prompts(), options);
  Prompts others = prompts();
  others[1] = some_ids(3, 8);
  auto const mixed = generate(model, others, options);
  for (std::size_t i = 0; i < 3; ++i) {
    BOOST_TEST(again[i].tokens == first[i].tokens, boost::test_tools::per_element());
    if (i != 1) BOOST_TEST(mixed[i].tokens == first[i].tokens, boost::test_tools::per_element());
  }
}

/// Each token's work is recorded once and then repeated, until a sequence ends and sizes change.
template <class B>
void check_recorded_steps() {
  auto const model = model_on<B>(variants[0]);
  GenerationOptions options{.max_new_tokens = 10, .stop_ids = {3, 5}, .seed = 4};
  auto const expected = generate(model, prompts(), options);
  options.record_steps = true;
  auto const found = generate(model, prompts(), options);
  for (std::size_t i = 0; i < found.size(); ++i)
    BOOST_TEST(found[i].tokens == expected[i].tokens, boost::test_tools::per_element());
}

}  // namespace moduleformer::test
