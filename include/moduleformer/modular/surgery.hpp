// SPDX-License-Identifier: MIT
#pragma once
// Surgery: a model made anew with other experts. Experts are the outermost dimension of their tensors, and rows of the
// router's last matrix, so every operation is a choice of rows: which old expert each new one is, by layer and kind. The
// other tensors are copied. What an optimizer knows of the rows follows by the RowMap (Trainer's constructor for it).

#include <moduleformer/core/error.hpp>
#include <moduleformer/model/model.hpp>
#include <moduleformer/nn/row_map.hpp>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <numeric>
#include <string_view>
#include <utility>
#include <vector>

namespace moduleformer {

/// An expert that no old one is.
inline constexpr Index new_expert = fresh_row;

/// The experts of every layer of the new model: for each the old one's number, or new_expert.
struct ExpertMap {
  std::vector<std::vector<Index>> attention;     // of each layer
  std::vector<std::vector<Index>> feed_forward;

  /// All as they are.
  static ExpertMap of(Config const& config) {
    ExpertMap map;
    auto const all = [](Index count) {
      std::vector<Index> experts(static_cast<std::size_t>(count));
      std::iota(experts.begin(), experts.end(), Index{0});
      return experts;
    };
    for (Index i = 0; i < config.layers; ++i) {
      map.attention.push_back(all(config.attention.experts[i]));
      map.feed_forward.push_back(all(config.feed_forward.experts[i]));
    }
    return map;
  }
};

/// A shape whose numbers of experts are known at run time only.
consteval Shape with_dynamic_experts(Shape shape) {
  shape.attention.experts = shape.feed_forward.experts = dynamic;
  return shape;
}

/// The type of a model after surgery: the same, with numbers of experts that may differ between layers.
template <class M>
using Resizable = Model<typename M::HeadType, with_dynamic_experts(M::static_shape), typename M::PoliciesType,
                        typename M::BackendType>;

/// A model after surgery, and where its rows come from.
template <class M>
struct Operated {
  M model;
  RowMap rows;
};

namespace detail {

/// Which list of experts a tensor goes by: the layer's number and kind, and whether its rows are a router's, which has
/// none for shared experts.
struct ExpertTensor {
  Index layer = -1;
  bool is_attention = false;
  bool is_router = false;

