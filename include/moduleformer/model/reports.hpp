// SPDX-License-Identifier: MIT
#pragma once
// What goes into and comes out of a model's run beside the batch: losses, how gradients are weighed, options, logits.

#include <moduleformer/model/block.hpp>
#include <moduleformer/model/observation.hpp>
#include <moduleformer/model/route_record.hpp>

#include <span>
#include <vector>

namespace moduleformer {

/// Losses of one batch.
struct LossReport {
  double task = 0;       // cross-entropy: mean over the counted targets, nats
  double auxiliary = 0;  // unweighted sum of the routing losses
  double total = 0;      // what is differentiated
  Index counted = 0;     // targets that count
};

/// How a batch's gradient is weighed; the defaults are those of a batch on its own.
struct GradientScale {
  double counted = 0;    // divides the summed cross-entropy; 0: the batch's own counted targets
  double auxiliary = 1;  // multiplies aux_loss_weight
};

/// Options of a forward.
template <class A>
struct ForwardOptions {
  Observation<A>* observation = nullptr;
  std::span<BlockRoutes const> routes{};  // (L) given experts of the packed tokens, in place of the routers' choice
  Replay replay{};                        // the same from a record, of this batch
};

/// Logits in host memory: (rows, tokens, outputs); a classifier has one token a row. Masked tokens: 0.
template <class A>
struct Logits {
  Index rows = 0;
  Index tokens = 0;
  Index outputs = 0;
  std::vector<A> values;
};

}  // namespace moduleformer
