// SPDX-License-Identifier: MIT
#pragma once
// A summary of routing as JSON, as CSV (a line for each domain and router; where there are several domains, one of their sum,
// whose domain is empty), and as one HTML page with heat maps: layers by experts, domains by experts, co-activation, and load
// over training where a history is given, which is of routed experts and in JSON and the page only.

#include <moduleformer/io/routing_history.hpp>
#include <moduleformer/io/svg.hpp>
#include <moduleformer/model/route_agreement.hpp>
#include <moduleformer/model/routing_summary.hpp>

#include <nlohmann/json.hpp>

#include <algorithm>
#include <cmath>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace moduleformer {

/// What a report is made of beside the summary.
struct RoutingReport {
  std::string title = "Routing";
  std::vector<std::vector<RouteAgreement>> agreement{};  // with another checkpoint: of each domain and router
  std::string compared_with{};
  RoutingHistory history{};

  /// The mean over domains, each of which counts alike.
  [[nodiscard]] std::vector<RouteAgreement> mean_agreement() const {
    std::vector<RouteAgreement> mean;
    for (auto const& domain : agreement) {
      mean.resize(domain.size());
      for (std::size_t r = 0; r < domain.size(); ++r) mean[r].add(domain[r], 1 / static_cast<double>(agreement.size()));
    }
    return mean;
  }
};

/// transformer.h.3.attn.q_proj.gate as "3 attention".
inline std::string short_router_name(std::string_view name) {
  constexpr std::string_view prefix = "transformer.h.";
  if (!name.starts_with(prefix)) return std::string(name);
  auto const rest = name.substr(prefix.size());
  return std::string(rest.substr(0, rest.find('.'))) +
         (rest.find(".attn.") != std::string_view::npos ? " attention" : " feed-forward");
}

