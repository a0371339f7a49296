// SPDX-License-Identifier: MIT
// Generation on the CUDA backend, emulated: in float the CPU's tokens, greedy and sampled; in bfloat16 the same tokens
// each time, for any neighbours.
#include <moduleformer/backend/cuda_emulated.cuh>

#include "model/generation_support.hpp"

#include <moduleformer/backend/cpu.hpp>
#include <moduleformer/model/generation.hpp>

#include <boost/test/unit_test.hpp>

#include <cstddef>
#include <vector>

namespace mf = moduleformer;
using namespace moduleformer::test;

namespace {

using Prompts = std::vector<std::vector<mf::TokenId>>;
Prompts prompts() { return {some_ids(5, 1), some_ids(1, 2), some_ids(70, 3)}; }

void check_as_on_the_cpu(Variant const& variant, mf::GenerationOptions const& options) {
  auto const expected = mf::generate(model_on<mf::Cpu<float>>(variant), prompts(), options);
  auto const found = mf::generate(model_on<mf::CudaEmulated<float>>(variant), prompts(), options);
  BOOST_REQUIRE_EQUAL(found.size(), expected.size());
  for (std::size_t i = 0; i < found.size(); ++i) {
    BOOST_TEST(found[i].tokens == expected[i].tokens, boost::test_tools::per_element());
    BOOST_TEST((found[i].reason == expected[i].reason));
    BOOST_TEST(found[i].stop_id == expected[i].stop_id);
  }
}

}  // namespace

BOOST_AUTO_TEST_CASE(greedy_in_float) {
  for (Variant const& variant : variants) check_as_on_the_cpu(variant, {.max_new_tokens = 8, .temperature = 0});
}

BOOST_AUTO_TEST_CASE(sampled_in_float) {
  check_as_on_the_cpu(variants[0], {.max_new_tokens = 12, .temperature = 0.8, .top_k = 12, .top_p = 0.95,
                                    .repetition_penalty = 1.2, .stop_ids = {3}, .seed = 9});
}

BOOST_AUTO_TEST_CASE(bfloat16_repeats_itself) {
  auto const model = model_on<mf::CudaEmulated<mf::bfloat16>>(variants[0]);
  mf::GenerationOptions const options{.max_new_tokens = 8, .seed = 4};
  auto const first = mf::generate(model, prompts(), options), again = mf::generate(model, prompts(), options);
  Prompts others = prompts();
  others[1] = some_ids(3, 8);
  auto const mixed = mf::generate(model, others, options);
  for (std::size_t i = 0; i < 3; ++i) {
    BOOST_TEST(again[i].tokens == first[i].tokens, boost::test_tools::per_element());
    if (i != 1) BOOST_TEST(mixed[i].tokens == first[i].tokens, boost::test_tools::per_element());
  }
}

// Each token's work is recorded once and then repeated, until a sequence ends and sizes change.
BOOST_AUTO_TEST_CASE(recorded_steps_make_the_same_tokens) {
  auto const model = model_on<mf::CudaEmulated<mf::bfloat16>>(variants[0]);
  mf::GenerationOptions options{.max_new_tokens = 10, .stop_ids = {3, 5}, .seed = 4};
  auto const expected = mf::generate(model, prompts(), options);
  options.record_steps = true;
  auto const found = mf::generate(model, prompts(), options);
  for (std::size_t i = 0; i < found.size(); ++i) BOOST_TEST(found[i].tokens == expected[i].tokens, boost::test_tools::per_element());
}
