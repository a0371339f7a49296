// SPDX-License-Identifier: MIT
#pragma once
// RoutingTotals: what routers did over all micro-batches of a training step, in backend memory, and each expert's mean
// probability in the step before. Kept only where a policy needs it: a loss over more than a micro-batch
// (routing/statistics_span.hpp), or a selection that balances itself (routing/selection.hpp).

#include <moduleformer/backend/backend.hpp>
#include <moduleformer/backend/buffer.hpp>
#include <moduleformer/backend/remote_vector.hpp>
#include <moduleformer/core/platform.hpp>

#include <memory>
#include <span>
#include <string_view>
#include <vector>

namespace moduleformer {

/// Of one router, all in backend memory.
struct RouterTotals {
  Vector<double> probability_sum, count, gate_sum;  // (E) as in RoutingStatistics, over the step's passes so far
  Vector<double> previous;                          // (E) mean probability in the step before
  double* negative_entropy_sum = nullptr;
  double* squared_lse_sum = nullptr;
  double* tokens = nullptr;          // so far
  double* passes = nullptr;          // so far
  double* has_previous = nullptr;    // 0 in the first step
  [[nodiscard]] constexpr Index experts() const { return count.extent(0); }
};

namespace detail {

/// What a pass did joins the totals.
struct AddToTotals {
  RoutingStatistics pass;
  RouterTotals totals;
  MODULEFORMER_HOST_DEVICE void operator()() const {
    for (Index e = 0; e < totals.experts(); ++e) {
      totals.probability_sum[e] += pass.probability_sum[e];
      totals.count[e] += pass.count[e];
      totals.gate_sum[e] += pass.gate_sum[e];
    }
    *totals.negative_entropy_sum += *pass.negative_entropy_sum;
    *totals.squared_lse_sum += *pass.squared_lse_sum;
    *totals.tokens += static_cast<double>(pass.tokens);
    *totals.passes += 1;
  }
};

struct ClearTotals {
  Vector<double> sums;
  MODULEFORMER_HOST_DEVICE void operator()() const {
    for (Index i = 0; i < sums.size(); ++i) sums[i] = 0;
  }
};

/// The step is done: its mean probabilities are the previous ones, unless it changed nothing.
struct EndTotals {
  RouterTotals totals;
  AdamWStep const* step;
  MODULEFORMER_HOST_DEVICE void operator()() const {
    if (!(step->clip - step->clip == 0) || *totals.tokens == 0) return;
    for (Index e = 0; e < totals.experts(); ++e) totals.previous[e] = totals.probability_sum[e] / *totals.tokens;
    *totals.has_previous = 1;
  }
};

}  // namespace detail

template <Backend B>
class RoutingTotals {
 public:
  RoutingTotals() = default;
  /// For routers of so many experts: attention and feed-forward of each layer in turn. All zero.
  RoutingTotals(B& backend, std::vector<Index> const& experts) {
    Index sums = 0, previous = 0;
    for (Index const e : experts) sums += 3 * e + 4, previous += e + 1;
    sums_ = sums;
    numbers_ = Buffer<double, typename B::Memory>(sums + previous);
    invoke(backend, detail::ClearTotals{numbers_.view()});
    // Whoever writes them next by another backend, as visit() does, must find the zeros there: wait for them.
    double last = 0;
    to_host(backend, Vector<double const>(numbers_.view()).rows(0, 1), &last);
    double* next = numbers_.data();
    double* kept = next + sums;
    for (Index const e : experts) {
      routers_.push_back({{next, {e}},
                          {next + e, {e}},
                          {next + 2 * e, {e}},
                          {kept, {e}},
                          next + 3 * e,
                          next + 3 * e + 1,
                          next + 3 * e + 2,
                          next + 3 * e + 3,
                          kept + e});
      next += 3 * e + 4;
      kept += e + 1;
    }
  }

  /// One for each router; none where nothing is kept.
  [[nodiscard]] std::span<RouterTotals const> routers() const { return routers_; }
  /// visit("previous_probabilities", numbers): what is carried from step to step, each router's mean probabilities and
  /// whether there are any. What was asked of a device must be done.
  template <class Self, class Visitor>
  static void visit(Self& self, Visitor&& visit) {
    std::shared_ptr<B> backend;
    if constexpr (!has_host_memory<B>) backend = std::make_shared<B>(1);
    auto const all = self.numbers_.view();
    visit_vector(visit, std::string_view("previous_probabilities"), backend,
                 all.rows(self.sums_, all.size() - self.sums_));
  }

  /// Before a step's first pass.
  void begin_step(B& backend) {
    if (!routers_.empty()) invoke(backend, detail::ClearTotals{numbers_.view().rows(0, sums_)});
  }
  /// After the update that step[0], in backend memory, describes.
  void end_step(B& backend, Vector<AdamWStep const> step) {
    for (RouterTotals const& r : routers_) invoke(backend, detail::EndTotals{r, step.data()});
  }

 private:
  Buffer<double, typename B::Memory> numbers_;
  Index sums_ = 0;  // those that a step begins at zero stand first
  std::vector<RouterTotals> routers_;
};

}  // namespace moduleformer
