// SPDX-License-Identifier: MIT
// Reports of routing, read back: JSON, CSV, the page, its pictures, and a history beside a model.

#include "io/support.hpp"

#include <moduleformer/backend/cpu.hpp>
#include <moduleformer/io/checkpoint.hpp>
#include <moduleformer/io/routing_report.hpp>
#include <moduleformer/model/causal_lm.hpp>
#include <moduleformer/training/trainer.hpp>

#include <boost/test/unit_test.hpp>

#include <cmath>
#include <sstream>
#include <string>
#include <vector>

namespace mf = moduleformer;
using mf::test::TemporaryFolder;

namespace {

template <class Call>
std::string complaint(Call&& call) {
  try {
    call();
  } catch (mf::Error const& error) {
    return error.what();
  }
  return "none";
}

std::size_t count(std::string const& text, std::string const& part) {
  std::size_t found = 0;
  for (auto at = text.find(part); at != std::string::npos; at = text.find(part, at + 1)) ++found;
  return found;
}

/// A feed-forward router of three experts that took 3, 1 and 0 tokens of four.
mf::RouterSummary router(std::string name, std::vector<double> load) {
  mf::RouterSummary r;
  r.name = std::move(name);
  r.probability = {2, 1, 1};
  r.coactivation = {load[0], 0, 0, 0, load[1], 0, 0, 0, load[2]};
  r.load = std::move(load);
  r.tokens = 4;
  r.conditional_entropy_sum = 4 * 0.5;
  r.kept_probability = 3;
  return r;
}

mf::RoutingSummary two_domains() {
  mf::RoutingSummary summary({"a \"b\", c", "<all>"});
  for (std::size_t d : {0u, 1u})
    summary.add(d, std::vector{router(mf::attention_router_name(0), {4, 0, 0}),
                               router(mf::feed_forward_router_name(0), d == 0 ? std::vector<double>{3, 1, 0} : std::vector<double>{0, 0, 4})});
  return summary;
}

mf::RoutingReport compared() {
  mf::RoutingReport report{.title = "a & b", .compared_with = "other"};
  report.agreement = {{{"transformer.h.0.attn.q_proj.gate", 1, 1, 1, 0}, {"transformer.h.0.mlpf.gate", 0.5, 0.25, 0, 0.125}},
                      {{"transformer.h.0.attn.q_proj.gate", 0, 0.5, 0, 1}, {"transformer.h.0.mlpf.gate", 0.5, 0.75, 1, 0.375}}};
  return report;
}

std::vector<std::string> lines(std::string const& text) {
  std::vector<std::string> all;
  std::istringstream stream(text);
  for (std::string line; std::getline(stream, line);) all.push_back(line);
  return all;
}

}  // namespace

BOOST_AUTO_TEST_CASE(numbers_as_json) {
  auto const json = mf::routing_json(two_domains(), compared());
  BOOST_TEST(json["domains"]["<all>"][1]["load"] == std::vector<double>({0, 0, 4}));
  BOOST_TEST(json["all"][1]["load"] == std::vector<double>({3, 1, 4}));
  BOOST_TEST(json["all"][1]["tokens"] == 8);
  BOOST_TEST(json["all"][0]["domain_information"] == 0);
  double const within = -0.75 * std::log(0.75) - 0.25 * std::log(0.25);
  double const all = -3 / 8. * std::log(3 / 8.) - 1 / 8. * std::log(1 / 8.) - 0.5 * std::log(0.5);
  BOOST_CHECK_CLOSE_FRACTION(json["all"][1]["domain_information"].get<double>(), all - within / 2, 1e-12);
  BOOST_TEST(json["all"][1]["dropped_gate"] == 0.25);
  BOOST_TEST(json["agreement"]["domains"]["<all>"][1]["shared_slots"] == 0.75);
  BOOST_TEST(json["agreement"]["all"][1]["shared_slots"] == 0.5);
  BOOST_TEST(json["agreement"]["all"][0]["router"] == "transformer.h.0.attn.q_proj.gate");
  BOOST_TEST(!mf::routing_json(two_domains()).contains("agreement"));
}

