// SPDX-License-Identifier: MIT
// moduleformer routing: what a model's routers do with text of several domains, as a table, JSON, CSV and an HTML page.
#include "command.hpp"
#include "devices.hpp"
#include "report.hpp"
#include "scored_text.hpp"
#include "values.hpp"

#include <moduleformer/core/error.hpp>
#include <moduleformer/io/checkpoint.hpp>
#include <moduleformer/io/file_commit.hpp>
#include <moduleformer/io/output_file.hpp>
#include <moduleformer/io/routing_report.hpp>
#include <moduleformer/model/route_agreement.hpp>
#include <moduleformer/model/transformer.hpp>

#include <CLI/CLI.hpp>
#include <fmt/core.h>

#include <algorithm>
#include <filesystem>
#include <memory>
#include <string>
#include <vector>

namespace cli {
namespace {

namespace mf = moduleformer;
namespace fs = std::filesystem;

struct Domain {
  std::string name, file;
};

struct Routing {
  std::string model, report, json, csv, compare;
  std::vector<std::string> data;
  ScoredText text;
  DeviceOptions device;

  explicit Routing(CLI::App& command) {
    command.add_option("--model", model, "folder of the model")->required()->check(named())->type_name("DIR");
    command
        .add_option("--data", data, "a domain of data and its text, or its ids as IDS.safetensors; may be given again")
        ->required()
        ->type_name("NAME=FILE");
    command.add_option("--report", report, "write a page with tables and heat maps")
        ->check(named())
        ->type_name("OUT.html");
    command.add_option("--json", json, "write all numbers")->check(named())->type_name("OUT.json");
    command.add_option("--csv", csv, "write a line for each domain and router")->check(named())->type_name("OUT.csv");
    command.add_option("--compare", compare, "also say how far the routes of this model's agree")
        ->check(named())
        ->type_name("DIR");
    add_window_options(command, text);
    add_device_options(command, device);
  }

  int run() {
    auto const domains = parse_domains();
    std::vector<std::string> inputs, outputs;
    for (Domain const& d : domains) inputs.push_back(d.file);
    for (std::string const& out : {report, json, csv}) {
      if (out.empty()) continue;
      check_output(out, model, inputs);
      auto const same = [&](std::string const& named) {
        return fs::weakly_canonical(fs::absolute(named)) == fs::weakly_canonical(fs::absolute(out));
      };
      if (std::ranges::any_of(outputs, same)) throw UsageError(fmt::format("{} is named as an output twice", out));
      outputs.push_back(out);
    }
    if (!compare.empty())
      for (std::string const& out : outputs) check_output(out, compare, inputs);
    auto const loaded = find_device(device).load(model, false);
    auto const other = load_other(*loaded);
    std::vector<std::string> names;
    for (Domain const& d : domains) names.push_back(d.name);
    mf::RoutingSummary summary(names);
    for (std::size_t d = 0; d < domains.size(); ++d)
      in_domain(domains[d], [&] {
        auto const routers = loaded->evaluate(read(domains[d], *loaded), device.threads).routers;
        mf::expects(!routers.empty(), "expected a text of at least two tokens, found one");
        summary.add(d, routers);
      });

    mf::RoutingReport about{.title = fmt::format("Routing of {}", model), .compared_with = compare};
    if (other) about.agreement = agreement(domains, *loaded, *other);
    if (mf::has_state<mf::RoutingHistory>(model)) mf::load_state(model, *loaded, about.history);
    // Everything is made before anything is written.
    std::string const page = report.empty() ? "" : mf::routing_html(summary, about);
    // A folder's name may be no UTF-8.
    auto const replace = nlohmann::ordered_json::error_handler_t::replace;
    std::string const numbers =
        json.empty() ? "" : mf::routing_json(summary, about).dump(1, ' ', false, replace) + "\n";
    fmt::print("windows of {} tokens\n", text.window_for(model));
    print(summary);
    if (other) print_agreement(about.mean_agreement());
    if (!report.empty()) write(report, page);
    if (!json.empty()) write(json, numbers);
    if (!csv.empty()) write(csv, mf::routing_csv(summary, about));
    return success;
  }

