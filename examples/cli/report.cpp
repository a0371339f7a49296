// SPDX-License-Identifier: MIT
#include "report.hpp"

#include <moduleformer/core/error.hpp>
#include <moduleformer/io/routing_report.hpp>

#include <fmt/core.h>

#include <algorithm>
#include <cmath>
#include <fstream>
#include <vector>

namespace cli {

namespace mf = moduleformer;

namespace {

char const* unit(bool is_text) { return is_text ? "bits per byte" : "bits per token"; }

}  // namespace

void print_score(mf::Evaluation const& evaluation, bool is_text, mf::Index window) {
  fmt::print("{:<15}{:>9.4f} {}, perplexity {:.4f}, {} tokens in windows of {}\n", "model", evaluation.bits_per_token(),
             unit(is_text), evaluation.perplexity(), evaluation.tokens, window);
}

void print_baselines(Baselines const& baselines, bool is_text) {
  fmt::print("{:<15}{:>9.4f} {}\n", "trigram model", baselines.trigram, unit(is_text));
  fmt::print("{:<15}{:>9.4f} {}\n", "unigram model", baselines.unigram, unit(is_text));
}

void print_routers(mf::Evaluation const& evaluation) {
  fmt::print("\n{:<15}{:>8}{:>8}{:>11}   share of the chosen slots per expert, %\n", "router", "H(e)", "H(e|x)",
             "effective");
  for (mf::RouterSummary const& use : evaluation.routers) {
    fmt::print("{:<15}{:>8.3f}{:>8.3f}{:>5.1f} of {:<2}  ", mf::short_router_name(use.name), use.marginal_entropy(),
               use.conditional_entropy(), use.effective_experts(), use.routed_experts());
    for (double const share : use.load_share()) fmt::print(" {:.0f}", 100 * share);
    fmt::print("\n");
  }
  fmt::print("Entropies in nats: of the mean choice, and of a single token's. Effective: as many experts, used alike,\n"
             "would be as spread.\n");
}

void print_selection(mf::dynamic_policies const& policies) {
  mf::with_policy(policies.selection, []<class Selection>(Selection const& selection) {
    if constexpr (std::same_as<Selection, mf::ExpertChoice>)
      fmt::print("Scored by the top-k of the probabilities: experts chose tokens in training only.\n");
    if constexpr (std::same_as<Selection, mf::DocumentPool>)
      if (selection.evaluation_size > 0)
        fmt::print("Scored with pools of {} experts, which depend on later tokens: no likelihood.\n", selection.evaluation_size);
  });
}

void print_agreement(std::vector<mf::RouteAgreement> const& routers) {
  fmt::print("{:<15}{:>12}{:>15}{:>13}{:>18}\n", "router", "same set", "shared slots", "same first", "gate difference");
  auto const line = [](std::string const& name, mf::RouteAgreement const& seen) {
    fmt::print("{:<15}{:>10.2f} %{:>13.2f} %{:>11.2f} %{:>18.6f}\n", name, 100 * seen.same_set, 100 * seen.shared_slots,
               100 * seen.same_first, seen.gate_difference);
  };
  for (mf::RouteAgreement const& router : routers) line(mf::short_router_name(router.router), router);
  line("mean", mf::mean_agreement(routers));
  fmt::print(
      "Tokens with the same experts; slots whose expert both chose; tokens with the same first expert; mean absolute\n"
      "difference of the gates of experts that either chose, one not chosen counting as 0.\n");
}

void draw_routers(mf::Evaluation const& evaluation, std::string const& title, std::string const& file) {
  constexpr double left = 170, width = 640, row = 64, bar = 44, top = 56;
  std::size_t const rows = evaluation.routers.size();
  double const height = top + row * static_cast<double>(rows) + 30;
  std::string svg = fmt::format(
      "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{0}\" height=\"{1}\" viewBox=\"0 0 {0} {1}\" "
      "font-family=\"sans-serif\" "
      "font-size=\"12\" fill=\"#222\">\n<rect width=\"100%\" height=\"100%\" fill=\"#fff\"/>\n"
      "<text x=\"16\" y=\"24\" font-size=\"15\">{2}</text>\n"
      "<text x=\"16\" y=\"42\" fill=\"#666\">One bar per expert: its share of the chosen slots. The line is an even "
      "share.</text>\n",
      left + width + 20, height, mf::escape_markup(title));
  for (std::size_t i = 0; i < rows; ++i) {
    mf::RouterSummary const& use = evaluation.routers[i];
    auto const load = use.load_share();
    auto const experts = static_cast<double>(load.size());
    double const largest = std::max(*std::ranges::max_element(load), 1 / experts);
    double const floor = top + row * static_cast<double>(i) + bar + 8, step = width / experts;
    svg += fmt::format(
        "<text x=\"16\" y=\"{:.1f}\">{}</text>\n<text x=\"16\" y=\"{:.1f}\" fill=\"#666\">{:.1f} of {} "
        "effective</text>\n",
        floor - 24, mf::short_router_name(use.name), floor - 8, use.effective_experts(), use.routed_experts());
    for (std::size_t e = 0; e < load.size(); ++e) {
      double const tall = bar * load[e] / largest;
      svg += fmt::format(
          "<rect x=\"{:.2f}\" y=\"{:.2f}\" width=\"{:.2f}\" height=\"{:.2f}\" fill=\"{}\"><title>expert {}: {:.2f} "
          "%</title></rect>\n",
          left + step * static_cast<double>(e) + step * 0.08, floor - tall, step * 0.84, tall,
          i % 2 == 0 ? "#3b6fb6" : "#d9822b", e, 100 * load[e]);
    }
    double const even = floor - bar / experts / largest;
    svg += fmt::format(
        "<line x1=\"{0}\" x2=\"{1}\" y1=\"{2:.2f}\" y2=\"{2:.2f}\" stroke=\"#888\" stroke-dasharray=\"4 3\"/>\n", left,
        left + width, even);
    svg += fmt::format("<line x1=\"{0}\" x2=\"{1}\" y1=\"{2:.2f}\" y2=\"{2:.2f}\" stroke=\"#222\"/>\n", left,
                       left + width, floor);
  }
  svg += "</svg>\n";
  std::ofstream stream(file, std::ios::binary);
  stream << svg;
  stream.close();
  mf::expects(stream.good(), file, ": cannot be written");
}

}  // namespace cli