BOOST_AUTO_TEST_CASE(lines_as_csv) {
  auto const rows = lines(mf::routing_csv(two_domains(), compared()));
  BOOST_TEST_REQUIRE(rows.size() == 1u + 4 + 2);
  BOOST_TEST(rows[0] ==
             "domain,router,experts,shared_experts,tokens,marginal_entropy,conditional_entropy,mutual_information,effective_experts,busiest,load_variation,"
             "dead_experts,dropped_gate,domain_information,same_set,shared_slots,same_first,gate_difference,load,mean_probability,"
             "coactivation");
  BOOST_TEST(rows[1].starts_with("\"a \"\"b\"\", c\",transformer.h.0.attn.q_proj.gate,3,0,4.0,"));
  BOOST_TEST(rows[2].ends_with(",0.25,,0.5,0.25,0.0,0.125,3 1 0,0.500000 0.250000 0.250000,3 0 0 0 1 0 0 0 0"));
  BOOST_TEST(rows[6].starts_with("\"\",transformer.h.0.mlpf.gate,3,0,8.0,"));
  BOOST_TEST(rows[6].ends_with(",0.5,0.5,0.5,0.25,3 1 4,0.500000 0.250000 0.250000,3 0 0 0 1 0 0 0 4"));
  // One domain is its own sum, and nothing was compared.
  mf::RoutingSummary one({"only"});
  one.add(0, two_domains().routers(0));
  auto const few = lines(mf::routing_csv(one));
  BOOST_TEST_REQUIRE(few.size() == 3u);
  BOOST_TEST(few[0].ends_with(",dropped_gate,load,mean_probability,coactivation"));
}

BOOST_AUTO_TEST_CASE(a_page) {
  auto report = compared();
  report.history.add(5, {{4, 0, 0}, {3, 1, 0}});
  report.history.add(10, {{2, 2, 0}, {1, 1, 2}});
  std::string const page = mf::routing_html(two_domains(), report);
  BOOST_TEST(page.find("<h1>a &amp; b</h1>") != std::string::npos);
  BOOST_TEST(page.find("&lt;all&gt;") != std::string::npos);
  BOOST_TEST(page.find("<all>") == std::string::npos);
  // Load by layer for each kind, by domain, together and over training for each router.
  BOOST_TEST(count(page, "<svg") == 2u + 2 + 2 + 2);
  BOOST_TEST(count(page, "<svg") == count(page, "</svg>"));
  BOOST_TEST(count(page, "<table>") == count(page, "</table>"));
  BOOST_TEST(count(page, "step 10, 2: 50.0 % of a router's slots") == 1u);
  BOOST_TEST(count(page, "Agreement with other") == 1u);
  for (mf::Index step = 11; step <= 91; ++step) report.history.add(step, {{4, 0, 0}, {1, 1, 2}});
  std::string const longer = mf::routing_html(two_domains(), report);  // 83 moments: every third, up to the last
  BOOST_TEST(count(longer, ">step 91</text>") == 2u);
  BOOST_TEST(count(longer, ">step 88</text>") == 2u);
  BOOST_TEST(count(longer, "text-anchor=\"end\">step ") == 2 * 28u);
  std::string const bare = mf::routing_html(mf::RoutingSummary{});
  BOOST_TEST(bare.ends_with("</body></html>\n"));
  BOOST_TEST(count(bare, "Load over training") == 0u);
}

BOOST_AUTO_TEST_CASE(heat_maps_leave_out_what_is_no_number) {
  std::string const svg = mf::to_svg(mf::HeatMap{"t", "%", {"first", "second"}, {"x", "y", "z"}, {{0, 50, NAN}, {100}}, 1});
  BOOST_TEST(svg.find("first, y: 50.0 %") != std::string::npos);
  BOOST_TEST(svg.find("second, x: 100.0 %") != std::string::npos);
  BOOST_TEST(count(svg, "<rect") == 3u + 60);  // cells, and the legend
  BOOST_TEST(svg.find("nan") == std::string::npos);
  // A legend wider than the cells has its room.
  std::string const narrow = mf::to_svg(mf::HeatMap{"t", "% of all the slots of a long name", {"r"}, {"x"}, {{50}}, 1});
  BOOST_TEST(std::stod(narrow.substr(narrow.find("width=\"") + 7)) > 126 + 6.6 * 38);
  std::string const empty = mf::to_svg(mf::HeatMap{});
  BOOST_TEST(empty.find("nan") == std::string::npos);
  BOOST_TEST(empty.find("inf") == std::string::npos);
}

