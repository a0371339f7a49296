// SPDX-License-Identifier: MIT
#pragma once
// Suite: attention of few queries over cached keys on backends of CUDA: one token at a time is the whole sequence at
// once, parts of the keys combine, and early stop reads no more than it must.

#include "stick_breaking_support.hpp"

#include <boost/test/unit_test.hpp>

#include <algorithm>
#include <cmath>
#include <vector>

namespace moduleformer::test {

BOOST_AUTO_TEST_SUITE(backend_cuda_stick_breaking_decode)

// Around the eight columns of a thread, warps that share keys, blocks of 64 and 256 keys, and the widest head.
BOOST_AUTO_TEST_CASE_TEMPLATE(definition, B, Backends) {
  using S = typename B::Scalar;
  for (Index const size : {1, 7, 8, 9, 33, 64, 96, 100, 256, 257, 1024, 1030})
    for (Index const keys : {1, 63, 65, 300}) {
      auto const c = single(keys % 2 == 0 ? 2 : 1, keys, size < 64 ? 3 : 1, size, size % 2 == 0 ? 2 : 3);
      for (auto const variant : {variants[1], variants[2]}) {
        auto const in = stored_inputs<S>(c, 30);
        auto const expected = reference(c, variant, in);
        auto const found = attend<B>(c, variant, in);
        BOOST_TEST_CONTEXT(describe(c, variant)) {
          BOOST_TEST(relative_error(found.y, expected.y.values()) < forward_bound<S>);
          BOOST_TEST(log_stick_error(found.log_stick, expected.log_stick.values()) < 2 * forward_bound<S>);
        }
      }
    }
}

BOOST_AUTO_TEST_CASE_TEMPLATE(token_by_token_is_the_whole_sequence, B, Backends) {
  using S = typename B::Scalar;
  auto const whole = single(70, 70, 2, 16, 2);
  auto const in = stored_inputs<S>(whole, 31, -2);
  for (auto const variant : {variants[1], variants[2]}) {
    auto const once = attend<B>(whole, variant, in);
    std::vector<double> steps;
    for (Index t = 0; t < 70; ++t) {
      auto step = whole;
      step.query_tokens = 1;
      step.sequences = {{0, 1, 0, t + 1}};
      auto own = in;
      own.q = Array<double, 2>(2, 32);
      std::copy_n(in.q.values().begin() + t * 64, 64, own.q.values().begin());
      auto const out = attend<B>(step, variant, own);
      steps.insert(steps.end(), out.y.begin(), out.y.end());
    }
    BOOST_TEST(relative_error(steps, once.y) < (sizeof(S) == 4 ? 2e-6 : 1e-2));
  }
}

// More keys than the newest part has, several parts, with and without early stop, and backward from their stops.
BOOST_AUTO_TEST_CASE_TEMPLATE(long_caches, B, Backends) {
  using S = typename B::Scalar;
  for (Index const size : {16, 264})
    for (double const mean : {-8.0, -4.0})
      for (Index const queries : {1, 3}) {
        auto c = single(queries, size < 64 ? 2500 : 900, 1, size, 2);
        auto const in = stored_inputs<S>(c, 32, mean, 0.5);
        auto const expected = reference(c, {true, true}, in);
        for (double const stop : {0.0, 0x1p-24, 0x1p-8}) {
          c.extents.stop_below = stop;
          bool const gradients = size < 64 && queries == 3;
          auto const found = attend<B>(c, {true, true}, in, {.gradients = gradients});
          double const allowed = 10 * stop + gradient_bound<S>;
          BOOST_TEST_CONTEXT("size " << size << " mean " << mean << " queries " << queries << " stop " << stop) {
            BOOST_TEST(relative_error(found.y, expected.y.values()) < 10 * stop + forward_bound<S>);
            if (gradients) {
              BOOST_TEST(relative_error(found.dk, expected.dk.values()) < 5 * allowed);
              BOOST_TEST(relative_error(found.dv, expected.dv.values()) < 5 * allowed);
            }
            BOOST_TEST((found.stop[0] > 0) == (mean > -5 && stop > 0));
            if (stop > 0 && found.stop[0] > 0) BOOST_TEST(found.log_stick[0] < std::log(stop));
          }
        }
      }
}

BOOST_AUTO_TEST_CASE_TEMPLATE(orders_of_threads_give_the_same_bits, B, Backends) {
  using S = typename B::Scalar;
  for (Index const size : {24, 300}) {
    auto const c = single(1, 1100, 2, size, 2);
    auto const in = stored_inputs<S>(c, 35, -4);
    (void)in_all_orders<B>([&](Device<B>& device) { return attend(device, c, {true, true}, in).y; });
  }
}

// Many prompts of different length, one new token each.
BOOST_AUTO_TEST_CASE_TEMPLATE(batches_of_caches, B, Backends) {
  using S = typename B::Scalar;
  AttentionCase const batch{{2, 8, 2, 0}, {{0, 1, 0, 1}, {1, 1, 1, 64}, {2, 1, 65, 65}, {4, 1, 130, 3000}}, 6, 3130};
  auto const in = stored_inputs<S>(batch, 34, -3);
  auto const found = attend<B>(batch, {false, true}, in);
  auto const expected = reference(batch, {false, true}, in);
  BOOST_TEST(relative_error(found.y, expected.y.values()) < forward_bound<S>);
  BOOST_TEST(log_stick_error(found.log_stick, expected.log_stick.values()) < 2 * forward_bound<S>);
}

BOOST_AUTO_TEST_CASE_TEMPLATE(not_a_number_reaches_the_output, B, Backends) {
  using S = typename B::Scalar;
  auto c = single(1, 1200, 1, 16, 2);
  c.extents.stop_below = 0x1p-24;
  auto in = stored_inputs<S>(c, 36);
  in.q(1, 3) = std::nan("");
  auto const found = attend<B>(c, {true, true}, in);
  BOOST_TEST(!std::isnan(found.y[0]));
  BOOST_TEST(std::isnan(found.y[16]));
}

BOOST_AUTO_TEST_SUITE_END()

}  // namespace moduleformer::test