namespace detail {

/// A number of a router's table.
struct RoutingColumn {
  char const* key;
  char const* name;
  int digits;
  double (*get)(RouterSummary const&);
};
inline constexpr RoutingColumn routing_columns[] = {
    {"tokens", "tokens", 0, [](RouterSummary const& r) { return r.tokens; }},
    {"marginal_entropy", "H(e), nats", 3, [](RouterSummary const& r) { return r.marginal_entropy(); }},
    {"conditional_entropy", "H(e|x), nats", 3, [](RouterSummary const& r) { return r.conditional_entropy(); }},
    {"mutual_information", "I(e;x), nats", 3, [](RouterSummary const& r) { return r.mutual_information(); }},
    {"effective_experts", "effective experts", 2, [](RouterSummary const& r) { return r.effective_experts(); }},
    {"busiest", "busiest / mean load", 2, [](RouterSummary const& r) { return r.busiest(); }},
    {"load_variation", "variation of load", 2, [](RouterSummary const& r) { return r.variation(); }},
    {"dead_experts", "dead experts", 0, [](RouterSummary const& r) { return static_cast<double>(r.dead_experts()); }},
    {"dropped_gate", "dropped gate", 3, [](RouterSummary const& r) { return r.dropped_gate(); }},
};

inline nlohmann::ordered_json router_json(RouterSummary const& r) {
  nlohmann::ordered_json json{{"router", r.name}, {"experts", r.experts()}, {"shared_experts", r.shared}};
  for (RoutingColumn const& c : routing_columns) json[c.key] = c.get(r);
  json["load"] = r.load;
  json["mean_probability"] = r.mean_probability();
  auto& together = json["coactivation"] = nlohmann::ordered_json::array();
  for (std::size_t e = 0; e < r.experts(); ++e) {
    auto const row = r.coactivation.begin() + static_cast<std::ptrdiff_t>(e * r.experts());
    together.push_back(std::vector<double>(row, row + static_cast<std::ptrdiff_t>(r.experts())));
  }
  return json;
}

inline std::vector<std::string> numbered(std::size_t count, std::size_t first = 0) {
  std::vector<std::string> names;
  for (std::size_t i = 0; i < count; ++i) names.push_back(std::to_string(first + i));
  return names;
}

struct AgreementColumn {
  char const* key;
  char const* name;
  double RouteAgreement::*member;
};
inline constexpr AgreementColumn agreement_columns[] = {
    {"same_set", "same experts", &RouteAgreement::same_set},
    {"shared_slots", "shared slots", &RouteAgreement::shared_slots},
    {"same_first", "same first expert", &RouteAgreement::same_first},
    {"gate_difference", "difference of gates", &RouteAgreement::gate_difference},
};

inline nlohmann::ordered_json agreement_json(std::vector<RouteAgreement> const& routers) {
  auto json = nlohmann::ordered_json::array();
  for (RouteAgreement const& a : routers) {
    auto& of_router = json.emplace_back(nlohmann::ordered_json{{"router", a.router}});
    for (AgreementColumn const& c : agreement_columns) of_router[c.key] = a.*c.member;
  }
  return json;
}

inline std::string agreement_table(std::vector<RouteAgreement> const& routers) {
  std::string html = "<table><tr><th>router</th>";
  for (AgreementColumn const& c : agreement_columns) html += "<th>" + std::string(c.name) + "</th>";
  html += "</tr>\n";
  for (RouteAgreement const& a : routers) {
    html += "<tr><td>" + escape_markup(short_router_name(a.router)) + "</td>";
    for (AgreementColumn const& c : agreement_columns) html += "<td>" + fixed_text(a.*c.member, 4) + "</td>";
    html += "</tr>\n";
  }
  return html + "</table>\n";
}

/// A field of a CSV file.
inline std::string quoted_field(std::string_view text) {
  std::string quoted = "\"";
  for (char const c : text) quoted += c == '"' ? "\"\"" : std::string(1, c);
  return quoted + "\"";
}

/// Percent of all slots.
inline std::vector<double> percent(RouterSummary const& r) {
  auto shares = r.load_share();
  for (double& s : shares) s *= 100;
  return shares;
}

inline std::string router_table(RoutingSummary const& summary, std::vector<RouterSummary> const& routers,
                                bool with_domains) {
  std::string html = "<table><tr><th>router</th><th>experts</th>";
  for (RoutingColumn const& c : routing_columns) html += "<th>" + escape_markup(c.name) + "</th>";
  if (with_domains) html += "<th>I(e;domain), nats</th>";
  html += "</tr>\n";
  for (std::size_t i = 0; i < routers.size(); ++i) {
    html += "<tr><td>" + escape_markup(short_router_name(routers[i].name)) + "</td><td>" +
            std::to_string(routers[i].experts()) +
            (routers[i].shared > 0 ? ", " + std::to_string(routers[i].shared) + " shared" : "") + "</td>";
    for (RoutingColumn const& c : routing_columns) html += "<td>" + fixed_text(c.get(routers[i]), c.digits) + "</td>";
    if (with_domains) html += "<td>" + fixed_text(summary.domain_information(i), 3) + "</td>";
    html += "</tr>\n";
  }
  return html + "</table>\n";
}

/// Load of all routers of a kind: 0 for attention, 1 for feed-forward.
inline std::string load_map(std::vector<RouterSummary> const& routers, std::size_t kind) {
  HeatMap map{kind == 0 ? "Load of attention experts, by layer" : "Load of feed-forward experts, by layer",
              "% of a router's slots",
              {},
              {},
              {},
              1};
  std::size_t most = 0;
  for (std::size_t r = kind; r < routers.size(); r += 2) {
    map.rows.push_back("layer " + std::to_string(r / 2));
    map.values.push_back(percent(routers[r]));
    most = std::max(most, routers[r].experts());
  }
  map.columns = numbered(most);
  return to_svg(map);
}

}  // namespace detail

