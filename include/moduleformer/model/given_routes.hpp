// SPDX-License-Identifier: MIT
#pragma once
// Routes that a run is given in place of its routers' choice: those of the caller in backend memory, or a batch of a
// record. They are checked before anything runs.

#include <moduleformer/core/error.hpp>
#include <moduleformer/model/block.hpp>
#include <moduleformer/model/route_record.hpp>
#include <moduleformer/nn/pass.hpp>

#include <algorithm>
#include <cstddef>
#include <span>
#include <string>
#include <utility>
#include <vector>

namespace moduleformer {

namespace detail {

/// Throws Error unless each token has a layer's S shared experts in its first slots, and no other of them.
template <class... Where>
void check_shared_slots(std::span<ExpertId const> experts, Index k, Index shared, Where const&... where) {
  if (shared == 0) return;
  for (std::size_t i = 0; i < experts.size(); ++i) {
    Index const s = static_cast<Index>(i) % k, found = experts[i];
    expects(s < shared ? found == s : found < 0 || found >= shared, where..., ": token ", static_cast<Index>(i) / k,
            ", slot ", s, s < shared ? ": expected the shared expert " : ": expected a routed expert from ",
            s < shared ? s : shared, ", found ", found);
  }
}

}  // namespace detail

/// Throws Error naming layer and router unless these are routes for n packed tokens. Brings them to the host.
template <Backend B, class BlockType>
void check_routes(Pass<B>& pass, std::vector<BlockType> const& blocks, std::span<BlockRoutes const> routes, Index n) {
  expects(routes.size() == blocks.size(), "routes: expected one entry per layer, ", blocks.size(), ", found ",
          routes.size());
  auto check = [n, &pass](Matrix<ExpertId const> ids, auto const& router, std::size_t layer, char const* what) {
    Index const slots = router.slots(pass.training), e = router.experts(),
                least = router.leaves_empty(pass.training) ? empty_slot : 0;
    expects(ids.extent(0) == n && ids.extent(1) == slots, "routes of layer ", layer, ", ", what, ": expected ", n,
            " x ", slots, " experts, found ", ids.extent(0), " x ", ids.extent(1));
    std::vector<ExpertId> host(static_cast<std::size_t>(ids.size()));
    to_host(pass.backend, ids.reshape(ids.size()), host.data());
    for (ExpertId const id : host)
      expects(id >= least && id < e, "routes of layer ", layer, ", ", what, ": expected experts from ", least, " to ",
              e - 1, ", found ", id);
    detail::check_shared_slots(host, slots, router.shared_experts(), "routes of layer ", layer, ", ", what);
  };
  for (std::size_t i = 0; i < blocks.size(); ++i) {
    check(routes[i].attention, blocks[i].attention().router(), i, "attention");
    check(routes[i].feed_forward, blocks[i].feed_forward().router(), i, "feed_forward");
  }
}

/// A recorded batch's routes for n packed tokens in the pass's memory, (L). Throws Error if they are of another model
/// or text.
template <Backend B, class BlockType>
std::vector<BlockRoutes> upload_routes(Pass<B>& pass, std::vector<BlockType> const& blocks, Batch const& batch, Index n,
                                       Replay replay) {
  RouteRecord const& record = *replay.record;
  std::vector<RouterSize> sizes;
  for (std::size_t i = 0; i < blocks.size(); ++i) {
    auto const add = [&](std::string name, auto const& router) {
      sizes.push_back({std::move(name), router.experts(), router.slots(pass.training), router.shared_experts()});
    };
    add(attention_router_name(static_cast<Index>(i)), blocks[i].attention().router());
    add(feed_forward_router_name(static_cast<Index>(i)), blocks[i].feed_forward().router());
  }
  record.expect_routers(sizes);
  record.expect_text(replay.batch, batch);
  record.check_batch(replay.batch);
  auto const& recorded_batch = record.batches[static_cast<std::size_t>(replay.batch)];
  Index const first = recorded_batch.first, tokens = recorded_batch.tokens;
  expects(tokens == n, "record of routes: batch ", replay.batch, ": expected ", n, " tokens, found ", tokens);
  auto const upload = [&](RecordedRouter const& recorded, auto const& router) -> Matrix<ExpertId const> {
    Index const slots = tokens * recorded.size.slots;
    ExpertId const* const from = recorded.experts.data() + first * recorded.size.slots;
    expects(router.leaves_empty(pass.training) || std::find(from, from + slots, empty_slot) == from + slots,
            "record of routes: router ", recorded.size, ", batch ", replay.batch,
            " has an empty slot, which this model's layers do not take");
    detail::check_shared_slots({from, static_cast<std::size_t>(slots)}, recorded.size.slots, router.shared_experts(),
                               "record of routes: router ", recorded.size, ", batch ", replay.batch);
    Matrix<ExpertId> const experts = pass.template allocate<ExpertId>(tokens, recorded.size.slots);
    from_host(pass.backend, from, experts.reshape(slots));
    return experts;
  };
  std::vector<BlockRoutes> routes;
  for (std::size_t i = 0; i < blocks.size(); ++i) {
    auto const attention = upload(record.routers[2 * i], blocks[i].attention().router());
    routes.push_back({attention, upload(record.routers[2 * i + 1], blocks[i].feed_forward().router())});
  }
  return routes;
}

}  // namespace moduleformer
