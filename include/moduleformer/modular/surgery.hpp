// SPDX-License-Identifier: MIT
#pragma once
// Surgery: a model made anew with other experts. Experts are the outermost dimension of their tensors, and rows of the
// router's last matrix, so every operation is a choice of rows: which old expert each new one is, by layer and kind. The
// other tensors are copied. What an optimizer knows of the rows follows by the RowMap (Trainer's constructor for it).
// Rows of a router whose expert is removed go too, or stay without one (routing/removed_rows.hpp).

#include <moduleformer/core/error.hpp>
#include <moduleformer/model/model.hpp>
#include <moduleformer/nn/row_map.hpp>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <numeric>
#include <string>
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

/// What becomes of the rows of a router whose expert is removed: they go, and the softmax runs over fewer logits; or they stay
/// in the softmax, no token can choose them, and tokens that did not keep every bit.
enum class RemovedExperts { drop_rows, keep_rows };

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

/// Throws Error for experts that the old layer does not have or that are chosen twice, and for shared ones that would move.
inline void check_experts(std::vector<Index> const& chosen, Index experts, Index shared, std::string_view what, Index layer) {
  auto const where = [&] { return "surgery: layer " + std::to_string(layer) + ", " + std::string(what); };
  std::vector<bool> seen(static_cast<std::size_t>(experts));
  for (Index const e : chosen) {
    if (e == new_expert) continue;
    expects(e >= 0 && e < experts, where(), ": expected experts below ", experts, ", found ", e);
    expects(!seen[static_cast<std::size_t>(e)], where(), ": expert ", e, " is chosen twice");
    seen[static_cast<std::size_t>(e)] = true;
  }
  for (Index s = 0; s < shared; ++s)
    expects(s < static_cast<Index>(chosen.size()) && chosen[static_cast<std::size_t>(s)] == s, where(),
            ": expected the shared expert ", s, " to stay");
}

/// A router before and after: which old row each new one is, and which of them have an expert.
struct RouterRows {
  std::vector<Index> rows;
  std::vector<bool> kept;

  [[nodiscard]] Index removed() const { return std::count(kept.begin(), kept.end(), false); }

  /// `chosen` experts of the layer, of whose `shared` first ones the router knows nothing; `old_kept` tells which of its rows
  /// have an expert, the last `old_dormant` being those of dormant ones.
  static RouterRows of(std::vector<Index> const& chosen, Index shared, std::vector<bool> const& old_kept, Index old_dormant,
                       RemovedExperts removed, std::string const& where) {
    std::vector<Index> row_of_expert;
    for (std::size_t row = 0; row < old_kept.size(); ++row)
      if (old_kept[row]) row_of_expert.push_back(static_cast<Index>(row));
    RouterRows result;
    auto const add = [&](Index row, bool kept) {
      result.rows.push_back(row);
      result.kept.push_back(kept);
    };
    Index const active = static_cast<Index>(old_kept.size()) - old_dormant;
    if (removed == RemovedExperts::keep_rows)
      for (Index row = 0; row < active; ++row) add(row, false);
    Index last = -1;
    for (auto e = chosen.begin() + shared; e != chosen.end(); ++e) {
      Index const row = *e == new_expert ? fresh_row : row_of_expert[static_cast<std::size_t>(*e - shared)];
      if (removed == RemovedExperts::drop_rows || row == fresh_row || row >= active) {
        add(row, true);
      } else {
        expects(row > last && static_cast<Index>(result.rows.size()) == active, where,
                ": expected experts in their order, new ones last, where rows of removed ones stay");
        result.kept[static_cast<std::size_t>(row)] = true;
        last = row;
      }
    }
    return result;
  }
};

}  // namespace detail

/// What surgery decides beside the experts.
struct SurgeryOptions {
  ExpertCounts dormant_attention{};  // the last so many of the new experts of each layer take no part
  ExpertCounts dormant_feed_forward{};
  RemovedExperts removed = RemovedExperts::drop_rows;
  std::uint64_t seed = 0;            // of new experts' values
};

