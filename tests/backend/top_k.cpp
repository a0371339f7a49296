// SPDX-License-Identifier: MIT
// Which experts are chosen: order, ties, NaN, sampling without replacement, and the sort by expert.

#include "support.hpp"

#include <moduleformer/backend/cpu.hpp>

#include <boost/test/unit_test.hpp>

#include <map>
#include <numeric>
#include <set>
#include <tuple>

namespace mf = moduleformer;
using mf::test::Array;

namespace {

using Scalars = std::tuple<float, double>;

template <class S>
std::vector<mf::ExpertId> chosen(std::vector<S> const& logits, mf::Index top) {
  Array<S, 2> row(1, static_cast<mf::Index>(logits.size()));
  row.values() = logits;
  Array<mf::ExpertId, 2> ids(1, top);
  mf::Cpu<S> backend{1};
  mf::top_k(backend, row.view(), ids.view());
  return ids.values();
}

using Ids = std::vector<mf::ExpertId>;

}  // namespace

BOOST_AUTO_TEST_SUITE(backend_top_k)

BOOST_AUTO_TEST_CASE_TEMPLATE(descending_and_ties_to_the_lowest, S, Scalars) {
  BOOST_TEST((chosen<S>({1, 5, 3, 5, 2}, 3) == Ids{1, 3, 2}));
  BOOST_TEST((chosen<S>({7, 7, 7, 7}, 2) == Ids{0, 1}));
  BOOST_TEST((chosen<S>({7, 7, 8, 7}, 4) == Ids{2, 0, 1, 3}));
  BOOST_TEST((chosen<S>({S(-0.0), S(0.0)}, 1) == Ids{0}));
  BOOST_TEST((chosen<S>({4}, 1) == Ids{0}));
  // Probabilities of these tie (both round to 1), the logits do not.
  BOOST_TEST((chosen<S>({100, 101, 99}, 2) == Ids{1, 0}));
}

BOOST_AUTO_TEST_CASE_TEMPLATE(whole_order_when_all_are_chosen, S, Scalars) {
  for (mf::Index const experts : {1, 2, 31, 256, 300}) {
    Array<S, 2> logits(67, experts);
    mf::test::fill_normal(logits.values(), 31);
    for (S& value : logits.values()) value = std::round(value * 8) / 8;  // many ties
    Array<mf::ExpertId, 2> ids(67, experts);
    mf::Cpu<S> backend{2};
    mf::top_k(backend, logits.view(), ids.view());
    for (mf::Index t = 0; t < 67; ++t) {
      Ids expected(static_cast<std::size_t>(experts));
      std::iota(expected.begin(), expected.end(), 0);
      std::stable_sort(expected.begin(), expected.end(),
                       [&](auto a, auto b) { return logits(t, a) > logits(t, b); });
      Ids const found(ids.view().slice(t).begin(), ids.view().slice(t).end());
      BOOST_TEST((found == expected));
    }
  }
}

BOOST_AUTO_TEST_CASE_TEMPLATE(not_a_number_comes_last, S, Scalars) {
  S const nan = std::numeric_limits<S>::quiet_NaN(), inf = std::numeric_limits<S>::infinity();
  BOOST_TEST((chosen<S>({nan, 1, nan, 2}, 3) == Ids{3, 1, 0}));
  BOOST_TEST((chosen<S>({nan, nan, nan}, 2) == Ids{0, 1}));
  BOOST_TEST((chosen<S>({-inf, inf, nan, 0}, 4) == Ids{1, 3, 0, 2}));
}

BOOST_AUTO_TEST_CASE(sampling_keeps_the_top_and_never_repeats) {
  constexpr mf::Index tokens = 200, experts = 9;
  Array<float, 2> logits(tokens, experts), probs(tokens, experts);
  mf::test::fill_normal(logits.values(), 41, 2);
  for (std::size_t i = 0; i < logits.values().size(); ++i) probs.values()[i] = std::exp(logits.values()[i]);
  logits(0, 3) = probs(0, 3) = std::numeric_limits<float>::quiet_NaN();
  mf::RandomKey const key{3, 5};
  for (mf::Index const top : {1, 4, 9})
    for (mf::Index sampled = 0; sampled <= top; ++sampled) {
      Array<mf::ExpertId, 2> plain(tokens, top), ids(tokens, top), again(tokens, top);
      mf::Cpu<float> one{1}, three{3};
      mf::top_k(one, logits.view(), plain.view());
      mf::sampled_top_k(one, logits.view(), probs.view(), sampled, {&key, 7}, ids.view());
      mf::sampled_top_k(three, logits.view(), probs.view(), sampled, {&key, 7}, again.view());
      BOOST_TEST((ids.values() == again.values()));
      for (mf::Index t = 0; t < tokens; ++t) {
        for (mf::Index s = 0; s < top - sampled; ++s) BOOST_TEST(ids(t, s) == plain(t, s));
        std::set<mf::ExpertId> const distinct(ids.view().slice(t).begin(), ids.view().slice(t).end());
        BOOST_TEST(static_cast<mf::Index>(distinct.size()) == top);
        BOOST_TEST((*distinct.begin() >= 0 && *distinct.rbegin() < experts));
      }
    }
}

