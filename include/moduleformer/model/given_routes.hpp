// SPDX-License-Identifier: MIT
#pragma once
// Routes that a run is given in place of its routers' choice: those of the caller in backend memory, or a batch of a
// record. They are checked before anything runs.

#include <moduleformer/core/error.hpp>
#include <moduleformer/model/block.hpp>
#include <moduleformer/model/config.hpp>
#include <moduleformer/model/route_record.hpp>
#include <moduleformer/nn/pass.hpp>

#include <algorithm>
#include <cstddef>
#include <span>
#include <vector>

namespace moduleformer {

/// Throws Error naming layer and router unless these are routes for n packed tokens. Brings them to the host.
template <Backend B>
void check_routes(B& backend, Config const& config, std::span<BlockRoutes const> routes, Index n) {
  expects(static_cast<Index>(routes.size()) == config.layers, "routes: expected one entry per layer, ", config.layers, ", found ",
          routes.size());
  auto check = [n, &backend](Matrix<ExpertId const> ids, Index k, Index e, Index layer, char const* what) {
    expects(ids.extent(0) == n && ids.extent(1) == k, "routes of layer ", layer, ", ", what, ": expected ", n, " x ", k,
            " experts, found ", ids.extent(0), " x ", ids.extent(1));
    std::vector<ExpertId> host(static_cast<std::size_t>(ids.size()));
    to_host(backend, ids.reshape(ids.size()), host.data());
    for (ExpertId const id : host)
      expects(id >= 0 && id < e, "routes of layer ", layer, ", ", what, ": expected experts from 0 to ", e - 1, ", found ", id);
  };
  for (Index i = 0; i < config.layers; ++i) {
    auto const& r = routes[static_cast<std::size_t>(i)];
    check(r.attention, config.attention.top_k, config.attention.experts[i], i, "attention");
    check(r.feed_forward, config.feed_forward.top_k, config.feed_forward.experts[i], i, "feed_forward");
  }
}

/// A recorded batch's routes for n packed tokens in the pass's memory, (L). Throws Error if they are of another model or
/// text.
template <Backend B>
std::vector<BlockRoutes> upload_routes(Pass<B>& pass, Config const& config, Batch const& batch, Index n, Replay replay) {
  RouteRecord const& record = *replay.record;
  record.expect_model(config);
  record.expect_text(replay.batch, batch);
  record.check_batch(replay.batch);
  auto const [first, tokens, text] = record.batches[static_cast<std::size_t>(replay.batch)];
  expects(tokens == n, "record of routes: batch ", replay.batch, ": expected ", n, " tokens, found ", tokens);
  auto const upload = [&](RecordedRouter const& router) -> Matrix<ExpertId const> {
    Index const k = router.size.top_k;
    ExpertId const* const from = router.experts.data() + first * k;
    expects(std::find(from, from + tokens * k, empty_slot) == from + tokens * k, "record of routes: router ", router.size.text(),
            ", batch ", replay.batch, " has an empty slot, which this model's layers do not take");
    Matrix<ExpertId> const experts = pass.template allocate<ExpertId>(tokens, k);
    from_host(pass.backend, from, experts.reshape(tokens * k));
    return experts;
  };
  std::vector<BlockRoutes> routes;
  for (std::size_t r = 0; r < record.routers.size(); r += 2) {
    auto const attention = upload(record.routers[r]);
    routes.push_back({attention, upload(record.routers[r + 1])});
  }
  return routes;
}

}  // namespace moduleformer
