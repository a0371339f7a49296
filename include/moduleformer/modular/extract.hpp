// SPDX-License-Identifier: MIT
#pragma once
// One expert apart from its model: its two matrices and its row of the router. It is a state, which io/ writes to a small file
// and reads back (write_state_file, read_state), and fits models of the same sizes, activation and kind of router:
//
//   auto const expert = mf::extract_expert(model, {.layer = 1}, 7);
//   auto [other, rows] = mf::insert_expert(copy, {.layer = 1}, 7, expert);   // becomes expert 7, those from 7 on move up

#include <moduleformer/modular/freeze.hpp>

#include <algorithm>
#include <cstddef>
#include <string>
#include <string_view>
#include <type_traits>
#include <utility>
#include <vector>

namespace moduleformer {

/// S: the scalar of the model's parameters. Values in host memory.
template <class S>
struct ExpertParameters {
  static constexpr std::string_view file_stem = "expert";
  struct Tensor {
    std::string name;  // behind the layer's: "experts.weight", "gate.w_gate.3.weight"
    std::vector<Index> shape{};
    std::vector<S> values{};
  };
  std::string kind{};  // "attention" or "feed-forward"
  std::string sizes{}; // of its tensors; before them the activation, if it has one
  std::vector<Tensor> tensors{};

  template <class Self, class Visitor>
  static void visit(Self& self, Visitor&& visit) {
    std::string const kind = self.kind, sizes = self.sizes;
    visit("kind", self.kind);
    expects(self.kind == kind, "expert: expected one of ", kind, ", found one of ", self.kind);
    visit("sizes", self.sizes);
    expects(self.sizes == sizes, "expert: expected ", sizes, ", found ", self.sizes);
    for (auto& tensor : self.tensors) visit(tensor.name, Vector<Element<Self>>{tensor.values.data(), {static_cast<Index>(tensor.values.size())}});
  }

 private:
  template <class Self>
  using Element = std::conditional_t<std::is_const_v<Self>, S const, S>;
};

namespace detail {

/// Calls f(segment, name behind the layer's, row of the tensor) for the tensors with a row for an expert.
template <class M, class F>
void for_expert_rows(M const& model, ExpertLayer which, Index expert, F const& f) {
  Config const& config = model.config();
  expects(which.layer >= 0 && which.layer < config.layers, "expert: expected a layer below ", config.layers, ", found ", which.layer);
  SharedCounts const shared = model.transformer().shared_experts();
  Index const first = which.attention ? shared.attention : shared.feed_forward;
  std::vector<bool> const by_expert = segments_by_expert(model);
  for (std::size_t i = 0; i < by_expert.size(); ++i) {
    std::string const& name = model.table()[i].name;
    auto const tensor = ExpertTensor::parse(name);
    if (!by_expert[i] || tensor.layer != which.layer || tensor.is_attention != which.attention) continue;
    std::string_view const layer = which.attention ? ".q_proj." : ".mlpf.";
    f(i, name.substr(name.find(layer) + layer.size()), expert - (tensor.is_router ? first : 0));
  }
}

template <class M>
void check_expert(M const& model, ExpertLayer which, Index expert, Index count, Index shared) {
  expects(model.config().attention.removed.largest() == 0 && model.config().feed_forward.removed.largest() == 0,
          "expert: expected routers without rows of removed experts, prune them away first");
  expects(expert >= shared && expert < count, "expert: layer ", which.layer, ", ", which.attention ? "attention" : "feed-forward",
          ": expected a routed expert from ", shared, " to ", count - 1, ", found ", expert);
}

/// An expert of these sizes, its values zero.
template <class M>
ExpertParameters<typename M::Accumulator> empty_expert(M const& model, ExpertLayer which) {
  ExpertParameters<typename M::Accumulator> result;
  result.kind = which.attention ? "attention" : "feed-forward";
  if (!which.attention) result.sizes = "activation " + std::string(policy_name(model.policies().activation));
  for_expert_rows(model, which, 0, [&](std::size_t i, std::string const& name, Index) {
    auto const& s = model.table()[i];
    std::vector<Index> const shape(s.shape.begin() + 1, s.shape.end());
    result.sizes += (result.sizes.empty() ? "" : ", ") + name;
    for (Index const extent : shape) result.sizes += " " + std::to_string(extent);
    result.tensors.push_back({name, shape, std::vector<typename M::Accumulator>(static_cast<std::size_t>(s.row_size()))});
  });
  return result;
}

}  // namespace detail

/// Throws Error for an expert that is not there, or that serves every token.
template <class M>
ExpertParameters<typename M::Accumulator> extract_expert(M const& model, ExpertLayer which, Index expert) {
  auto result = detail::empty_expert(model, which);
  SharedCounts const shared = model.transformer().shared_experts();
  auto const& counts = which.attention ? model.config().attention.experts : model.config().feed_forward.experts;
  detail::check_expert(model, which, expert, counts[which.layer], which.attention ? shared.attention : shared.feed_forward);
  typename M::BackendType backend(1);
  std::size_t next = 0;
  detail::for_expert_rows(model, which, expert, [&](std::size_t i, std::string const&, Index row) {
    Index const size = model.table()[i].row_size();
    to_host(backend, model.values(i).rows(row * size, size), result.tensors[next++].values.data());
  });
  return result;
}

/// The model with this expert as number `index` of the layer, those from there on one further; it takes part. Throws Error for
/// an expert of other sizes, kind or activation, an index beyond the routed experts, and where experts are dormant.
template <class M>
Operated<Resizable<M>> insert_expert(M const& model, ExpertLayer which, Index index,
                                     ExpertParameters<typename M::Accumulator> const& expert) {
  Config const& config = model.config();
  auto const expected = detail::empty_expert(model, which);
  expects(expert.kind == expected.kind, "insert expert: expected one of ", expected.kind, ", found one of ", expert.kind);
  expects(expert.sizes == expected.sizes, "insert expert: expected ", expected.sizes, ", found ", expert.sizes);
  auto const& kind_dormant = which.attention ? config.attention.dormant : config.feed_forward.dormant;
  expects(kind_dormant[which.layer] == 0, "insert expert: expected no dormant experts in layer ", which.layer, ", found ",
          kind_dormant[which.layer]);
  SharedCounts const shared = model.transformer().shared_experts();
  ExpertMap map = ExpertMap::of(config);
  auto& list = (which.attention ? map.attention : map.feed_forward)[static_cast<std::size_t>(which.layer)];
  detail::check_expert(model, which, index, static_cast<Index>(list.size()) + 1, which.attention ? shared.attention : shared.feed_forward);
  list.insert(list.begin() + index, new_expert);
  auto result = with_experts(model, map, {.dormant_attention = config.attention.dormant, .dormant_feed_forward = config.feed_forward.dormant});
  typename M::BackendType backend(1);
  std::size_t next = 0;
  detail::for_expert_rows(result.model, which, index, [&](std::size_t i, std::string const&, Index row) {
    Index const size = result.model.table()[i].row_size();
    from_host(backend, expert.tensors[next++].values.data(), result.model.writable(i).rows(row * size, size));
  });
  result.model.refresh(backend);
  return result;
}

}  // namespace moduleformer