  static ExpertTensor parse(std::string_view name) {
    constexpr std::string_view prefix = "transformer.h.";
    if (!name.starts_with(prefix)) return {};
    name.remove_prefix(prefix.size());
    ExpertTensor tensor{0};
    for (; !name.empty() && name.front() != '.'; name.remove_prefix(1)) tensor.layer = 10 * tensor.layer + (name.front() - '0');
    tensor.is_attention = name.starts_with(".attn.");
    tensor.is_router = name.find(".gate.") != std::string_view::npos;
    return tensor;
  }
};

/// The segments with a row for each expert: those that grow when every layer has one more.
template <class M>
std::vector<bool> segments_by_expert(M const& model) {
  Config wider = model.config();
  auto const grow = [&](auto& kind) {
    std::vector<Index> counts;
    for (Index i = 0; i < wider.layers; ++i) counts.push_back(kind.experts[i] + 1);
    kind.experts = counts;
  };
  grow(wider.attention);
  grow(wider.feed_forward);
  ParameterTable const table = Resizable<M>::declare(wider, model.settings(), model.policies());
  std::vector<bool> grows;
  for (std::size_t i = 0; i < table.count(); ++i) grows.push_back(table[i].rows() != model.table()[i].rows());
  return grows;
}

/// Throws Error for experts that the old layer does not have, or that are chosen twice.
inline void check_experts(std::vector<Index> const& chosen, Index experts, std::string_view what, Index layer) {
  std::vector<bool> seen(static_cast<std::size_t>(experts));
  for (Index const e : chosen) {
    if (e == new_expert) continue;
    expects(e >= 0 && e < experts, "surgery: layer ", layer, ", ", what, ": expected experts below ", experts, ", found ", e);
    expects(!seen[static_cast<std::size_t>(e)], "surgery: layer ", layer, ", ", what, ": expert ", e, " is chosen twice");
    seen[static_cast<std::size_t>(e)] = true;
  }
}

}  // namespace detail

/// The model with the experts of `map`, of which the last `dormant` of each kind and layer take no part. New experts have the
/// values that a new model of this seed would have. A tensor that was frozen stays so; all other rows train. Throws Error for
/// experts that are not there, for routers that would have fewer than top_k, and for shared experts that would move.
template <class M>
Operated<Resizable<M>> with_experts(M const& model, ExpertMap const& map, ExpertCounts dormant_attention = {},
                                    ExpertCounts dormant_feed_forward = {}, std::uint64_t seed = 0) {
  using B = typename M::BackendType;
  using A = typename M::Accumulator;
  Config config = model.config();
  SharedCounts const shared = model.transformer().shared_experts();
  auto const take = [&](auto& kind, std::vector<std::vector<Index>> const& chosen, ExpertCounts dormant, Index shared_experts,
                        std::string_view what) {
    expects(static_cast<Index>(chosen.size()) == config.layers, "surgery: ", what, ": expected experts of ", config.layers,
            " layers, found ", chosen.size());
    std::vector<Index> counts;
    for (Index i = 0; i < config.layers; ++i) {
      auto const& experts = chosen[static_cast<std::size_t>(i)];
      detail::check_experts(experts, kind.experts[i], what, i);
      for (Index s = 0; s < shared_experts; ++s)
        expects(s < static_cast<Index>(experts.size()) && experts[static_cast<std::size_t>(s)] == s, "surgery: layer ", i, ", ",
                what, ": expected the shared expert ", s, " to stay");
      counts.push_back(static_cast<Index>(experts.size()));
    }
    kind.experts = std::move(counts);
    kind.dormant = std::move(dormant);
  };
  take(config.attention, map.attention, std::move(dormant_attention), shared.attention, "attention");
  take(config.feed_forward, map.feed_forward, std::move(dormant_feed_forward), shared.feed_forward, "feed-forward");

  Operated<Resizable<M>> result{Resizable<M>(config, model.settings(), model.policies()), {}};
  ParameterTable const &old = model.table(), &table = result.model.table();
  std::vector<bool> const by_expert = detail::segments_by_expert(model);
  B backend(1);
  std::vector<A> host;
  for (std::size_t i = 0; i < table.count(); ++i) {
    Segment const& segment = table[i];
    expects(i < old.count() && old[i].name == segment.name, "surgery: ", segment.name, ": the old model has no such tensor");
    auto& rows = result.rows.rows.emplace_back();
    if (by_expert[i]) {
      auto const tensor = detail::ExpertTensor::parse(segment.name);
      auto const& experts = (tensor.is_attention ? map.attention : map.feed_forward)[static_cast<std::size_t>(tensor.layer)];
      Index const first = !tensor.is_router ? 0 : tensor.is_attention ? shared.attention : shared.feed_forward;
      for (std::size_t e = static_cast<std::size_t>(first); e < experts.size(); ++e)
        rows.push_back(experts[e] == new_expert ? fresh_row : experts[e] - first);
    }
    Vector<A> const values = result.model.writable(i);
    if (std::find(rows.begin(), rows.end(), fresh_row) != rows.end()) {
      host.resize(static_cast<std::size_t>(segment.size()));
      initialize(segment, i, seed, model.settings().initializer_range, host.data());
      from_host(backend, static_cast<A const*>(host.data()), values);
    }
    copy_rows(backend, result.rows, i, segment.row_size(), 0, old[i].rows(), model.values(i), 0, segment.rows(), values);
    if (old[i].trainable_size() == 0) result.model.set_trainable(i, 0, 0);
  }
  result.model.refresh(backend);
  return result;
}

}  // namespace moduleformer
