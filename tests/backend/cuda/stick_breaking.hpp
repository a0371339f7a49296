// SPDX-License-Identifier: MIT
#pragma once
// Suite: stick-breaking attention forward on backends of CUDA against the definition.

#include "stick_breaking_support.hpp"

#include <boost/test/unit_test.hpp>

#include <cmath>
#include <limits>
#include <tuple>

namespace moduleformer::test {

BOOST_AUTO_TEST_SUITE(backend_cuda_stick_breaking)

BOOST_AUTO_TEST_CASE_TEMPLATE(definition, B, Backends) {
  using S = typename B::Scalar;
  for (auto const& c : all_cases())
    for (auto const variant : variants) {
      auto const in = stored_inputs<S>(c, 5);
      auto const expected = reference(c, variant, in);
      with_every_attention_engine<B>([&] {
        auto const found = attend<B>(c, variant, in);
        BOOST_TEST_CONTEXT(describe(c, variant)) {
          BOOST_TEST(relative_error(found.y, expected.y.values()) < forward_bound<S>);
          BOOST_TEST(log_stick_error(found.log_stick, expected.log_stick.values()) < 2 * forward_bound<S>);
        }
      });
    }
}

BOOST_AUTO_TEST_CASE_TEMPLATE(orders_of_threads_give_the_same_bits, B, Backends) {
  using S = typename B::Scalar;
  for (auto const& c : {single(70, 90, 1, 16, 2), single(5, 5, 2, 72, 1), single(35, 40, 1, 64, 2), single(70, 140, 2, 136, 2),
                        single(150, 270, 1, 128, 1)}) {
    auto const in = stored_inputs<S>(c, 6);
    (void)in_all_orders<B>([&](Device<B>& device) { return attend(device, c, {true, true}, in).y; });
  }
}

// Logits of mean +1 use up the stick within some tens of keys.
BOOST_AUTO_TEST_CASE_TEMPLATE(early_stop_changes_nothing_visible, B, Backends) {
  using S = typename B::Scalar;
  for (auto c : {single(200, 250, 2, 16, 1), single(30, 1100, 2, 136, 1)})
  for (auto const variant : variants) {
    auto const in = stored_inputs<S>(c, 6, 1);
    c.extents.stop_below = 0;
    auto const exact = attend<B>(c, variant, in);
    c.extents.stop_below = sizeof(S) == 4 ? 0x1p-40 : 0x1p-24;
    auto const stopped = attend<B>(c, variant, in);
    BOOST_TEST(relative_error(stopped.y, exact.y) < (sizeof(S) == 4 ? 1e-7 : 1e-2));
    Index stops = 0;
    for (Index i = 0; i < c.rows(); ++i) {
      auto const place = static_cast<std::size_t>(2 * i + 1);
      BOOST_TEST((stopped.stop[place] >= 0 && stopped.stop[place] <= c.keys - c.query_tokens + i));
      if (stopped.stop[place] > 0) BOOST_TEST(stopped.log_stick[place] < std::log(c.extents.stop_below));
      stops += stopped.stop[place] > 0 ? 1 : 0;
    }
    BOOST_TEST(stops > 0);
  }
}

BOOST_AUTO_TEST_CASE(fused_heads_stop_early) {
  using B = std::tuple_element_t<1, Backends>;
  for (auto c : fused_cases())
    for (auto const variant : {variants[0], variants[3]}) {
      auto const in = stored_inputs<bfloat16>(c, 6, 1);
      auto const expected = reference(c, variant, in);
      c.extents.stop_below = 0x1p-24;
      with_every_attention_engine<B>([&] {
        auto const found = attend<B>(c, variant, in);
        BOOST_TEST_CONTEXT(describe(c, variant)) {
          BOOST_TEST(relative_error(found.y, expected.y.values()) < forward_bound<bfloat16>);
          BOOST_TEST(found.stop.back() > 0);
          BOOST_TEST(found.log_stick.back() < std::log(c.extents.stop_below));
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
        auto const found = attend<B>(c, {true, true}, in);
        BOOST_TEST_CONTEXT(describe(c, {true, true}) << " mean " << mean) {
          BOOST_TEST(relative_error(found.y, expected.y.values()) < forward_bound<bfloat16>);
          // Where one key uses up all but 2^-30 of a stick, the kernels without warpgroups look no closer.
          BOOST_TEST(log_stick_error(found.log_stick, expected.log_stick.values(), -20) < 2 * forward_bound<bfloat16>);
        }
      });
    }
}

BOOST_AUTO_TEST_CASE_TEMPLATE(extreme_logits_stay_finite, B, Backends) {
  using S = typename B::Scalar;
  for (double const size : {30.0, 1e3, 1e6, 1e18}) {
    auto const c = single(90, 90, 1, 4, 1);
    auto in = random_inputs(c, 7, 0);
    for (double& value : in.q.values()) value *= size;
    round_to<S>(in);
    auto const expected = reference(c, {true, true}, in);
    auto const found = attend<B>(c, {true, true}, in);
    // A logit of 1e3 has the absolute rounding of 1e3, and the sigmoid is a step.
    BOOST_TEST(relative_error(found.y, expected.y.values()) < (sizeof(S) == 4 ? 5e-5 : 1e-2));
  }
}

BOOST_AUTO_TEST_CASE_TEMPLATE(not_a_number_stays_in_its_row, B, Backends) {
  using S = typename B::Scalar;
  auto const c = single(70, 70, 1, 16, 2);
  auto in = stored_inputs<S>(c, 8);
  auto const clean = reference(c, {true, false}, in);
  in.q(77, 3) = std::numeric_limits<double>::quiet_NaN();
  auto const found = attend<B>(c, {true, false}, in);
  for (Index i = 0; i < c.rows(); ++i)
    for (Index x = 0; x < 16; ++x) {
      double const y = found.y[static_cast<std::size_t>(i * 16 + x)];
      if (i == 77) BOOST_TEST(std::isnan(y));
      else BOOST_TEST(std::abs(y - clean.y(i, x)) < (sizeof(S) == 4 ? 1e-5 : 2e-2));
    }
}

// Of wide heads the scores of all rows are kept, up to a bound; a call that passes it goes block by block.
BOOST_AUTO_TEST_CASE(scores_of_wide_heads_are_bounded) {
  for (Index const bytes : {6, 12})
    for (Index const keys : {1, 129, 8192, 9500, 16384, 1 << 20, 1 << 30}) {
      kernels::AttentionShape const shape{nullptr, 1, 1, 136, 2, true, false, 2 * keys};
      auto const matrix = detail::score_matrix(shape, 0, keys, bytes);
      bool const fits = 2.0 * static_cast<double>(keys) * static_cast<double>(detail::round_up(keys, Index{128})) *
                            static_cast<double>(bytes) <= 0x1p31;
      BOOST_TEST((matrix.rows == (fits ? 2 * keys : 0)), keys << " keys, " << bytes << " bytes");
      if (fits) BOOST_TEST(matrix.stride >= keys);
    }
  // A bound on the sequences' lengths is what counts, not the keys of all.
  kernels::AttentionShape const many{nullptr, 64, 1, 136, 1, true, false, 1 << 16};
  BOOST_TEST(detail::score_matrix(many, 0, 1 << 16, 6).rows == 0);
  BOOST_TEST(detail::score_matrix(many, 1024, 1 << 16, 6).rows == 1 << 16);
}

// A sequence's bits do not depend on what is packed beside it. More sequences than a warp has lanes, some empty.
BOOST_AUTO_TEST_CASE_TEMPLATE(packed_is_separate, B, Backends) {
  using S = typename B::Scalar;
  AttentionCase packed{{1, 8, 2, 0}, {}, 0, 0};
  for (Index s = 0; s < 70; ++s) {
    Index const queries = s % 7 == 3 ? 0 : 3 + s % 5, keys = queries + (s % 4) * 9;
    packed.sequences.push_back({packed.query_tokens, queries, packed.keys, keys});
    packed.query_tokens += queries + (s % 11 == 0 ? 1 : 0);  // rows that belong to none
    packed.keys += keys;
  }
  auto const in = stored_inputs<S>(packed, 9);
  auto const together = attend<B>(packed, {true, true}, in);
  BOOST_TEST(relative_error(together.y, reference(packed, {true, true}, in).y.values()) < forward_bound<S>);
  for (std::size_t const s : {std::size_t{0}, std::size_t{3}, std::size_t{33}, std::size_t{69}}) {
    auto alone = packed;
    for (auto& other : alone.sequences) other.query_count = 0;
    alone.sequences[s] = packed.sequences[s];
    auto const found = attend<B>(alone, {true, true}, in);
    for (Index i = 0; i < packed.rows() * packed.width(); ++i) {
      Index const token = i / packed.width() / 2 - alone.sequences[s].query_begin;
      bool const own = token >= 0 && token < alone.sequences[s].query_count;
      BOOST_TEST(found.y[static_cast<std::size_t>(i)] == (own ? together.y[static_cast<std::size_t>(i)] : 0.0));
    }
  }
}

// (o, r) of older keys then (o, r) of newer ones is (o_new + r_new o_old, r_new r_old).
BOOST_AUTO_TEST_CASE_TEMPLATE(parts_of_the_keys_combine, B, Backends) {
  using S = typename B::Scalar;
  for (Index const keys : {2, 65, 300})
    for (Index const split : {Index{1}, keys / 3 + 1, keys - 1}) {
      auto const c = single(1, keys, 1, 16, 1);
      auto const in = stored_inputs<S>(c, 33 + static_cast<std::uint64_t>(split), -3);
      auto const part = [&](Index begin, Index end) {
        auto call = c;
        call.sequences = {{0, 1, begin, end - begin}};
        return attend<B>(call, {true, false}, in);
      };
      auto const older = part(0, split), newer = part(split, keys), all = part(0, keys);
      double const left = std::exp(newer.log_stick[0]), bound = sizeof(S) == 4 ? 1e-5 : 2e-2;
      BOOST_TEST(std::abs(all.log_stick[0] - newer.log_stick[0] - older.log_stick[0]) < bound);
      for (std::size_t x = 0; x < 16; ++x) BOOST_TEST(std::abs(all.y[x] - newer.y[x] - left * older.y[x]) < bound);
    }
}

// The matrix reproduces what the blocked kernel computed; 0 where a row does not see the key.
BOOST_AUTO_TEST_CASE_TEMPLATE(weights_times_values_are_the_output, B, Backends) {
  using S = typename B::Scalar;
  AttentionCase const c{{2, 12, 2, 0}, {{1, 30, 5, 70}}, 32, 80};
  Sequence const& s = c.sequences[0];
  auto const in = stored_inputs<S>(c, 51);
  for (auto const variant : variants) {
    auto const out = attend<B>(c, variant, in);
    auto const weights = in_all_orders<B>([&](Device<B>& device) {
      auto const a = device.template allocate<float>(2, 2, s.query_count, s.key_count);
      stick_breaking_weights(device.backend(), variant, c.extents, s,
                             device.template upload<S>(in.q.values(), c.rows(), c.width()),
                             device.template upload<S>(in.k.values(), c.keys, c.width()), a);
      return device.download(a);
    });
    for (Index i = 0; i < s.query_count * 2; ++i)
      for (Index h = 0; h < 2; ++h) {
        float const* const a = weights.data() + ((i % 2 * 2 + h) * s.query_count + i / 2) * s.key_count;
        Index const position = s.key_count - s.query_count + i / 2, row = s.query_begin * 2 + i;
        double rest = 1;
        for (Index j = 0; j < s.key_count; ++j) rest -= static_cast<double>(a[j]);
        for (Index j = position + (variant.inclusive ? 1 : 0); j < s.key_count; ++j) BOOST_TEST(a[j] == 0.0f);
        BOOST_TEST(std::abs(rest - std::exp(out.log_stick[static_cast<std::size_t>(row * 2 + h)])) < 1e-6);
        for (Index x = h * 12; x < (h + 1) * 12; ++x) {
          double y = variant.keep_remainder ? rest * in.v(s.key_begin + position, x) : 0.0;
          for (Index j = 0; j < s.key_count; ++j) y += static_cast<double>(a[j]) * in.v(s.key_begin + j, x);
          BOOST_TEST(std::abs(y - out.y[static_cast<std::size_t>(row * c.width() + x)]) <
                     (sizeof(S) == 4 ? 1e-5 : 2e-2));
        }
      }
  }
}

BOOST_AUTO_TEST_CASE_TEMPLATE(misfits_are_named, B, Backends) {
  using S = typename B::Scalar;
  auto const c = single(4, 4, 2, 4, 2);
  auto const in = stored_inputs<S>(c, 12);
  auto wrong = c;
  wrong.extents.head_size = 3;
  BOOST_CHECK_THROW((void)attend<B>(wrong, {}, in), Error);
  Device<B> device;
  auto const q = device.template allocate<S>(8, 8), k = device.template allocate<S>(4, 8);
  auto const weights = device.template allocate<float>(2, 2, 4, 4);
  for (Sequence const bad : {Sequence{0, 4, 0, 3}, {1, 4, 0, 4}, {0, 4, 1, 4}, {-1, 4, 0, 4}})
    BOOST_CHECK_THROW(stick_breaking_weights(device.backend(), {}, c.extents, bad, q, k, weights), Error);
}

BOOST_AUTO_TEST_SUITE_END()

}  // namespace moduleformer::test
