// SPDX-License-Identifier: MIT
#pragma once
// Pruning that folds each removed expert into the nearest one that stays: with w_j the use of expert j and G the experts folded
// into e, e among them,
//   W_e = sum_{j in G} w_j W_j / sum_{j in G} w_j       for both matrices and the router's row
// nearest by the cosine of all weights of both matrices. (The averaging by use is that of arXiv 2310.01334, which aligns
// neurons first; experts here are not aligned.) An expert that nothing is folded into keeps its bits.

#include <moduleformer/modular/prune.hpp>

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <string>
#include <vector>

namespace moduleformer {

namespace detail {

/// The tensors with a row for each expert of one layer and kind, in host memory.
template <class M>
class ExpertTensors {
 public:
  using A = typename M::Accumulator;
  struct Rows {
    std::size_t segment = 0;
    bool is_router = false;
    Index row_size = 0;
    std::vector<A> values{};
    [[nodiscard]] A const* row(Index r) const { return values.data() + r * row_size; }
  };

  ExpertTensors(M const& model, std::vector<bool> const& by_expert, Index layer, bool attention) {
    typename M::BackendType backend(1);
    for (std::size_t i = 0; i < by_expert.size(); ++i) {
      auto const& s = model.table()[i];
      auto const tensor = ExpertTensor::parse(s.name);
      if (!by_expert[i] || tensor.layer != layer || tensor.is_attention != attention || s.initial == Initial::state) continue;
      Rows& rows = tensors_.emplace_back(Rows{i, tensor.is_router, s.row_size()});
      rows.values.resize(static_cast<std::size_t>(s.size()));
      to_host(backend, model.values(i), rows.values.data());
    }
  }

  [[nodiscard]] std::vector<Rows> const& all() const { return tensors_; }

  /// Of two experts' weights, without the router's.
  [[nodiscard]] double cosine(Index a, Index b) const {
    double ab = 0, aa = 0, bb = 0;
    for (Rows const& of : tensors_) {
      if (of.is_router) continue;
      for (Index i = 0; i < of.row_size; ++i) {
        auto const x = static_cast<double>(of.row(a)[i]), y = static_cast<double>(of.row(b)[i]);
        ab += x * y, aa += x * x, bb += y * y;
      }
    }
    return aa > 0 && bb > 0 ? ab / std::sqrt(aa * bb) : 0;
  }

 private:
  std::vector<Rows> tensors_;
};

}  // namespace detail

/// The model with the experts of `kept`, each the mean of itself and of those removed ones that are nearest to it, weighted by
/// what `routers` say of their use (frequency). Throws Error as prune() does, and for routers with rows of removed experts.
template <class M>
Operated<Resizable<M>> merge(M const& model, ExpertMap const& kept, std::vector<RouterSummary> const& routers) {
  using A = typename M::Accumulator;
  Config const& config = model.config();
  expects(config.attention.removed.largest() == 0 && config.feed_forward.removed.largest() == 0,
          "merge: expected routers without rows of removed experts, prune them away first");
  auto result = prune(model, kept);
  auto const ranked = detail::rank_experts(model, routers, ExpertUse::frequency);
  std::vector<bool> const by_expert = detail::segments_by_expert(model);
  typename M::BackendType backend(1);
  std::vector<A> mean;
  for (std::size_t r = 0; r < ranked.size(); ++r) {
    bool const attention = r % 2 == 0;
    Index const layer = static_cast<Index>(r / 2), shared = ranked[r].shared;
    auto const& stay = (attention ? kept.attention : kept.feed_forward)[r / 2];
    detail::ExpertTensors<M> const tensors(model, by_expert, layer, attention);
    // Of each that stays, those that it becomes the mean of, with their use.
    std::vector<std::vector<detail::RankedExperts::Expert>> groups(stay.size());
    for (auto const& expert : ranked[r].experts) {
      auto into = static_cast<std::size_t>(std::find(stay.begin(), stay.end(), expert.number) - stay.begin());
      if (into == stay.size()) {
        double best = -2;
        for (auto k = static_cast<std::size_t>(shared); k < stay.size(); ++k)
          if (double const near = tensors.cosine(expert.number, stay[k]); near > best) best = near, into = k;
      }
      groups[into].push_back(expert);
    }
    for (std::size_t k = 0; k < stay.size(); ++k) {
      if (groups[k].size() < 2) continue;
      double total = 0;
      for (auto const& e : groups[k]) total += e.use;
      for (auto const& of : tensors.all()) {
        mean.assign(static_cast<std::size_t>(of.row_size), A(0));
        for (Index i = 0; i < of.row_size; ++i) {
          double sum = 0;
          for (auto const& e : groups[k])
            sum += (total > 0 ? e.use / total : 1 / static_cast<double>(groups[k].size())) *
                   static_cast<double>(of.row(e.number - (of.is_router ? shared : 0))[i]);
          mean[static_cast<std::size_t>(i)] = static_cast<A>(sum);
        }
        std::size_t const to = result.model.table().find(model.table()[of.segment].name);
        Index const row = static_cast<Index>(k) - (of.is_router ? shared : 0);
        from_host(backend, static_cast<A const*>(mean.data()),
                  result.model.writable(to).rows(row * of.row_size, of.row_size));
      }
    }
  }
  result.model.refresh(backend);
  return result;
}

}  // namespace moduleformer
