// SPDX-License-Identifier: MIT
#pragma once
// New experts for a trained model (arXiv 2306.04640 section 3.3): n more experts and n more rows of the router,
// softmax([A; A'] h(x)). They are inserted dormant: there are their parameters, but no logits, so every result has the bits
// that it had. activate() lets them take part; then every token's gates of the old experts shrink by one factor.
//
//   auto [grown, rows] = mf::insert_experts(model, {.attention = 2, .feed_forward = 4});
//   auto [active, same] = mf::activate(grown);
//   mf::train_only_new(active, rows);            // modular/freeze.hpp
//
// Rows of routers are new draws whatever the experts start as: an expert that had a row of another would share its tokens.

#include <moduleformer/modular/surgery.hpp>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <numeric>
#include <utility>
#include <vector>

namespace moduleformer {

/// What the weights of new experts start as: new draws, copies of those with the largest load (the next one for the
/// next new one), or the mean of the layer's routed experts that take part.
enum class NewExperts { fresh, copies_of_most_used, mean };

struct InsertOptions {
  Index attention = 0;          // new experts of a layer
  Index feed_forward = 0;
  std::vector<Index> layers{};  // empty: all
  NewExperts initial = NewExperts::fresh;
  /// For copies_of_most_used: the load of each router (attention, feed-forward of each layer in turn) and routed expert.
  std::vector<std::vector<double>> load{};
  std::uint64_t seed = 0;
};

namespace detail {

/// Sets new rows of one expert tensor from those of `routed`, in host memory: experts that take part, by falling load.
template <class A>
void start_new_rows(NewExperts initial, std::vector<Index> const& experts, std::vector<Index> const& routed,
                    Index row_size, std::vector<A>& values) {
  auto const row = [&](Index e) { return values.begin() + e * row_size; };
  Index made = 0;
  for (std::size_t e = 0; e < experts.size(); ++e) {
    if (experts[e] != new_expert) continue;
    auto const to = row(static_cast<Index>(e));
    if (initial == NewExperts::copies_of_most_used) {
      std::copy_n(row(routed[static_cast<std::size_t>(made++) % routed.size()]), row_size, to);
      continue;
    }
    for (Index i = 0; i < row_size; ++i) {
      double sum = 0;
      for (Index const from : routed) sum += static_cast<double>(row(from)[i]);
      to[i] = static_cast<A>(sum / static_cast<double>(routed.size()));
    }
  }
}

/// The routed experts of one router by falling load, ties by number.
inline std::vector<Index> by_load(std::vector<double> const& load, Index shared) {
  std::vector<Index> order(load.size());
  std::iota(order.begin(), order.end(), shared);
  std::stable_sort(order.begin(), order.end(), [&](Index a, Index b) {
    return load[static_cast<std::size_t>(a - shared)] > load[static_cast<std::size_t>(b - shared)];
  });
  return order;
}

}  // namespace detail

/// The model with new experts behind the others, dormant. Throws Error for a layer that is not there, numbers below 0 or none
/// at all, and loads of other routers.
template <class M>
Operated<Resizable<M>> insert_experts(M const& model, InsertOptions const& options) {
  using A = typename M::Accumulator;
  Config const& config = model.config();
  expects(options.attention >= 0 && options.feed_forward >= 0 && options.attention + options.feed_forward > 0,
          "insert experts: expected a number of new experts, found ", options.attention, " for attention and ",
          options.feed_forward, " for feed-forward");
  for (Index const layer : options.layers)
    expects(layer >= 0 && layer < config.layers, "insert experts: expected layers below ", config.layers, ", found ", layer);
  bool const copies = options.initial == NewExperts::copies_of_most_used;
  SharedCounts const shared = model.transformer().shared_experts();
  ExpertMap map = ExpertMap::of(config);
  std::vector<std::vector<Index>> orders;  // of each router, its experts by falling load
  std::vector<Index> dormant_attention, dormant_feed_forward;
  expects(!copies || options.load.size() == static_cast<std::size_t>(2 * config.layers), "insert experts: expected the load of ",
          2 * config.layers, " routers to choose the most used by, found ", options.load.size());
  for (Index i = 0; i < config.layers; ++i) {
    bool const chosen = options.layers.empty() || std::find(options.layers.begin(), options.layers.end(), i) != options.layers.end();
    auto const grow = [&](std::vector<Index>& experts, Index count, Index dormant, std::vector<Index>& all_dormant) {
      Index const added = chosen ? count : 0;
      experts.insert(experts.end(), static_cast<std::size_t>(added), new_expert);
      all_dormant.push_back(dormant + added);
    };
    grow(map.attention[static_cast<std::size_t>(i)], options.attention, config.attention.dormant[i], dormant_attention);
    grow(map.feed_forward[static_cast<std::size_t>(i)], options.feed_forward, config.feed_forward.dormant[i],
         dormant_feed_forward);
    auto const order = [&](std::size_t router, Index routed, Index first) {
      auto const load = copies ? options.load[router] : std::vector<double>(static_cast<std::size_t>(routed));
      expects(load.size() == static_cast<std::size_t>(routed), "insert experts: router ", router, ": expected the load of ",
              routed, " experts, found ", load.size());
      orders.push_back(detail::by_load(load, first));
    };
    order(static_cast<std::size_t>(2 * i), active_experts(config.attention, i) - shared.attention, shared.attention);
    order(static_cast<std::size_t>(2 * i + 1), active_experts(config.feed_forward, i) - shared.feed_forward,
          shared.feed_forward);
  }
  auto result = with_experts(model, map, {dormant_attention, dormant_feed_forward, RemovedExperts::keep_rows, options.seed});
  if (options.initial == NewExperts::fresh) return result;

  typename M::BackendType backend(1);
  std::vector<A> host;
  for (std::size_t i = 0; i < result.rows.tensors.size(); ++i) {
    Segment const& segment = result.model.table()[i];
    auto const tensor = detail::ExpertTensor::parse(segment.name);
    auto const& rows = result.rows.tensors[i].rows;
    if (tensor.is_router || std::find(rows.begin(), rows.end(), fresh_row) == rows.end()) continue;
    host.resize(static_cast<std::size_t>(segment.size()));
    to_host(backend, result.model.values(i), host.data());
    auto const router = static_cast<std::size_t>(2 * tensor.layer + (tensor.is_attention ? 0 : 1));
    detail::start_new_rows(options.initial, rows, orders[router], segment.row_size(), host);
    from_host(backend, static_cast<A const*>(host.data()), result.model.writable(i));
  }
  result.model.refresh(backend);
  return result;
}

/// The model with its dormant experts taking part. Throws Error if it has none.
template <class M>
Operated<Resizable<M>> activate(M const& model) {
  Config const& config = model.config();
  expects(config.attention.dormant.largest() > 0 || config.feed_forward.dormant.largest() > 0,
          "activate: the model has no dormant experts, which insert_experts makes");
  return with_experts(model, ExpertMap::of(config), {.removed = RemovedExperts::keep_rows});
}

}  // namespace moduleformer
