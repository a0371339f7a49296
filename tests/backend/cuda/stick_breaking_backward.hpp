// SPDX-License-Identifier: MIT
#pragma once
// Suite: gradients of stick-breaking attention on backends of CUDA against the definition.

#include "stick_breaking_support.hpp"

#include <boost/test/unit_test.hpp>

#include <algorithm>
#include <cmath>
#include <tuple>
#include <vector>

namespace moduleformer::test {

template <class S>
void check_gradients(Attended const& found, AttentionOutputs<double> const& expected, double factor = 1) {
  BOOST_TEST(relative_error(found.dq, expected.dq.values()) < factor * gradient_bound<S>);
  BOOST_TEST(relative_error(found.dk, expected.dk.values()) < factor * gradient_bound<S>);
  BOOST_TEST(relative_error(found.dv, expected.dv.values()) < factor * gradient_bound<S>);
}

BOOST_AUTO_TEST_SUITE(backend_cuda_stick_breaking_backward)

BOOST_AUTO_TEST_CASE_TEMPLATE(definition, B, Backends) {
  using S = typename B::Scalar;
  for (auto const& c : all_cases())
    for (auto const variant : variants) {
      auto const in = stored_inputs<S>(c, 22);
      auto const expected = reference(c, variant, in);
      with_every_attention_engine<B>([&] {
        BOOST_TEST_CONTEXT(describe(c, variant)) {
          check_gradients<S>(attend<B>(c, variant, in, {.gradients = true}), expected);
        }
      });
    }
}

BOOST_AUTO_TEST_CASE_TEMPLATE(orders_of_threads_give_the_same_bits, B, Backends) {
  using S = typename B::Scalar;
  for (auto const& c :
       {single(70, 90, 1, 16, 2), single(5, 5, 2, 72, 1), single(35, 40, 1, 64, 2), single(140, 140, 1, 32, 2),
        single(70, 140, 2, 136, 2)}) {
    auto const in = stored_inputs<S>(c, 6);
    (void)in_all_orders<B>([&](Device<B>& device) {
      auto all = attend(device, c, {true, true}, in, {.gradients = true});
      all.dq.insert(all.dq.end(), all.dk.begin(), all.dk.end());
      all.dq.insert(all.dq.end(), all.dv.begin(), all.dv.end());
      return all.dq;
    });
  }
}

BOOST_AUTO_TEST_CASE_TEMPLATE(early_stop, B, Backends) {
  using S = typename B::Scalar;
  for (auto c : {single(200, 250, 1, 16, 2), single(30, 1100, 1, 136, 2)})
  for (auto const variant : variants) {
    auto const in = stored_inputs<S>(c, 23, 1);
    c.extents.stop_below = sizeof(S) == 4 ? 0x1p-40 : 0x1p-24;
    auto const found = attend<B>(c, variant, in, {.gradients = true});
    BOOST_TEST(found.stop.back() > 0);
    check_gradients<S>(found, reference(c, variant, in));
  }
}

BOOST_AUTO_TEST_CASE(fused_heads_stop_early) {
  using B = std::tuple_element_t<1, Backends>;
  for (auto c : fused_cases())
    for (auto const variant : {variants[0], variants[3]}) {
      auto const in = stored_inputs<bfloat16>(c, 23, 1);
      auto const expected = reference(c, variant, in);
      c.extents.stop_below = 0x1p-24;
      with_every_attention_engine<B>([&] {
        auto const found = attend<B>(c, variant, in, {.gradients = true});
        BOOST_TEST_CONTEXT(describe(c, variant)) {
          BOOST_TEST(found.stop.back() > 0);
          check_gradients<bfloat16>(found, expected);
        }
      });
    }
}

BOOST_AUTO_TEST_CASE(fused_heads_of_large_logits) {
  using B = std::tuple_element_t<1, Backends>;
  for (auto const& c : fused_cases())
    for (double const mean : large_means) {
      auto const in = stored_inputs<bfloat16>(c, 27, mean, 15);
      auto const expected = reference(c, {true, true}, in);
      with_every_attention_engine<B>([&] {
        BOOST_TEST_CONTEXT(describe(c, {true, true}) << " mean " << mean) {
          check_gradients<bfloat16>(attend<B>(c, {true, true}, in, {.gradients = true}), expected);
        }
      });
    }
}

// Without early stop the sticks of far keys underflow; their gradients must be 0, not NaN.
BOOST_AUTO_TEST_CASE_TEMPLATE(underflowing_sticks, B, Backends) {
  using S = typename B::Scalar;
  auto const c = single(257, 257, 1, 8, 1);
  for (double const mean : {4.0, 25.0, 50.0, 600.0}) {
    auto const in = stored_inputs<S>(c, 24, mean);
    auto const expected = reference(c, {true, true}, in);
    auto const found = attend<B>(c, {true, true}, in, {.gradients = true});
    BOOST_TEST(relative_error(found.dv, expected.dv.values()) < gradient_bound<S>);
    // dq and dk are below any precision beyond that
    BOOST_TEST(relative_error(found.dq, expected.dq.values()) < (mean > 5 ? 1e300 : 10 * gradient_bound<S>));
    BOOST_TEST(relative_error(found.dk, expected.dk.values()) < (mean > 5 ? 1e300 : 10 * gradient_bound<S>));
  }
}

// Logits between -50 and 50: a stick that is used up at once, and keys that hardly use any.
BOOST_AUTO_TEST_CASE_TEMPLATE(large_logits, B, Backends) {
  using S = typename B::Scalar;
  auto const c = single(100, 130, 1, 8, 1);
  for (double const mean : {-50.0, -25.0, 0.0}) {
    auto const in = stored_inputs<S>(c, 27, mean, 20);
    check_gradients<S>(attend<B>(c, {true, true}, in, {.gradients = true}), reference(c, {true, true}, in), 5);
  }
}

// Keys and values that are one matrix, as are their gradients.
BOOST_AUTO_TEST_CASE_TEMPLATE(shared_keys, B, Backends) {
  using S = typename B::Scalar;
  for (Index const size : {40, 64, 72, 136}) {
    auto const c = single(100, 100, 1, size, 2);
    auto in = stored_inputs<S>(c, 25);
    in.v = in.k;
    auto const expected = reference(c, {true, false}, in);
    auto const found = attend<B>(c, {true, false}, in, {.gradients = true, .shared_keys = true});
    std::vector<double> both(expected.dk.values());
    for (std::size_t i = 0; i < both.size(); ++i) both[i] += expected.dv.values()[i];
    BOOST_TEST(relative_error(found.y, expected.y.values()) < forward_bound<S>);
    BOOST_TEST(relative_error(found.dk, both) < gradient_bound<S>);
  }
}

// Too little memory for every block's states: some blocks are computed again, with the same result.
BOOST_AUTO_TEST_CASE_TEMPLATE(few_states, B, Backends) {
  using S = typename B::Scalar;
  for (Index const size : {8, 64, 72}) {
    AttentionCase const c{{2, size, 1, 0}, {{0, 100, 7, 400}, {100, 9, 407, 140}}, 109, 547};
    auto const in = stored_inputs<S>(c, 28, -3);
    auto const all = attend<B>(c, {true, true}, in, {.gradients = true});
    for (Index const bytes : {1, 8000}) {
      auto const few = attend<B>(c, {true, true}, in, {.gradients = true, .state_bytes = bytes});
      BOOST_TEST((few.dq == all.dq && few.dk == all.dk && few.dv == all.dv));
    }
    check_gradients<S>(all, reference(c, {true, true}, in));
  }
}

// A prompt that two continuations share.
BOOST_AUTO_TEST_CASE_TEMPLATE(sequences_may_share_keys, B, Backends) {
  using S = typename B::Scalar;
  for (Index const size : {12, 32, 136}) {
    AttentionCase const c{{1, size, 2, 0}, {{0, 3, 0, 80}, {3, 40, 0, 80}, {43, 5, 70, 30}}, 48, 100};
    auto const in = stored_inputs<S>(c, 29);
    check_gradients<S>(attend<B>(c, {false, true}, in, {.gradients = true}), reference(c, {false, true}, in));
  }
}

BOOST_AUTO_TEST_CASE_TEMPLATE(bits_do_not_depend_on_packing, B, Backends) {
  using S = typename B::Scalar;
  AttentionCase const packed{{2, 12, 2, 0}, {{0, 3, 0, 3}, {3, 80, 3, 80}, {83, 33, 83, 33}}, 116, 116};
  auto const in = stored_inputs<S>(packed, 26);
  auto const together = attend<B>(packed, {true, true}, in, {.gradients = true});
  auto separate = together;
  for (auto* values : {&separate.dq, &separate.dk, &separate.dv}) std::fill(values->begin(), values->end(), 0.0);
  auto const add = [](std::vector<double>& to, std::vector<double> const& from) {
    for (std::size_t i = 0; i < to.size(); ++i) to[i] += from[i];
  };
  for (auto const& sequence : packed.sequences) {
    auto alone = packed;
    alone.sequences = {sequence};
    auto const found = attend<B>(alone, {true, true}, in, {.gradients = true});
    add(separate.dq, found.dq);  // rows of other sequences are 0
    if (&sequence == &packed.sequences[1]) {
      // Blocks of keys that the sequence has to itself.
      for (std::size_t i = 64 * 24; i < 83 * 24; ++i)
        BOOST_TEST((found.dk[i] == together.dk[i] && found.dv[i] == together.dv[i]));
    }
  }
  BOOST_TEST((separate.dq == together.dq));
}

// Keys of no sequence, and query rows of none, may hold anything.
BOOST_AUTO_TEST_CASE_TEMPLATE(what_belongs_to_no_sequence_is_not_read, B, Backends) {
  using S = typename B::Scalar;
  for (Index const size : {12, 64, 72, 96})
    for (Index const queries : {1, 30}) {
      AttentionCase const c{{1, size, 2, 0}, {{3, queries, 10, 70}}, 90, 160};
      auto clean = stored_inputs<S>(c, 37), in = clean;
      auto const spoil = [&](Array<double, 2>& array, Index begin, Index end) {
        for (Index row = 0; row < array.view().extent(0); ++row)
          for (Index x = 0; x < size; ++x)
            if (row < begin || row >= end) array(row, x) = std::nan("");
      };
      spoil(in.k, 10, 80);
      spoil(in.v, 10, 80);
      spoil(in.q, 6, 6 + 2 * queries);
      spoil(in.dy, 6, 6 + 2 * queries);
      auto const expected = reference(c, {true, true}, clean);
      auto const found = attend<B>(c, {true, true}, in, {.gradients = true});
      BOOST_TEST(relative_error(found.y, expected.y.values()) < forward_bound<S>);
      check_gradients<S>(found, expected);
    }
}

BOOST_AUTO_TEST_CASE_TEMPLATE(a_second_call_takes_no_memory, B, Backends) {
  using S = typename B::Scalar;
  auto const c = single(30, 30, 2, 72, 2);
  auto const in = stored_inputs<S>(c, 10);
  Device<B> device;
  (void)attend(device, c, {true, true}, in, {.gradients = true});
  auto const reserved = device.backend().workspace().reserved();
  (void)attend(device, c, {true, true}, in, {.gradients = true});
  BOOST_TEST(device.backend().workspace().reserved() == reserved);
  BOOST_TEST(device.backend().workspace().mark().used == 0u);
}

BOOST_AUTO_TEST_SUITE_END()

}  // namespace moduleformer::test
