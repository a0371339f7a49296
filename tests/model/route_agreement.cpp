// SPDX-License-Identifier: MIT
// Agreement of two records, by hand.
#include <moduleformer/model/route_agreement.hpp>

#include <boost/test/unit_test.hpp>

#include <string>
#include <vector>

namespace mf = moduleformer;

namespace {

using Ids = std::vector<mf::ExpertId>;
using Gates = std::vector<float>;

/// One router of 5 experts, 2 slots; two batches, of one token and the others.
mf::RouteRecord record(Ids experts, Gates gates) {
  auto const tokens = static_cast<mf::Index>(experts.size() / 2);
  mf::RouteRecord result{{{{"r", 5, 2}, std::move(experts), std::move(gates)}}, {{0, 1, 11}}};
  if (tokens > 1) result.batches.push_back({1, tokens - 1, 22});
  return result;
}

std::string complaint(mf::RouteRecord const& a, mf::RouteRecord const& b) {
  try {
    (void)mf::compare_routes(a, b);
  } catch (mf::Error const& error) {
    return error.what();
  }
  return "none";
}

constexpr double exact = 1e-7;  // of numbers that floats hold to 8 digits

}  // namespace

BOOST_AUTO_TEST_CASE(a_record_agrees_with_itself) {
  auto const one = record({3, 1, 0, 4}, {0.5f, 0.25f, 0.75f, 0.125f});
  auto const same = mf::compare_routes(one, one);
  BOOST_TEST(same.size() == 1u);
  BOOST_TEST(same[0].router == "r");
  BOOST_TEST(same[0].same_set == 1);
  BOOST_TEST(same[0].shared_slots == 1);
  BOOST_TEST(same[0].same_first == 1);
  BOOST_TEST(same[0].gate_difference == 0);
}

BOOST_AUTO_TEST_CASE(the_same_set_in_another_order) {
  auto const seen = mf::compare_routes(record({3, 1}, {0.5f, 0.25f}), record({1, 3}, {0.5f, 0.125f}))[0];
  BOOST_TEST(seen.same_set == 1);
  BOOST_TEST(seen.shared_slots == 1);
  BOOST_TEST(seen.same_first == 0);
  BOOST_TEST(seen.gate_difference == (0.375 + 0.25) / 2);
}

BOOST_AUTO_TEST_CASE(every_figure_by_hand) {
  // Tokens: the same; one expert shared, in the same first slot; nothing shared.
  auto const a = record({3, 1, 0, 4, 2, 0}, {0.5f, 0.25f, 0.5f, 0.25f, 0.5f, 0.25f});
  auto const b = record({3, 1, 0, 2, 1, 4}, {0.5f, 0.5f, 0.25f, 0.125f, 0.75f, 0.125f});
  auto const seen = mf::compare_routes(a, b)[0];
  BOOST_TEST(seen.same_set == 1.0 / 3, boost::test_tools::tolerance(exact));
  BOOST_TEST(seen.shared_slots == 3.0 / 6, boost::test_tools::tolerance(exact));
  BOOST_TEST(seen.same_first == 2.0 / 3, boost::test_tools::tolerance(exact));
  // Of experts 3 1 | 0 4 2 | 2 0 1 4.
  BOOST_TEST(seen.gate_difference == (0 + 0.25 + 0.25 + 0.25 + 0.125 + 0.5 + 0.25 + 0.75 + 0.125) / 9,
             boost::test_tools::tolerance(exact));
  auto const back = mf::compare_routes(b, a)[0];
  BOOST_TEST(back.same_set == seen.same_set);
  BOOST_TEST(back.shared_slots == seen.shared_slots);
  BOOST_TEST(back.same_first == seen.same_first);
  BOOST_TEST(back.gate_difference == seen.gate_difference, boost::test_tools::tolerance(exact));
}

BOOST_AUTO_TEST_CASE(slots_without_an_expert) {
  // Tokens: 3 and 3 1; none and none; 4 behind an empty slot, and before one.
  auto const a = record({3, -1, -1, -1, -1, 4}, {0.5f, 0, 0, 0, 0, 0.25f});
  auto const b = record({3, 1, -1, -1, 4, -1}, {0.5f, 0.25f, 0, 0, 0.75f, 0});
  a.check();
  b.check();
  auto const seen = mf::compare_routes(a, b)[0];
  BOOST_TEST(seen.same_set == 2.0 / 3, boost::test_tools::tolerance(exact));
  BOOST_TEST(seen.shared_slots == 2.0 / 3, boost::test_tools::tolerance(exact));
  BOOST_TEST(seen.same_first == 2.0 / 3, boost::test_tools::tolerance(exact));
  BOOST_TEST(seen.gate_difference == (0 + 0.25 + 0.5) / 3, boost::test_tools::tolerance(exact));
  auto const nothing = record({-1, -1}, {0, 0});
  auto const none = mf::compare_routes(nothing, nothing)[0];
  BOOST_TEST(none.same_set == 1);
  BOOST_TEST(none.shared_slots == 1);
  BOOST_TEST(none.gate_difference == 0);
}

BOOST_AUTO_TEST_CASE(records_that_cannot_be_compared) {
  auto const a = record({3, 1, 0, 4}, {1, 1, 1, 1});
  auto const expect = [&](mf::RouteRecord const& b, std::string const& message) {
    std::string const found = complaint(a, b);
    BOOST_TEST(found.find(message) != std::string::npos, found << " does not say: " << message);
  };
  expect(record({3, 1}, {1, 1}), "expected the same text in the same batches, at least one, found 2 and 1 batches");
  auto b = a;
  b.batches[1].text = 23;
  expect(b, "batch 1 is of one text in the one, another or the same cut differently in the other");
  b = a;
  b.routers[0].size.name = "s";
  expect(b, "it has router 'r' with 5 experts, 2 slots, expected router 's' with 5 experts, 2 slots");
  b = a;
  b.routers.push_back(b.routers[0]);
  expect(b, "it has no further router, expected router 'r'");
  expect({}, "it has router 'r'");
  BOOST_TEST(complaint({}, {}).find("at least one, found 0 and 0") != std::string::npos);
}

BOOST_AUTO_TEST_CASE(a_grown_model_comes_second) {
  auto const before = record({3, 1, 0, 4}, {0.5f, 0.25f, 0.75f, 0.125f});
  auto after = record({3, 5, 0, 4}, {0.5f, 0.25f, 0.75f, 0.125f});
  after.routers[0].size.experts = 7;
  auto const seen = mf::compare_routes(before, after, mf::SecondModel::grown)[0];
  BOOST_TEST(seen.shared_slots == 0.75);
  BOOST_TEST(seen.same_set == 0.5);
  BOOST_TEST(mf::mean_agreement({seen, mf::compare_routes(before, before)[0]}).shared_slots == 0.875);
  auto const same = mf::compare_routes(before, before)[0];
  for (std::size_t n = 1; n < 50; ++n) BOOST_TEST(mf::mean_agreement(std::vector(n, same)).shared_slots == 1);
  for (auto const& [a, b] : {std::pair{after, before}, {before, after}})
    BOOST_TEST(complaint(a, b).find("of another model") != std::string::npos);
  try {
    (void)mf::compare_routes(after, before, mf::SecondModel::grown);
    BOOST_TEST(false, "a smaller second model was accepted");
  } catch (mf::Error const& error) {
    BOOST_TEST(std::string(error.what()).find("of another model") != std::string::npos);
  }
  after.routers[0].size.shared = 1;
  BOOST_TEST(complaint(after, before).find("it has router 'r' with 7 experts, 2 slots, 1 shared") != std::string::npos);
}
