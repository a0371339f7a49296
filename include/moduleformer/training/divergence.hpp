// SPDX-License-Identifier: MIT
#pragma once
// Says where a training step stopped being finite: the forward is run again, observed, and its values are
// searched in the order in which they are computed; failing that, the gradient in the order of backward.

#include <moduleformer/core/error.hpp>
#include <moduleformer/model/observation.hpp>
#include <moduleformer/nn/parameters.hpp>

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <string>
#include <vector>

namespace moduleformer::detail {

template <class Values>
bool all_finite(Values const& values) {
  return std::all_of(values.begin(), values.end(), [](auto x) { return std::isfinite(x); });
}

/// The first thing in an observed forward (hidden states and routing) that is not finite.
template <class A>
std::string first_non_finite(Observation<A> const& seen) {
  std::size_t const layers = seen.routers.size() / 2;
  if (!all_finite(seen.hidden_states[0])) return "the embedding's output (transformer.wte.weight)";
  for (std::size_t i = 0; i < layers; ++i) {
    for (std::size_t r : {2 * i, 2 * i + 1}) {
      auto const& router = seen.routers[r];
      if (!all_finite(router.probabilities)) return "the probabilities of router " + router.name;
      if (!std::isfinite(router.loss)) return "the loss of router " + router.name;
    }
    // The last entry is the final norm's output.
    if (!all_finite(seen.hidden_states[i + 1]))
      return "the output of transformer.h." + std::to_string(i) + (i + 1 == layers ? " or of the final norm" : "");
  }
  return "the head's loss";
}

/// The first gradient in the order of backward that is not finite.
template <class B, class Gradient>
std::string first_non_finite(B& backend, ParameterTable const& table, Gradient const& gradient) {
  std::vector<typename B::Accumulator> host;
  for (std::size_t i = table.count(); i-- > 0;) {
    auto const& s = table[i];
    host.resize(static_cast<std::size_t>(s.trainable_size()));
    if (host.empty()) continue;
    to_host(backend, gradient.segment(s), host.data());
    if (!all_finite(host)) return "the gradient of " + s.name;
  }
  return "the sum of the gradient's squares";
}

}  // namespace moduleformer::detail
