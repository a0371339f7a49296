// SPDX-License-Identifier: MIT
#pragma once
// What a trainer keeps for a model's routers between passes and steps: the totals that its policies need, and the update
// of a selection that balances itself.

#include <moduleformer/core/dynamic_policy.hpp>
#include <moduleformer/nn/parameters.hpp>
#include <moduleformer/routing/routing_totals.hpp>
#include <moduleformer/routing/statistics_span.hpp>

#include <string_view>
#include <utility>
#include <vector>

namespace moduleformer::detail {

/// Whether the selection has a state that follows the load: see BiasedTopK.
template <class Selection>
bool updates_itself(Selection const& selection) {
  return with_policy(selection, []<class Concrete>(Concrete const&) { return requires { Concrete::state_name; }; });
}

/// Whether a policy reads what routers did over a whole step.
template <class Model>
bool needs_routing_totals(Model const& model) {
  return span_of(model.policies().statistics) != Span::micro_batch || updates_itself(model.policies().selection);
}

/// Totals for each router, or none where neither a policy nor the caller wants them.
template <class Model, Backend B>
RoutingTotals<B> make_routing_totals(B& backend, Model const& model, bool wanted) {
  if (!wanted && !needs_routing_totals(model)) return {};
  std::vector<Index> experts;
  for (auto const& block : model.transformer().blocks()) {
    experts.push_back(block.attention().router().rows());
    experts.push_back(block.feed_forward().router().rows());
  }
  return {backend, experts};
}

/// Calls f(i) for the segments with a selection's state, in the order of the routers.
template <class Selection, class F>
void for_selection_states(ParameterTable const& table, Selection const& selection, F const& f) {
  with_policy(selection, [&]<class Concrete>(Concrete const&) {
    if constexpr (requires { Concrete::state_name; }) {
      for (std::size_t i = 0; i < table.count(); ++i)
        if (std::string_view(table[i].name).ends_with(Concrete::state_name)) f(i);
    }
  });
}

/// After a step: each router's selection by the totals, unless step[0], in backend memory, changes nothing.
template <class Model, Backend B>
void update_selections(B& backend, Model& model, RoutingTotals<B> const& totals, Vector<AdamWStep const> step) {
  auto const& selection = std::as_const(model).policies().selection;
  std::size_t router = 0;
  for_selection_states(model.table(), selection, [&](std::size_t i) {
    with_policy(selection, [&]<class Concrete>(Concrete const& concrete) {
      if constexpr (requires { Concrete::state_name; })
        concrete.update(backend, model.writable(i), totals.routers()[router++], step);
    });
    if (auto const rounded = model.rounded(i)) convert(backend, model.values(i), rounded);
  });
}

}  // namespace moduleformer::detail
