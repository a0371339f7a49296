// SPDX-License-Identifier: MIT
#pragma once
// The tensors of a checkpoint against the table of a model: everything is compared before anything is
// allocated. Then values stay in the mapped file where they can be used as they lie, or are converted.

#include <moduleformer/core/error.hpp>
#include <moduleformer/io/config_json.hpp>
#include <moduleformer/io/tensor_source.hpp>
#include <moduleformer/nn/parameter_storage.hpp>
#include <moduleformer/nn/parameters.hpp>

#include <cstdint>
#include <memory>
#include <set>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace moduleformer {

/// Buffers that published checkpoints carry beside the parameters.
inline bool is_published_buffer(std::string_view name) {
  return name.starts_with("transformer.h.") && (name.ends_with(".attn.mask") || name.ends_with(".attn.cum_weight"));
}

namespace detail {

/// "a, b and 3 more", each quoted.
inline std::string name_list(std::vector<std::string> const& names) {
  constexpr std::size_t shown = 6;
  std::string text;
  for (std::size_t i = 0; i < names.size() && i < shown; ++i) text += (i == 0 ? "" : ", ") + quoted_name(names[i]);
  return names.size() > shown ? text + " and " + std::to_string(names.size() - shown) + " more" : text;
}

}  // namespace detail

/// Throws FormatError if the file has fewer layers than the config says, so that no table is made for them.
inline void expect_layers(TensorSource const& source, Index layers) {
  for (Index i = 0; i < layers; ++i) {
    std::string const prefix = "transformer.h." + std::to_string(i) + ".";
    auto const place = source.tensors().lower_bound(prefix);
    if (place == source.tensors().end() || !place->first.starts_with(prefix))
      fail<FormatError>(source.path(), ": n_layer is ", layers, " in config.json, but no tensor begins with ", quoted_name(prefix));
  }
}

/// Throws FormatError listing missing tensors; naming the first of another shape, or no real numbers; and,
/// unless they are allowed, listing tensors that the model has not.
inline void expect_tensors(TensorSource const& source, ParameterTable const& table, bool allow_extra) {
  std::vector<std::string> missing, extra;
  std::set<std::string_view> known;
  for (Segment const& segment : table.segments()) {
    known.insert(segment.name);
    if (source.find(segment.name) == nullptr) missing.push_back(segment.name);
  }
  for (auto const& [name, tensor] : source.tensors())
    if (!known.contains(name) && !is_published_buffer(name)) extra.push_back(name);
  if (!missing.empty()) {
    Segment const& first = table[table.find(missing.front())];
    fail<FormatError>(source.path(), ": missing tensors: ", detail::name_list(missing),
                      " (the first has shape ", shape_text(first.shape), ")",
                      extra.empty() ? "" : "; not known: " + detail::name_list(extra));
  }
  for (Segment const& segment : table.segments()) {
    StoredTensor const& tensor = *source.find(segment.name);
    tensor.expect_shape(segment.shape);
    auto const type = tensor.data_type.type;
    if (type != StorageType::f64 && type != StorageType::f32 && type != StorageType::f16 && type != StorageType::bf16)
      fail<FormatError>(tensor.where(), ": expected F64, F32, F16 or BF16, found ", tensor.data_type.name);
  }
  if (!allow_extra && !extra.empty())
    fail<FormatError>(source.path(), ": tensors that the model does not have: ", detail::name_list(extra));
}

/// Whether the tensors have the head of a classifier; says so by architecture, for messages.
inline std::string_view architecture_of(TensorSource const& source) {
  bool const scores = source.find("score.weight") != nullptr, predicts = source.find("lm_head.weight") != nullptr;
  if (scores == predicts)
    fail<FormatError>(source.path(), ": expected lm_head.weight of a language model or score.weight of a classifier, found ",
                      scores ? "both" : "neither");
  return scores ? StoredConfig::classifier : StoredConfig::language_model;
}

/// Completes what config.json left open: the architecture and the number of labels. Throws FormatError
/// where they contradict the tensors.
inline void complete_config(StoredConfig& stored, TensorSource const& source) {
  auto const found = architecture_of(source);
  if (stored.architecture.empty()) stored.architecture = found;
  if (stored.architecture != found)
    fail<FormatError>(stored.file, ": architectures says ", stored.architecture, ", but ", source.path(), " has the head of ", found);
  if (!stored.classifies()) {
    stored.config.labels = 0;
    return;
  }
  StoredTensor const& score = source.at("score.weight");
  Index const rows = score.shape.empty() ? 0 : score.shape.front();
  if (stored.config.labels == 0) stored.config.labels = rows;
  if (stored.config.labels != rows)
    fail<FormatError>(stored.file, ": num_labels or id2label says ", stored.config.labels, " labels, but ", score.where(), " has ",
                      rows, " rows");
  if (rows < 2)
    fail<FormatError>(stored.file, ": num_labels: expected at least 2 (one label is regression, which is not offered), found ", rows);
}

/// The values of a checked checkpoint. Where `map` allows it, tensors of the model's own type that are
/// aligned stay in their files; the storage keeps these mapped.
template <Backend B>
ParameterStorage<B> read_parameters(TensorSource const& source, ParameterTable const& table, bool map) {
  using A = typename B::Accumulator;
  constexpr bool can_map = requires { requires B::Memory::is_host_memory; };
  std::vector<A const*> places(table.count(), nullptr);
  auto files = std::make_shared<std::set<std::shared_ptr<MappedFile const>>>();
  for (std::size_t i = 0; can_map && map && i < table.count(); ++i) {
    StoredTensor const& tensor = source.at(table[i].name);
    auto const address = reinterpret_cast<std::uintptr_t>(tensor.data());
    if (tensor.data_type.type != storage_type_of<A> || address % alignof(A) != 0) continue;
    places[i] = reinterpret_cast<A const*>(tensor.data());
    files->insert(tensor.file);
  }
  ParameterStorage<B> storage(table, places, files->empty() ? nullptr : files);
  B backend(1);
  std::vector<A> staged;
  for (std::size_t i = 0; i < table.count(); ++i) {
    if (places[i] != nullptr) continue;
    StoredTensor const& tensor = source.at(table[i].name);
    auto const size = static_cast<std::size_t>(tensor.size);
    A* const place = storage.writable(table, i);
    if constexpr (can_map) {
      tensor.read(std::span<A>{place, size});
    } else {
      staged.resize(size);
      tensor.read(std::span<A>{staged});
      from_host(backend, static_cast<A const*>(staged.data()), Vector<A>{place, {tensor.size}});
    }
  }
  return storage;
}

}  // namespace moduleformer
