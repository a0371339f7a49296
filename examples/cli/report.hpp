// SPDX-License-Identifier: MIT
#pragma once
// What an evaluation found, as text on stdout and as a drawing.

#include "baselines.hpp"

#include <moduleformer/model/route_agreement.hpp>
#include <moduleformer/routing/policies.hpp>
#include <moduleformer/training/evaluation.hpp>

#include <string>
#include <vector>

namespace cli {

/// Bits per byte (text) or per token, perplexity, tokens, and the tokens of the windows that they were read in.
void print_score(moduleformer::Evaluation const& evaluation, bool is_text, moduleformer::Index window);
void print_baselines(Baselines const& baselines, bool is_text);

/// A table: each router's entropies, and the share of its slots that each expert got.
void print_routers(moduleformer::Evaluation const& evaluation);

/// What a selection that depends on later tokens makes of a score; nothing for others.
void print_selection(moduleformer::dynamic_policies const& policies);

/// A table: how far two records agree, each router and their mean.
void print_agreement(std::vector<moduleformer::RouteAgreement> const& routers);

/// The routers' shares as bars, one row per router, in an SVG file. Throws Error if it cannot be written.
void draw_routers(moduleformer::Evaluation const& evaluation, std::string const& title, std::string const& file);

}  // namespace cli