 private:
  [[nodiscard]] std::vector<Domain> parse_domains() const {
    std::vector<Domain> domains;
    for (std::string const& item : data) {
      auto const equals = item.find('=');
      if (equals == std::string::npos || equals == 0 || equals + 1 == item.size())
        throw UsageError(fmt::format("--data: expected NAME=FILE, found '{}'", item));
      Domain domain{item.substr(0, equals), item.substr(equals + 1)};
      if (std::ranges::find(domains, domain.name, &Domain::name) != domains.end())
        throw UsageError(fmt::format("--data: the domain {} is named twice", domain.name));
      if (!is_utf8(domain.name)) throw UsageError("--data: expected a domain's name in UTF-8, found one in another encoding");
      domains.push_back(std::move(domain));
    }
    return domains;
  }

  static bool is_utf8(std::string const& text) {
    try {
      (void)nlohmann::json(text).dump();
      return true;
    } catch (nlohmann::json::type_error const&) {
      return false;
    }
  }

  [[nodiscard]] Data read(Domain const& domain, LanguageModel const& on) const {
    ScoredText own = text;
    if (domain.file.ends_with(".safetensors")) own.data.ids = domain.file;
    else own.data.files = {domain.file};
    return own.read(on, model);
  }

  /// f(), whose errors name the domain.
  template <class F>
  static void in_domain(Domain const& domain, F const& f) {
    try {
      f();
    } catch (mf::Error const& error) {
      mf::fail<mf::Error>("domain ", domain.name, ": ", error.what());
    }
  }

  /// The model to compare with, if one is named. Throws Error for one of other routers.
  [[nodiscard]] std::unique_ptr<LanguageModel> load_other(LanguageModel const& loaded) const {
    if (compare.empty()) return nullptr;
    auto other = find_device(device).load(compare, false);
    mf::Config const &mine = loaded.config(), &theirs = other->config();
    mf::expects(mine.vocab_size == theirs.vocab_size && mine.layers == theirs.layers, compare, ": expected a model of ",
                mine.layers, " layers and a vocabulary of ", mine.vocab_size, " as ", model, ", found ", theirs.layers,
                " and ", theirs.vocab_size);
    for (mf::Index i = 0; i < mine.layers; ++i)
      mf::expects(mine.attention.experts[i] == theirs.attention.experts[i] &&
                      mine.feed_forward.experts[i] == theirs.feed_forward.experts[i] &&
                      mine.attention.top_k == theirs.attention.top_k &&
                      mine.feed_forward.top_k == theirs.feed_forward.top_k,
                  compare, ": layer ", i, ": its routers have other sizes than those of ", model);
    auto const routed = [](LanguageModel const& of) { return mf::routed_experts(of.config(), of.policies()); };
    mf::expects(routed(loaded) == routed(*other), compare, ": it has other shared experts than ", model);
    return other;
  }

  /// Of each domain and router.
  [[nodiscard]] std::vector<std::vector<mf::RouteAgreement>> agreement(std::vector<Domain> const& domains,
                                                                       LanguageModel const& loaded,
                                                                       LanguageModel const& other) const {
    std::vector<std::vector<mf::RouteAgreement>> found;
    for (Domain const& domain : domains)
      in_domain(domain, [&] {
        Data const batches = read(domain, loaded);
        found.push_back(mf::compare_routes(loaded.record_routes(batches, device.threads),
                                           other.record_routes(batches, device.threads)));
      });
    return found;
  }

  static void print(mf::RoutingSummary const& summary) {
    fmt::print("{:<18}{:>10}{:>11}{:>9}{:>6}{:>9}{:>13}{:>14}\n", "router", "tokens", "effective", "busiest", "dead",
               "I(e;x)", "I(e;domain)", "dropped gate");
    auto const routers = summary.routers();
    for (std::size_t r = 0; r < routers.size(); ++r) {
      auto const& router = routers[r];
      fmt::print("{:<18}{:>10.0f}{:>5.1f} of {:<2}{:>9.2f}{:>6}{:>9.3f}{:>13.3f}{:>14.3f}\n",
                 mf::short_router_name(router.name), router.tokens, router.effective_experts(), router.routed_experts(),
                 router.busiest(), router.dead_experts(), router.mutual_information(), summary.domain_information(r),
                 router.dropped_gate());
    }
    fmt::print(
        "Effective: as many experts, used alike, would be as spread. Busiest: over the mean load. I: what tokens, or "
        "domains, say of\n"
        "a slot's expert, in nats.\n");
  }

  static void write(std::string const& file, std::string const& content) {
    mf::FileCommit commit{file};
    mf::write_file(commit.temporary(), content);
    commit.finish();
  }
};

}  // namespace

Run set_up_routing(CLI::App& command) {
  return [routing = std::make_shared<Routing>(command)] { return routing->run(); };
}

}  // namespace cli
