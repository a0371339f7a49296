// SPDX-License-Identifier: MIT
#pragma once
// A RouteRecord as a safetensors file. Metadata: "format" and "routers", a JSON array of {"name", "experts"}, and
// {"shared"} where there are shared experts, in the order of the record. For each router <name>.experts (N,S), U8 with 255 for an empty slot or, from 256 experts on, I32
// with -1; and <name>.gates (N,S) F32. For each of the batches `batches.tokens` and `batches.text` (its hash), I64.

#include <moduleformer/core/error.hpp>
#include <moduleformer/io/file_commit.hpp>
#include <moduleformer/io/json_object.hpp>
#include <moduleformer/io/safetensors.hpp>
#include <moduleformer/io/safetensors_writer.hpp>
#include <moduleformer/model/route_record.hpp>

#include <nlohmann/json.hpp>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace moduleformer {

/// Writes the file, replacing an older one as a whole. Throws Error, with the old file as it was; also for an empty
/// record.
void save_routes(RouteRecord const& record, std::filesystem::path const& file);

/// Reads and checks the whole file. Throws FormatError naming file and tensor, router or batch.
[[nodiscard]] RouteRecord load_routes(std::filesystem::path const& file);

namespace detail {

inline constexpr std::string_view route_format = "moduleformer-routes-1";
inline constexpr std::uint8_t empty_slot_byte = 255;

/// The smallest type for ids below `experts` and one number more.
constexpr StorageType expert_type(Index experts) {
  return experts <= empty_slot_byte ? StorageType::u8 : StorageType::i32;
}

inline OutputTensor output_experts(RecordedRouter const& router, std::vector<Index> shape) {
  std::string name = router.size.name + ".experts";
  auto const* const ids = router.experts.data();
  if (expert_type(router.size.experts) == StorageType::i32)
    return output_tensor(std::move(name), StorageType::i32, std::move(shape), ids);
  auto store = [ids](Index first, std::span<std::byte> bytes) {
    std::transform(ids + first, ids + first + static_cast<Index>(bytes.size()), bytes.begin(),
                   [](ExpertId id) { return static_cast<std::byte>(id == empty_slot ? empty_slot_byte : id); });
  };
  return {std::move(name), StorageType::u8, std::move(shape), store};
}

/// Throws FormatError unless the tensor has these type and shape.
inline StoredTensor const& expect_tensor(SafetensorsFile const& file, std::string const& name, StorageType type,
                                         std::vector<Index> const& shape) {
  StoredTensor const& tensor = file.at(name);
  if (tensor.data_type.type != type)
    fail<FormatError>(tensor.where(), ": expected ", data_type_name(type), ", found ", tensor.data_type.name);
  tensor.expect_shape(shape);
  return tensor;
}

inline std::vector<RecordedBatch> read_batches(SafetensorsFile const& file) {
  StoredTensor const& tokens = file.at("batches.tokens");
  auto const& text = expect_tensor(file, "batches.text", StorageType::i64, {tokens.size});
  std::vector<RecordedBatch> batches;
  auto const hashes = text.read<std::int64_t>();
  Index first = 0;
  for (Index const n : expect_tensor(file, "batches.tokens", StorageType::i64, {tokens.size}).read<std::int64_t>()) {
    constexpr Index most = Index{1} << 31;  // tokens of a batch
    if (n <= 0 || n >= most)
      fail<FormatError>(tokens.where(), ": batch ", batches.size(), ": expected 1 to ", most - 1, " tokens, found ", n);
    batches.push_back({first, n, static_cast<std::uint64_t>(hashes[batches.size()])});
    first += n;
  }
  return batches;
}

inline RecordedRouter read_router(SafetensorsFile const& file, nlohmann::json const& described, Index tokens) {
  JsonObject object(described, file.path(), "routers.");
  RecordedRouter router{{.name = object.text("name"), .experts = object.integer("experts"),
                          .shared = object.integer("shared", 0)}};
  StoredTensor const& stored = file.at(router.size.name + ".experts");
  router.size.slots = stored.shape.size() == 2 ? stored.shape[1] : 0;
  std::vector<Index> const shape{tokens, router.size.slots};
  router.experts = expect_tensor(file, stored.name, expert_type(router.size.experts), shape).read<ExpertId>();
  if (stored.data_type.type == StorageType::u8)
    std::ranges::replace(router.experts, ExpertId{empty_slot_byte}, empty_slot);
  router.gates = expect_tensor(file, router.size.name + ".gates", StorageType::f32, shape).read<float>();
  return router;
}

}  // namespace detail

inline void save_routes(RouteRecord const& record, std::filesystem::path const& file) {
  expects(record.size() > 0, file, ": expected a record of routes of at least one batch");
  record.check();
  std::vector<OutputTensor> tensors;
  auto routers = nlohmann::json::array();
  for (RecordedRouter const& router : record.routers) {
    auto& described = routers.emplace_back(nlohmann::json{{"name", router.size.name}, {"experts", router.size.experts}});
    if (router.size.shared > 0) described["shared"] = router.size.shared;
    std::vector<Index> const shape{record.tokens(), router.size.slots};
    tensors.push_back(detail::output_experts(router, shape));
    tensors.push_back(output_tensor(router.size.name + ".gates", StorageType::f32, shape, router.gates.data()));
  }
  std::vector<std::int64_t> tokens, text;
  for (RecordedBatch const& batch : record.batches) {
    tokens.push_back(batch.tokens);
    text.push_back(static_cast<std::int64_t>(batch.text));
  }
  tensors.push_back(output_tensor("batches.tokens", StorageType::i64, {record.size()}, tokens.data()));
  tensors.push_back(output_tensor("batches.text", StorageType::i64, {record.size()}, text.data()));
  // A name that is not UTF-8 is refused when it is written as a tensor's.
  std::string const described = routers.dump(-1, ' ', false, nlohmann::json::error_handler_t::replace);
  FileCommit commit{file};
  write_safetensors(commit.temporary(), tensors,
                    {{"format", std::string(detail::route_format)}, {"routers", described}});
  commit.finish();
}

inline RouteRecord load_routes(std::filesystem::path const& path) {
  SafetensorsFile const file{path};
  if (file.metadata("format") != detail::route_format)
    fail<FormatError>(path, ": expected a record of routes, metadata key 'format' ", detail::route_format, ", found ",
                      quoted_name(file.metadata("format")));
  auto const routers = nlohmann::json::parse(file.metadata("routers"), nullptr, false);
  if (!routers.is_array() || routers.empty())
    fail<FormatError>(path, ": expected an array of routers as metadata key 'routers'");
  RouteRecord record{.batches = detail::read_batches(file)};
  for (auto const& described : routers) record.routers.push_back(detail::read_router(file, described, record.tokens()));
  if (file.tensors().size() != 2 * record.routers.size() + 2)
    fail<FormatError>(path, ": expected ", 2 * record.routers.size() + 2, " tensors for ", record.routers.size(),
                      " routers, found ", file.tensors().size());
  try {
    record.check();
  } catch (Error const& error) {
    fail<FormatError>(path, ": ", error.what());
  }
  return record;
}

}  // namespace moduleformer
