// SPDX-License-Identifier: MIT
#pragma once
// Writes a safetensors file in one pass and bounded memory: elements are converted into a buffer of
// 1 MiB. The header is padded with spaces to 8 bytes and tensors lie by falling element size (else in
// the given order), so that each is aligned to its element.

#include <moduleformer/core/error.hpp>
#include <moduleformer/core/types.hpp>
#include <moduleformer/io/output_file.hpp>
#include <moduleformer/io/safetensors_header.hpp>
#include <moduleformer/io/storage_conversion.hpp>
#include <moduleformer/io/stored_tensor.hpp>

#include <nlohmann/json.hpp>

#include <algorithm>
#include <array>
#include <bit>
#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <functional>
#include <limits>
#include <set>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace moduleformer {

/// A tensor to be written.
struct OutputTensor {
  std::string name;
  StorageType type;          // in the file
  std::vector<Index> shape;  // no number for a scalar
  /// Stores the elements from number `first` on, as many as fit the bytes exactly. Called in order.
  std::function<void(Index first, std::span<std::byte> bytes)> store;

  /// Throws Error for a negative or overflowing shape.
  [[nodiscard]] Index size() const;
  [[nodiscard]] Index bytes() const { return size() * storage_size(type); }
};

/// A tensor of elements in memory, which must stay until it is written. F32 and BF16 are rounded to
/// nearest even from float or double; integers widen; every type is also written as it is.
template <class T>
OutputTensor output_tensor(std::string name, StorageType type, std::vector<Index> shape, T const* data);

/// Writes the file and flushes it to the disk. Throws Error naming file, byte and the system's reason;
/// also for two tensors of one name or text that is not UTF-8.
void write_safetensors(std::filesystem::path const& path, std::span<OutputTensor const> tensors,
                       Metadata const& metadata = {});

inline Index OutputTensor::size() const {
  Index elements = 1;
  Index const limit = std::numeric_limits<Index>::max() / storage_size(type);
  for (Index const extent : shape) {
    expects(extent >= 0 && (extent == 0 || elements <= limit / extent), "tensor ", quoted_name(name), " of shape ",
            shape_text(shape), " cannot be written: negative or too large");
    elements *= extent;
  }
  return elements;
}

template <class T>
OutputTensor output_tensor(std::string name, StorageType type, std::vector<Index> shape, T const* data) {
  auto store = with_storage_type(type, [&]<class Stored>() -> decltype(OutputTensor::store) {
    if constexpr (!is_convertible_element<Stored, T> || (StoredInteger<T> && sizeof(Stored) < sizeof(T))) {
      fail<Error>("tensor ", quoted_name(name), ": ", data_type_name(storage_type_of<T>), " cannot be written as ",
                  data_type_name(type));
    } else {
      return [data](Index first, std::span<std::byte> bytes) {
        convert_elements<Stored, T>(reinterpret_cast<std::byte const*>(data + first), bytes.data(),
                                    static_cast<Index>(bytes.size() / sizeof(Stored)));
      };
    }
  });
  return {std::move(name), type, std::move(shape), std::move(store)};
}

namespace detail {

/// A string as JSON.
inline std::string json_string(std::string_view text) {
  try {
    return nlohmann::json(text).dump();
  } catch (nlohmann::json::exception const&) {
    fail<Error>("not UTF-8, cannot be written: ", quoted_name(text));
  }
}

/// The first 8 bytes and the JSON, padded.
inline std::string safetensors_prefix(std::span<OutputTensor const* const> tensors, Metadata const& metadata) {
  std::string json = "{";
  if (!metadata.empty()) {
    json += "\"__metadata__\":{";
    for (auto const& [key, value] : metadata) json += json_string(key) + ':' + json_string(value) + ',';
    json.back() = '}';
    json += ',';
  }
  Index begin = 0;
  for (auto const* tensor : tensors) {
    json += json_string(tensor->name) + ":{\"dtype\":\"";
    json += data_type_name(tensor->type);
    json += "\",\"shape\":[";
    for (std::size_t k = 0; k < tensor->shape.size(); ++k)
      (json += k == 0 ? "" : ",") += std::to_string(tensor->shape[k]);
    Index const end = begin + tensor->bytes();
    json += "],\"data_offsets\":[" + std::to_string(begin) + ',' + std::to_string(end) + "]},";
    begin = end;
  }
  if (json.size() > 1) json.pop_back();
  json += '}';
  json.resize((json.size() + 7) / 8 * 8, ' ');
  expects(json.size() <= static_cast<std::size_t>(max_safetensors_header), "a header of ", json.size(),
          " bytes is more than readers accept");
  auto const length = std::bit_cast<std::array<char, 8>>(static_cast<std::uint64_t>(json.size()));
  return std::string{length.data(), length.size()} + json;
}

}  // namespace detail

inline void write_safetensors(std::filesystem::path const& path, std::span<OutputTensor const> tensors,
                              Metadata const& metadata) {
  std::set<std::string_view> names{"__metadata__"};
  std::vector<OutputTensor const*> order;
  for (auto const& tensor : tensors) {
    expects(names.insert(tensor.name).second, path, ": the tensor name ", quoted_name(tensor.name), " is taken");
    order.push_back(&tensor);
  }
  std::ranges::stable_sort(order, std::greater<>{}, [](auto const* tensor) { return storage_size(tensor->type); });

  OutputFile file{path};
  file.write(detail::safetensors_prefix(order, metadata));
  std::vector<std::byte> buffer(std::size_t{1} << 20);
  std::size_t used = 0;
  auto const flush = [&] {
    file.write(std::span{buffer.data(), used});
    used = 0;
  };
  for (auto const* tensor : order) {
    auto const element = static_cast<std::size_t>(storage_size(tensor->type));
    Index const size = tensor->size();
    for (Index first = 0; first < size;) {
      // Falling element sizes: what is free in the buffer is a multiple of the element.
      std::size_t const bytes = std::min(buffer.size() - used, static_cast<std::size_t>(size - first) * element);
      tensor->store(first, std::span{buffer.data() + used, bytes});
      used += bytes;
      first += static_cast<Index>(bytes / element);
      if (used == buffer.size()) flush();
    }
  }
  flush();
  file.close();
}

}  // namespace moduleformer
