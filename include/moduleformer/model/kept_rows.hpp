// SPDX-License-Identifier: MIT
#pragma once
// The masks that say which rows of a router have an expert (routing/removed_rows.hpp), in host memory.

#include <moduleformer/backend/backend.hpp>
#include <moduleformer/core/error.hpp>
#include <moduleformer/model/config.hpp>
#include <moduleformer/model/observation.hpp>
#include <moduleformer/nn/parameter_storage.hpp>

#include <algorithm>
#include <cstddef>
#include <string>
#include <string_view>
#include <vector>

namespace moduleformer {

/// Throws Error for a new model with removed experts: which, only surgery knows.
inline void check_is_whole(Config const& config) {
  for (auto const& [kind, removed] : {std::pair{"attention", &config.attention.removed}, {"feed-forward", &config.feed_forward.removed}})
    expects(removed->largest() == 0, "new model: ", kind, ": expected no removed experts, found ", removed->largest());
}

/// Throws Error unless masks are of 0 and 1, with as many 0 as the config has removed experts.
template <Backend B>
void check_kept_rows(Config const& config, ParameterTable const& table, ParameterStorage<B> const& storage) {
  using A = typename B::Accumulator;
  constexpr std::string_view prefix = "transformer.h.", end = ".gate.kept_rows";
  std::vector<A> mask;
  for (std::size_t i = 0; i < table.count(); ++i) {
    std::string const& name = table[i].name;
    if (!name.starts_with(prefix) || !name.ends_with(end)) continue;
    Index const layer = std::stoll(name.substr(prefix.size()));
    bool const attention = name.find(".attn.") != std::string::npos;
    Index const removed = (attention ? config.attention.removed : config.feed_forward.removed)[layer];
    mask.resize(static_cast<std::size_t>(table[i].size()));
    B backend(1);
    to_host(backend, Vector<A const>{storage.place(i), {table[i].size()}}, mask.data());
    auto const zeros = std::count(mask.begin(), mask.end(), A(0)), ones = std::count(mask.begin(), mask.end(), A(1));
    expects(zeros == removed && zeros + ones == table[i].size(), name, ": expected ", removed, " zeros, for removed experts, and ",
            table[i].size() - removed, " ones, found ", zeros, " and ", ones);
  }
}

/// Which rows of a router have an expert: of its first `rows`.
template <class M>
std::vector<bool> kept_rows(M const& model, Index layer, bool attention, Index rows) {
  std::string const name = (attention ? attention_router_name(layer) : feed_forward_router_name(layer)) + ".kept_rows";
  std::size_t const i = model.table().find(name);
  std::vector<bool> kept(static_cast<std::size_t>(rows), true);
  if (i == model.table().count()) return kept;
  std::vector<typename M::Accumulator> mask(static_cast<std::size_t>(model.table()[i].size()));
  typename M::BackendType backend(1);
  to_host(backend, model.values(i), mask.data());
  for (std::size_t row = 0; row < kept.size(); ++row) kept[row] = mask[row] != 0;
  return kept;
}

}  // namespace moduleformer