BOOST_AUTO_TEST_CASE(lines_and_dots_stay_inside_their_axes) {
  // Axes 0 ... 10 and 0 ... 100, of 560 x 280 from (60, 40).
  std::string const svg = mf::to_svg(mf::LinePlot{"t", "x", "y", {{"a", {0, 5, 7, 10}, {0, 100, NAN, 50}}, {"b", {0}, {25}}}});
  BOOST_TEST(svg.find("points=\"60.0,320.0 340.0,40.0 620.0,180.0\"") != std::string::npos);
  BOOST_TEST(svg.find("points=\"60.0,250.0\"") != std::string::npos);
  std::string const dots = mf::to_svg(mf::DotPlot{"t", "u", {{"a", {1, 3}}, {"bc", {}}}, 1});
  BOOST_TEST(count(dots, "<circle") == 2u);
  BOOST_TEST(dots.find("a: 3.0") != std::string::npos);
  for (std::string const& picture : {svg, dots, mf::to_svg(mf::LinePlot{}), mf::to_svg(mf::DotPlot{}),
                                     mf::to_svg(mf::LinePlot{"", "", "", {{"flat", {1, 1}, {2, 2}}}}), mf::to_svg(mf::DotPlot{"", "", {{"one", {0}}}})})
    for (char const* const bad : {"nan", "inf"}) BOOST_TEST(picture.find(bad) == std::string::npos);
}

BOOST_AUTO_TEST_CASE(a_history_stands_beside_its_model) {
  constexpr mf::Shape small{
      .vocab_size = 11, .hidden_size = 8, .layers = 1, .router_hidden_size = 5,
      .attention    = {.experts = 3, .top_k = 2, .heads = 2, .hidden_size = 6},
      .feed_forward = {.experts = 4, .top_k = 2, .hidden_size = 7},
  };
  using Model = mf::CausalLM<small, mf::Policies<>, mf::Cpu<float>>;
  TemporaryFolder const folder;
  auto model = Model::random(1);
  mf::Trainer trainer{model, {}, mf::Constant{}, {.observe_load = true}};
  mf::RoutingHistory history;
  mf::Batch const batch{.rows = 1, .tokens = 4, .ids = {1, 2, 3, 4}, .targets = {2, 3, 4, 5}};
  for (int i = 0; i < 2; ++i) {
    auto const report = trainer.step(batch);
    history.add(report.step, trainer.routing_load());
  }
  BOOST_TEST(complaint([&] { history.add(2, trainer.routing_load()); }) == "routing history: expected a step after 2, found 2");
  BOOST_TEST(complaint([&] { history.add(3, {{1, 2, 3}}); }) == "routing history: step 3: expected 2 routers, found 1");
  BOOST_TEST(complaint([&] { history.add(3, {{1, 2, 3}, {1, 2}}); }) == "routing history: step 3: router 1: expected 4 experts, found 2");
  auto const path = folder.path() / "model";
  mf::save(model, path);
  BOOST_TEST(!mf::has_state<mf::RoutingHistory>(path));
  mf::save(model, path, {}, trainer, history);
  BOOST_TEST(mf::has_state<mf::RoutingHistory>(path));
  mf::RoutingHistory read;
  mf::load_state(path, model, read);
  BOOST_TEST_REQUIRE(read.moments().size() == 2u);
  BOOST_TEST(read.moments()[1].step == 2);
  BOOST_TEST((read.moments()[1].load == history.moments()[1].load));
  double slots = 0;
  for (double const tokens : read.moments()[0].load[1]) slots += tokens;
  BOOST_TEST(slots == 2 * 4);

  // What stands there is taken whole or not at all.
  std::string text = "[{\"step\":3}]";
  auto const give = [&](std::string_view, std::string& value) { value = text; };
  BOOST_TEST(complaint([&] { mf::RoutingHistory::visit(read, give); }) ==
             "routing history: expected a list of steps and loads, found '[{\"step\":3}]'");
  text = "[{\"step\":3,\"load\":[[1]]},{\"step\":2,\"load\":[[1]]}]";
  BOOST_TEST(complaint([&] { mf::RoutingHistory::visit(read, give); }) == "routing history: expected a step after 3, found 2");
  text = "[{\"step\":0,\"load\":[[1]]}]";
  BOOST_TEST(complaint([&] { mf::RoutingHistory::visit(read, give); }) == "routing history: expected a step after 0, found 0");
  BOOST_TEST(read.moments().size() == 2u);
  read.expect_experts({3, 4});
  BOOST_TEST(complaint([&] { read.expect_experts({3, 5}); }) == "routing history: router 1: expected 5 experts, found 4");
  mf::RoutingHistory foreign;
  foreign.add(1, {{1, 2, 3}, {1, 2}});
  BOOST_TEST(complaint([&] { (void)mf::routing_html(two_domains(), {.history = foreign}); }) ==
             "routing history: router 1: expected 3 experts, found 2");
}