inline nlohmann::ordered_json routing_json(RoutingSummary const& summary, RoutingReport const& report = {}) {
  nlohmann::ordered_json json{
      {"title", report.title}, {"domains", nlohmann::ordered_json::object()}, {"all", nlohmann::ordered_json::array()}};
  for (std::size_t d = 0; d < summary.domains().size(); ++d) {
    auto& routers = json["domains"][summary.domains()[d]] = nlohmann::ordered_json::array();
    for (RouterSummary const& r : summary.routers(d)) routers.push_back(detail::router_json(r));
  }
  auto const all = summary.routers();
  for (std::size_t i = 0; i < all.size(); ++i) {
    json["all"].push_back(detail::router_json(all[i]));
    json["all"].back()["domain_information"] = summary.domain_information(i);
  }
  if (!report.agreement.empty()) {
    json["compared_with"] = report.compared_with;
    auto& agreement = json["agreement"] = {{"domains", nlohmann::ordered_json::object()}};
    for (std::size_t d = 0; d < report.agreement.size(); ++d)
      agreement["domains"][summary.domains()[d]] = detail::agreement_json(report.agreement[d]);
    agreement["all"] = detail::agreement_json(report.mean_agreement());
  }
  for (RoutingHistory::Moment const& moment : report.history.moments())
    json["history"].push_back({{"step", moment.step}, {"load", moment.load}});
  return json;
}

/// Lists in a field are separated by blanks; co-activation is (E,E), row by row.
inline std::string routing_csv(RoutingSummary const& summary, RoutingReport const& report = {}) {
  bool const several = summary.domains().size() > 1, compared = !report.agreement.empty();
  auto const number = [](double x) { return "," + nlohmann::json(x).dump(); };
  std::string csv = "domain,router,experts,shared_experts";
  for (detail::RoutingColumn const& c : detail::routing_columns) csv += std::string(",") + c.key;
  if (several) csv += ",domain_information";
  if (compared)
    for (detail::AgreementColumn const& c : detail::agreement_columns) csv += std::string(",") + c.key;
  csv += ",load,mean_probability,coactivation\n";
  auto const list = [](std::vector<double> const& values, int digits) {
    std::string text;
    for (double const v : values) text += (text.empty() ? "" : " ") + fixed_text(v, digits);
    return text;
  };
  auto const add = [&](std::string_view domain, std::vector<RouterSummary> const& routers,
                       std::vector<RouteAgreement> const& agreement) {
    for (std::size_t i = 0; i < routers.size(); ++i) {
      RouterSummary const& r = routers[i];
      csv += detail::quoted_field(domain) + "," + r.name + "," + std::to_string(r.experts()) + "," + std::to_string(r.shared);
      for (detail::RoutingColumn const& c : detail::routing_columns) csv += number(c.get(r));
      if (several) csv += domain.empty() ? number(summary.domain_information(i)) : ",";
      if (compared)
        for (detail::AgreementColumn const& c : detail::agreement_columns) csv += number(agreement.at(i).*c.member);
      csv += "," + list(r.load, 0) + "," + list(r.mean_probability(), 6) + "," + list(r.coactivation, 0) + "\n";
    }
  };
  for (std::size_t d = 0; d < summary.domains().size(); ++d)
    add(summary.domains()[d], summary.routers(d), compared ? report.agreement.at(d) : std::vector<RouteAgreement>{});
  if (several) add("", summary.routers(), report.mean_agreement());
  return csv;
}