// Ordered pairs (a, b) drawn without replacement among the experts left over have probability
// w_a / W * w_b / (W - w_a), w = p + 1e-6. Chi-square over the 12 pairs: 99.99% lies below 39.
BOOST_AUTO_TEST_CASE(sampling_follows_the_probabilities) {
  constexpr mf::Index tokens = 40000, experts = 5;
  std::vector<double> const p{0.4, 0.3, 0.15, 0.1, 0.05};
  Array<float, 2> logits(tokens, experts), probs(tokens, experts);
  for (mf::Index t = 0; t < tokens; ++t)
    for (mf::Index e = 0; e < experts; ++e) {
      probs(t, e) = static_cast<float>(p[static_cast<std::size_t>(e)]);
      logits(t, e) = std::log(probs(t, e));
    }
  Array<mf::ExpertId, 2> ids(tokens, 3), other(tokens, 3);
  mf::RandomKey const key{1, 2}, next{1, 3};
  mf::Cpu<float> backend{2};
  mf::sampled_top_k(backend, logits.view(), probs.view(), 2, {&key, 3}, ids.view());
  std::map<std::pair<int, int>, double> seen;
  for (mf::Index t = 0; t < tokens; ++t) {
    BOOST_TEST_REQUIRE(ids(t, 0) == 0);
    seen[{ids(t, 1), ids(t, 2)}] += 1;
  }
  double chi_square = 0, total = 0;
  for (int a = 1; a < experts; ++a)
    for (int b = 1; b < experts; ++b) {
      if (a == b) continue;
      double const wa = p[static_cast<std::size_t>(a)], wb = p[static_cast<std::size_t>(b)];
      double const expected = static_cast<double>(tokens) * wa / 0.6 * wb / (0.6 - wa);
      chi_square += (seen[{a, b}] - expected) * (seen[{a, b}] - expected) / expected;
      total += seen[{a, b}];
    }
  BOOST_TEST(total == static_cast<double>(tokens));
  BOOST_TEST(chi_square < 39);
  mf::sampled_top_k(backend, logits.view(), probs.view(), 2, {&next, 3}, other.view());
  BOOST_TEST((ids.values() != other.values()));  // another step, other draws
}

BOOST_AUTO_TEST_CASE(sort_is_stable_and_complete) {
  mf::Cpu<float> backend{2};
  for (mf::Index const experts : {1, 3, 64})
    for (mf::Index const slots : {0, 1, 5, 1000}) {
      Array<mf::ExpertId, 1> expert(slots);
      for (mf::Index p = 0; p < slots; ++p)
        expert(p) = static_cast<mf::ExpertId>(mf::random_words({9}, static_cast<std::uint64_t>(p))[0] %
                                              static_cast<std::uint32_t>(experts));
      if (experts == 3)
        for (auto& e : expert.values()) e = 1;  // all on one, its neighbours empty
      Array<std::int32_t, 1> order(slots);
      Array<mf::Index, 1> offsets(experts + 1);
      mf::sort_by_expert(backend, expert.view(), experts, order.view(), offsets.view());
      std::vector<std::int32_t> expected(static_cast<std::size_t>(slots));
      std::iota(expected.begin(), expected.end(), 0);
      std::stable_sort(expected.begin(), expected.end(), [&](auto a, auto b) { return expert(a) < expert(b); });
      BOOST_TEST((order.values() == expected));
      for (mf::Index e = 0; e <= experts; ++e) {
        auto const earlier = [&](mf::ExpertId id) { return id < e; };
        BOOST_TEST(offsets(e) == std::count_if(expert.values().begin(), expert.values().end(), earlier));
      }
    }
}

BOOST_AUTO_TEST_CASE(mistakes_are_named) {
  mf::Cpu<float> backend{1};
  Array<float, 2> logits(2, 3);
  Array<mf::ExpertId, 2> ids(2, 4);
  BOOST_CHECK_THROW(mf::top_k(backend, logits.view(), ids.view()), mf::Error);
  Array<mf::ExpertId, 1> expert(2);
  Array<std::int32_t, 1> order(2);
  Array<mf::Index, 1> offsets(4);
  for (mf::ExpertId const wrong : {-1, 3}) {
    expert(1) = wrong;
    BOOST_CHECK_THROW(mf::sort_by_expert(backend, expert.view(), 3, order.view(), offsets.view()), mf::Error);
  }
}

BOOST_AUTO_TEST_CASE(gathered_columns) {
  Array<double, 2> x(2, 3), out(2, 2);
  x.values() = {1, 2, 3, 4, 5, 6};
  Array<mf::ExpertId, 2> ids(2, 2);
  ids.values() = {2, 0, 1, 1};
  mf::Cpu<double> backend{1};
  mf::gather_columns(backend, x.view(), ids.view(), out.view());
  BOOST_TEST((out.values() == std::vector<double>{3, 1, 5, 5}));
}

BOOST_AUTO_TEST_SUITE_END()
