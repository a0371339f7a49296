// SPDX-License-Identifier: MIT
#pragma once
// Which parameters train. Frozen rows have no gradient, no moments and no weight-gradient products, and keep their bits. The
// trainable rows of a tensor are one range. Choose them before a Trainer is made:
//
//   mf::train_only_new(model, rows);             // what insert_experts added
//   mf::freeze(model, "*.gate.*");               // by pattern: * any characters, ? one
//   mf::freeze_all(model), mf::train_experts(model, {.layer = 3, .attention = true}, 0, 4);

#include <moduleformer/modular/surgery.hpp>

#include <algorithm>
#include <cstddef>
#include <string_view>
#include <vector>

namespace moduleformer {

namespace detail {

/// Whether a name is of the pattern: * stands for any characters, ? for one.
constexpr bool matches(std::string_view pattern, std::string_view name) {
  std::size_t p = 0, n = 0, star = std::string_view::npos, from = 0;
  while (n < name.size()) {
    if (p < pattern.size() && pattern[p] == '*') star = p++, from = n;
    else if (p < pattern.size() && (pattern[p] == '?' || pattern[p] == name[n])) ++p, ++n;
    else if (star != std::string_view::npos) p = star + 1, n = ++from;
    else return false;
  }
  while (p < pattern.size() && pattern[p] == '*') ++p;
  return p == pattern.size();
}

/// set(i) for each tensor of the pattern; throws Error if there is none.
template <class M, class Set>
void for_matching(M const& model, std::string_view pattern, Set const& set) {
  bool found = false;
  for (std::size_t i = 0; i < model.table().count(); ++i)
    if (matches(pattern, model.table()[i].name)) found = true, set(i);
  expects(found, "freeze: no tensor is called ", pattern, "; the first is ", model.table()[0].name);
}

}  // namespace detail

template <class M>
void freeze_all(M& model) {
  for (std::size_t i = 0; i < model.table().count(); ++i) model.set_trainable(i, 0, 0);
}

/// Throws Error for a pattern that no tensor's name is of.
template <class M>
void freeze(M& model, std::string_view pattern) {
  detail::for_matching(model, pattern, [&](std::size_t i) { model.set_trainable(i, 0, 0); });
}

/// All active rows of these tensors train. Throws Error for a pattern that no tensor's name is of.
template <class M>
void train(M& model, std::string_view pattern) {
  detail::for_matching(model, pattern, [&](std::size_t i) {
    Segment const& s = model.table()[i];
    model.set_trainable(i, 0, s.initial == Initial::state ? 0 : s.active_rows);
  });
}

/// A layer's experts of one kind.
struct ExpertLayer {
  Index layer = 0;
  bool attention = false;  // else feed-forward
};

/// Of a layer's experts [begin, end) train, weights and rows of the router, and no others of that layer and kind.
/// Throws Error for experts that are not there or dormant, and for a router with rows of removed experts; then nothing
/// has changed.
template <class M>
void train_experts(M& model, ExpertLayer which, Index begin, Index end) {
  Config const& config = model.config();
  expects(which.layer >= 0 && which.layer < config.layers, "train experts: expected a layer below ", config.layers,
          ", found ", which.layer);
  Index const count = which.attention ? active_experts(config.attention, which.layer)
                                      : active_experts(config.feed_forward, which.layer);
  Index const removed =
      which.attention ? config.attention.removed[which.layer] : config.feed_forward.removed[which.layer];
  expects(begin >= 0 && begin <= end && end <= count, "train experts: layer ", which.layer, ", ",
          which.attention ? "attention" : "feed-forward", ": expected active experts within 0 to ", count, ", found ",
          begin, " to ", end);
  expects(removed == 0, "train experts: layer ", which.layer,
          ": expected a router without rows of removed experts, found ", removed, "; prune them away first");
  std::vector<bool> const by_expert = detail::segments_by_expert(model);
  SharedCounts const shared = model.transformer().shared_experts();
  Index const first = which.attention ? shared.attention : shared.feed_forward;
  for (std::size_t i = 0; i < by_expert.size(); ++i) {
    auto const tensor = detail::ExpertTensor::parse(model.table()[i].name);
    if (!by_expert[i] || tensor.layer != which.layer || tensor.is_attention != which.attention) continue;
    if (model.table()[i].initial == Initial::state) continue;
    Index const skipped = tensor.is_router ? first : 0;
    model.set_trainable(i, std::max(begin - skipped, Index{0}), std::max(end - skipped, Index{0}));
  }
}

/// Only the rows that `rows` calls fresh train: the new experts and their rows of routers. Throws Error if there are none, or
/// if they are dormant.
template <class M>
void train_only_new(M& model, RowMap const& rows) {
  ParameterTable const& table = model.table();
  expects(rows.tensors.size() == table.count(), "train only new: expected the rows of this model, of ", table.count(),
          " tensors, found ", rows.tensors.size());
  bool any = false;
  for (std::size_t i = 0; i < table.count(); ++i) {
    auto const [begin, end] = rows.fresh(table[i], i);
    any = any || begin < end;
    model.set_trainable(i, begin, table[i].initial == Initial::state ? begin : end);
  }
  expects(any, "train only new: the model has no new experts");
}

}  // namespace moduleformer