/// A whole page that needs nothing else. Of a longer history it shows 40 moments. Throws Error for one of other routers.
inline std::string routing_html(RoutingSummary const& summary, RoutingReport const& report = {}) {
  constexpr std::size_t most_moments = 40;
  auto const all = summary.routers();
  bool const several = summary.domains().size() > 1;
  std::string html =
      "<!DOCTYPE html>\n<html lang=\"en\"><head><meta charset=\"utf-8\"/><title>" + escape_markup(report.title) +
      "</title>\n<style>:root{color-scheme:light dark}body{font-family:sans-serif;margin:2em;max-width:80em}"
      "table{border-collapse:collapse;margin:1em 0}th,td{padding:.2em .7em;text-align:right;border-bottom:1px solid "
      "#8884}"
      "th{vertical-align:bottom}th:first-child,td:first-child{text-align:left}figure{display:inline-block;margin:1em "
      "2em 1em 0}"
      "svg{max-width:100%;height:auto}</style></head>\n<body><h1>" +
      escape_markup(report.title) + "</h1>\n";
  auto const figure = [&](std::string const& svg) { html += "<figure>" + svg + "</figure>\n"; };
  html +=
      "<p>e: the expert of a slot, x: a token. Effective experts: as many, used alike, would be as spread. Dropped "
      "gate: the probability "
      "of experts that were not chosen.</p>\n<h2>Routers</h2>\n" +
      detail::router_table(summary, all, several);
  for (std::size_t const kind : {0u, 1u})
    if (all.size() > kind) figure(detail::load_map(all, kind));

  if (several) {
    html += "<h2>Domains</h2>\n";
    for (std::size_t r = 0; r < all.size(); ++r) {
      HeatMap map{short_router_name(all[r].name),
                  "% of the domain's slots",
                  summary.domains(),
                  detail::numbered(all[r].experts()),
                  {},
                  1};
      for (std::size_t d = 0; d < summary.domains().size(); ++d)
        map.values.push_back(r < summary.routers(d).size() ? detail::percent(summary.routers(d)[r])
                                                           : std::vector<double>{});
      figure(to_svg(map));
    }
    for (std::size_t d = 0; d < summary.domains().size(); ++d)
      html += "<h3>" + escape_markup(summary.domains()[d]) + "</h3>\n" +
              detail::router_table(summary, summary.routers(d), false);
  }

  html += "<h2>Chosen together</h2>\n";
  for (RouterSummary const& r : all) {
    HeatMap map{
        short_router_name(r.name), "% of tokens", detail::numbered(r.experts()), detail::numbered(r.experts()), {}, 1};
    for (std::size_t e = 0; e < r.experts(); ++e) {
      auto& row = map.values.emplace_back();
      for (std::size_t other = 0; other < r.experts(); ++other)
        row.push_back(e == other ? NAN : r.tokens == 0 ? 0 : 100 * r.coactivation[e * r.experts() + other] / r.tokens);
    }
    figure(to_svg(map));
  }

  std::vector<Index> routed;
  for (RouterSummary const& r : all) routed.push_back(static_cast<Index>(r.routed_experts()));
  if (!all.empty()) report.history.expect_experts(routed);
  if (!report.history.empty()) html += "<h2>Load over training</h2>\n";
  for (std::size_t r = 0; r < report.history.routers(); ++r) {
    HeatMap map{
        r < all.size() ? short_router_name(all[r].name) : std::to_string(r), "% of a router's slots", {}, {}, {}, 1};
    auto const& moments = report.history.moments();
    std::size_t const every = (moments.size() + most_moments - 1) / most_moments;
    for (std::size_t i = (moments.size() - 1) % every; i < moments.size(); i += every) {  // up to the last
      RoutingHistory::Moment const& moment = moments[i];
      map.rows.push_back("step " + std::to_string(moment.step));
      RouterSummary at;
      at.load = moment.load[r];
      map.columns = detail::numbered(at.load.size(), r < all.size() ? all[r].experts() - at.load.size() : 0);
      map.values.push_back(detail::percent(at));
    }
    figure(to_svg(map));
  }

  if (!report.agreement.empty())
    html += "<h2>Agreement with " + escape_markup(report.compared_with) + "</h2>\n" +
            detail::agreement_table(report.mean_agreement());
  if (several)
    for (std::size_t d = 0; d < report.agreement.size(); ++d)
      html += "<h3>" + escape_markup(summary.domains()[d]) + "</h3>\n" + detail::agreement_table(report.agreement[d]);
  return html + "</body></html>\n";
}

}  // namespace moduleformer