/// The model with the experts of `map`. New experts have the values that a new model of this seed would have. A tensor that was
/// frozen stays so; all other rows train. Throws Error for experts that are not there, for routers that would have fewer than
/// top_k, and for shared experts that would move.
template <class M>
Operated<Resizable<M>> with_experts(M const& model, ExpertMap const& map, SurgeryOptions const& options = {}) {
  using A = typename M::Accumulator;
  Config config = model.config();
  SharedCounts const shared = model.transformer().shared_experts();
  std::vector<detail::RouterRows> routers(static_cast<std::size_t>(2 * config.layers));
  auto const take = [&](auto& kind, std::vector<std::vector<Index>> const& chosen, ExpertCounts const& dormant,
                        Index shared_experts, bool attention) {
    std::string const what = attention ? "attention" : "feed-forward";
    expects(static_cast<Index>(chosen.size()) == config.layers, "surgery: ", what, ": expected experts of ", config.layers,
            " layers, found ", chosen.size());
    std::vector<Index> counts, removed;
    for (Index i = 0; i < config.layers; ++i) {
      auto const& experts = chosen[static_cast<std::size_t>(i)];
      detail::check_experts(experts, kind.experts[i], shared_experts, what, i);
      auto const kept = kept_rows(model, i, attention, kind.experts[i] - shared_experts + kind.removed[i]);
      auto& router = routers[static_cast<std::size_t>(2 * i + (attention ? 0 : 1))];
      router = detail::RouterRows::of(experts, shared_experts, kept, kind.dormant[i], options.removed,
                                      "surgery: layer " + std::to_string(i) + ", " + what);
      counts.push_back(static_cast<Index>(experts.size()));
      removed.push_back(router.removed());
    }
    kind.experts = std::move(counts);
    kind.dormant = dormant;
    kind.removed = std::move(removed);
  };
  take(config.attention, map.attention, options.dormant_attention, shared.attention, true);
  take(config.feed_forward, map.feed_forward, options.dormant_feed_forward, shared.feed_forward, false);

  Operated<Resizable<M>> result{Resizable<M>(config, model.settings(), model.policies()), {}};
  ParameterTable const &old = model.table(), &table = result.model.table();
  std::vector<bool> const by_expert = detail::segments_by_expert(model);
  typename M::BackendType backend(1);
  std::vector<A> host;
  for (std::size_t i = 0; i < table.count(); ++i) {
    Segment const& segment = table[i];
    auto const tensor = detail::ExpertTensor::parse(segment.name);
    auto const router = static_cast<std::size_t>(2 * tensor.layer + (tensor.is_attention ? 0 : 1));
    Vector<A> const values = result.model.writable(i);
    RowMap::Tensor& to = result.rows.tensors.emplace_back();
    if (segment.name.ends_with(".gate.kept_rows")) {  // made anew
      host.assign(routers[router].kept.begin(), routers[router].kept.end());
      from_host(backend, static_cast<A const*>(host.data()), values);
      continue;
    }
    std::size_t const from = old.find(segment.name);
    expects(from < old.count(), "surgery: ", segment.name, ": the old model has no such tensor");
    to.old = from;
    if (by_expert[from] && tensor.is_router) to.rows = routers[router].rows;
    else if (by_expert[from])
      to.rows = (tensor.is_attention ? map.attention : map.feed_forward)[static_cast<std::size_t>(tensor.layer)];
    if (std::find(to.rows.begin(), to.rows.end(), fresh_row) != to.rows.end()) {
      host.resize(static_cast<std::size_t>(segment.size()));
      initialize(segment, i, options.seed, model.settings().initializer_range, host.data());
      from_host(backend, static_cast<A const*>(host.data()), values);
    }
    copy_rows(backend, result.rows, i, segment.row_size(), 0, old[from].rows(), model.values(from), 0, segment.rows(), values);
    if (old[from].trainable_size() == 0) result.model.set_trainable(i, 0, 0);
  }
  result.model.refresh(backend);
  return result;
}

}  // namespace moduleformer
