// SPDX-License-Identifier: MIT
#pragma once
// Checkpoints: a folder of the Hugging Face layout (config.json, model.safetensors or its shards), saved
// whole or not at all, with any states (a trainer's) beside the weights. Every file carries one save id.

#include <moduleformer/io/config_policies.hpp>
#include <moduleformer/io/folder_commit.hpp>
#include <moduleformer/io/save_id.hpp>
#include <moduleformer/io/stored_model.hpp>
#include <moduleformer/io/visited_state.hpp>
#include <moduleformer/model/model.hpp>

#include <algorithm>
#include <array>
#include <filesystem>
#include <span>
#include <string>
#include <string_view>
#include <system_error>
#include <utility>
#include <vector>

namespace moduleformer {

struct SaveOptions {
  /// Of the weights: f32 or bf16 (rounded), or f64. Beside a state they keep the model's own precision, so
  /// that a resumed run goes on with the same bits.
  StorageType storage = StorageType::f32;
  /// Larger models are split into shards of at most so many bytes of data.
  Index max_shard_bytes = 5'000'000'000;
  /// Folder whose config.json gives keys that are no business of ours (block_size, id2label, ...); the one
  /// that is replaced if empty.
  std::filesystem::path config_from{};
};

struct LoadOptions {
  /// Leave weights of the model's own type in the mapped files: loading costs nothing, processes share the
  /// memory, the model cannot be changed. False: a copy in owned memory, as training needs.
  bool map = true;
  /// Accept tensors that the model does not have.
  bool allow_extra_tensors = false;
};

/// What config.json of a folder says, completed by the names of the tensors: to decide which model type to
/// load. Throws as load does.
inline StoredConfig describe_folder(std::filesystem::path const& folder) {
  auto const place = resolve_folder(folder);
  StoredConfig stored = read_config(place / "config.json");
  complete_config(stored, TensorSource{place});
  return stored;
}

/// Writes the folder, replacing an older one as a whole; files in it that no save wrote are carried over.
/// Each state goes to <stem>.safetensors (visited_state.hpp). Throws Error, with the old folder as it was.
///
///     mf::save(model, "my-model");
///     mf::save(model, "my-run", {}, trainer);
template <class Model, Visitable... States>
void save(Model const& model, std::filesystem::path const& folder, SaveOptions const& options = {}, States const&... states);

/// Reads a folder that save() or the published code wrote: `auto model = mf::load<Model>("my-model")`.
/// If the folder is missing since a save was interrupted, its predecessor <folder>.old is read.
/// Throws FormatError, naming file and key or tensor, for a bad folder; Error for a good one of another type.
template <class Model>
[[nodiscard]] Model load(std::filesystem::path const& folder, LoadOptions options = {});

/// Whether a state of this type was saved beside the folder's model.
template <Visitable State>
[[nodiscard]] bool has_state(std::filesystem::path const& folder);

/// Fills a state saved beside the model. Throws Error if the folder has none, FormatError if it belongs to
/// other weights or another type of state.
template <class Model, Visitable State>
void load_state(std::filesystem::path const& folder, Model const& model, State& state);

namespace detail {

/// Files at the top of a folder that an earlier save wrote and this one must not carry over.
inline bool is_own_file(std::filesystem::path const& folder, std::string_view name) {
  if (is_tensor_file(name, "model")) return true;
  if (!name.ends_with(".safetensors") || name.find('/') != std::string_view::npos) return false;
  try {
    return !SafetensorsFile{folder / name}.metadata(save_id_key).empty();
  } catch (Error const&) {
    return false;
  }
}

/// Keys of config.json that are not ours; none where there is no readable one.
inline nlohmann::json other_keys(std::filesystem::path const& folder) {
  std::error_code code;
  auto const file = folder / "config.json";
  if (!std::filesystem::exists(file, code)) return nlohmann::json::object();
  try {
    return read_config(file).others;
  } catch (Error const&) {
    return nlohmann::json::object();
  }
}

/// The weights, brought to the host chunk by chunk.
template <class Model>
std::vector<OutputTensor> output_parameters(Model const& model, StorageType type) {
  using A = typename Model::Accumulator;
  using B = typename Model::BackendType;
  auto const backend = std::make_shared<B>(1);
  std::vector<OutputTensor> tensors;
  for (std::size_t i = 0; i < model.table().count(); ++i) {
    Vector<A const> const values = model.values(i);
    auto store = [backend, values, type](Index first, std::span<std::byte> bytes) {
      std::vector<A> host(bytes.size() / static_cast<std::size_t>(storage_size(type)));
      auto const count = static_cast<Index>(host.size());
      to_host(*backend, values.rows(first, count), host.data());
      output_tensor<A>({}, type, {count}, host.data()).store(0, bytes);
    };
    tensors.push_back({model.table()[i].name, type, model.table()[i].shape, std::move(store)});
  }
  return tensors;
}

inline std::string_view torch_name(StorageType type) {
  return type == StorageType::f64 ? "float64" : type == StorageType::bf16 ? "bfloat16" : "float32";
}

}  // namespace detail

template <class Model, Visitable... States>
void save(Model const& model, std::filesystem::path const& folder, SaveOptions const& options, States const&... states) {
  StorageType const type = sizeof...(States) > 0 ? storage_type_of<typename Model::Accumulator> : options.storage;
  expects(type == StorageType::f32 || type == StorageType::bf16 || type == StorageType::f64, "save ", folder,
          ": weights are written as f32, bf16 or f64, found ", data_type_name(type));
  if constexpr (sizeof...(States) > 1) {
    std::array<std::string_view, sizeof...(States)> stems{state_file_stem<States>()...};
    std::ranges::sort(stems);
    expects(std::ranges::adjacent_find(stems) == stems.end(), "save ", folder, ": two states have one file_stem");
  }

  std::filesystem::path replaced;
  FolderCommit commit{folder, {.drops = [&replaced](std::string_view name) { return detail::is_own_file(replaced, name); }}};
  replaced = commit.target();
  StoredConfig stored{.config = model.config(),
                      .settings = model.settings(),
                      .policies = store_policies(model.policies()),
                      .architecture = std::string(Model::HeadType::architecture),
                      .save_id = make_save_id(),
                      .others = detail::other_keys(options.config_from.empty() ? replaced : options.config_from)};
  Metadata const metadata{{"format", "pt"}, {std::string(save_id_key), stored.save_id}};
  write_tensors(commit.folder(), "model", detail::output_parameters(model, type), metadata, options.max_shard_bytes);
  write_file(commit.path("config.json"), config_text(stored, detail::torch_name(type)));
  (write_state(commit.folder(), states, metadata), ...);
  commit.finish();
}

template <class Model>
Model load(std::filesystem::path const& folder, LoadOptions options) {
  using B = typename Model::BackendType;
  auto const place = resolve_folder(folder);
  StoredConfig stored = read_config(place / "config.json");
  TensorSource const source{place};
  SaveIdCheck ids;
  ids.see(stored.file, stored.save_id);
  ids.see(source.path(), source.save_id());
  complete_config(stored, source);
  expects(stored.architecture == Model::HeadType::architecture, place, " holds a ", stored.architecture,
          ", the model's type is a ", Model::HeadType::architecture);
  auto policies = choose_policies<typename Model::PoliciesType>(stored);
  Config const config = expect_shape<Model::static_shape>(stored);
  expect_layers(source, config.layers);
  ParameterTable table;
  detail::check_for_file(stored.file, [&] { table = Model::declare(config, stored.settings, policies); });
  expect_tensors(source, table, options.allow_extra_tensors);
  return Model(config, stored.settings, std::move(policies), read_parameters<B>(source, table, options.map));
}

namespace detail {

template <Visitable State>
std::filesystem::path state_file(std::filesystem::path const& folder) {
  return folder / (std::string(state_file_stem<State>()) + ".safetensors");
}

}  // namespace detail

template <Visitable State>
bool has_state(std::filesystem::path const& folder) {
  std::error_code code;
  return std::filesystem::exists(detail::state_file<State>(resolve_folder(folder)), code);
}

template <class Model, Visitable State>
void load_state(std::filesystem::path const& folder, Model const& model, State& state) {
  auto const place = resolve_folder(folder);
  auto const path = detail::state_file<State>(place);
  std::error_code code;
  expects(std::filesystem::exists(path, code), place, " has no ", path.filename(), ": no state was saved beside this model");
  SafetensorsFile const file{path};
  TensorSource const source{place};
  SaveIdCheck ids;
  StoredConfig const stored = read_config(place / "config.json");
  ids.see(stored.file, stored.save_id);
  ids.see(source.path(), source.save_id());
  ids.see(path, file.metadata(save_id_key));
  // The state continues the weights of this folder: a model of other tensors is somebody's mistake.
  expect_tensors(source, model.table(), true);
  read_state(file, state);
}

}  // namespace moduleformer
