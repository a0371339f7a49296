// SPDX-License-Identifier: MIT
#pragma once
// One tensor in a mapped file: name, type, shape, place. Elements are converted when read.

#include <moduleformer/core/error.hpp>
#include <moduleformer/core/types.hpp>
#include <moduleformer/io/mapped_file.hpp>
#include <moduleformer/io/storage_conversion.hpp>

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstring>
#include <functional>
#include <limits>
#include <map>
#include <memory>
#include <optional>
#include <span>
#include <sstream>
#include <string>
#include <string_view>
#include <vector>

namespace moduleformer {

/// An element type of the file format. Types without a StorageType may stand in a file (in published
/// ones the attention's mask is I8) but are not read.
struct DataType {
  std::string_view name;
  Index bytes;  // of one element
  std::optional<StorageType> type;
};

inline constexpr std::array<DataType, 19> data_types{{
    {"F64", 8, StorageType::f64},
    {"F32", 4, StorageType::f32},
    {"F16", 2, StorageType::f16},
    {"BF16", 2, StorageType::bf16},
    {"I64", 8, StorageType::i64},
    {"I32", 4, StorageType::i32},
    {"U8", 1, StorageType::u8},
    {"BOOL", 1, StorageType::u8},
    {"I8", 1, {}},
    {"I16", 2, {}},
    {"U16", 2, {}},
    {"U32", 4, {}},
    {"U64", 8, {}},
    {"C64", 8, {}},
    {"F8_E4M3", 1, {}},
    {"F8_E5M2", 1, {}},
    {"F8_E8M0", 1, {}},
    {"F8_E4M3FNUZ", 1, {}},
    {"F8_E5M2FNUZ", 1, {}},
}};

/// The format's name of a storage type.
constexpr std::string_view data_type_name(StorageType type) {
  for (auto const& candidate : data_types) {
    if (candidate.type == type) return candidate.name;
  }
  return {};
}

/// A name from a file, fit for a message: quoted, shortened, without control characters.
inline std::string quoted_name(std::string_view name) {
  constexpr std::size_t limit = 160;
  std::string text{'\''};  // appended to: g++ 12 warns of what it takes for an overlap in "'" + string
  text.append(name.substr(0, limit)).append(name.size() > limit ? "...'" : "'");
  std::replace_if(
      text.begin(), text.end(), [](char c) { return static_cast<unsigned char>(c) < 0x20; }, '?');
  return text;
}

/// A shape as "(2, 3)".
inline std::string shape_text(std::span<Index const> shape) {
  std::ostringstream text;
  text << '(';
  for (std::size_t k = 0; k < shape.size(); ++k) text << (k == 0 ? "" : ", ") << shape[k];
  text << ')';
  return text.str();
}

/// A handle on one tensor; keeps the file mapped.
struct StoredTensor {
  std::string name;
  DataType data_type{};
  std::vector<Index> shape;  // no number for a scalar
  Index size = 0;            // elements
  Index begin = 0;           // first byte, counted from the file's start; any alignment
  Index end = 0;             // one past the last byte
  std::shared_ptr<MappedFile const> file;

  /// The first byte in memory.
  [[nodiscard]] std::byte const* data() const { return file->data() + begin; }
  /// File, tensor and byte, to begin a message with.
  [[nodiscard]] std::string where() const;
  /// Throws FormatError unless the shape is the expected one.
  void expect_shape(std::span<Index const> expected) const;
  /// Converts all elements: F64, F32, F16, BF16 to float or double; I64, I32, U8, BOOL to std::int32_t
  /// or std::int64_t. Throws FormatError for other types, and for an integer that does not fit.
  template <class T>
  void read(std::span<T> destination) const;
  /// The same, into a vector.
  template <class T>
  [[nodiscard]] std::vector<T> read() const {
    std::vector<T> values(static_cast<std::size_t>(size));
    read(std::span<T>{values});
    return values;
  }
};

/// Tensors by name.
using TensorTable = std::map<std::string, StoredTensor, std::less<>>;

inline std::string StoredTensor::where() const {
  std::ostringstream text;
  text << file->path() << ": tensor " << quoted_name(name) << " at byte " << begin;
  return text.str();
}

inline void StoredTensor::expect_shape(std::span<Index const> expected) const {
  if (std::ranges::equal(shape, expected)) return;
  fail<FormatError>(where(), ": expected shape ", shape_text(expected), ", found ", shape_text(shape));
}

namespace detail {

/// The first element outside To's range, or count.
template <class To, class From>
Index first_unfit(std::byte const* source, Index count) {
  if constexpr (sizeof(From) <= sizeof(To)) {
    return count;
  } else {
    for (Index i = 0; i < count; ++i) {
      From element;
      std::memcpy(&element, source + i * static_cast<Index>(sizeof(From)), sizeof(From));
      if (element < std::numeric_limits<To>::min() || element > std::numeric_limits<To>::max()) return i;
    }
    return count;
  }
}

}  // namespace detail

template <class T>
void StoredTensor::read(std::span<T> destination) const {
  static_assert(Real<T> || (StoredInteger<T> && sizeof(T) > 1),
                "moduleformer: tensors are read as float, double, std::int32_t or std::int64_t");
  constexpr std::string_view wanted = Real<T> ? "a tensor of F64, F32, F16 or BF16" : "a tensor of I64, I32 or U8";
  expects(destination.size() == static_cast<std::size_t>(size), where(), ": has ", size, " elements, read into ",
          destination.size());
  auto const unreadable = [&] { fail<FormatError>(where(), ": expected ", wanted, ", found ", data_type.name); };
  if (!data_type.type) unreadable();
  with_storage_type(*data_type.type, [&]<class Stored>() {
    if constexpr (!is_convertible_element<T, Stored>) {
      unreadable();
    } else {
      if constexpr (StoredInteger<T>) {
        Index const bad = detail::first_unfit<T, Stored>(data(), size);
        if (bad != size) {
          fail<FormatError>(where(), ": the integer at byte ", begin + bad * data_type.bytes, " does not fit into ",
                            8 * sizeof(T), " bits");
        }
      }
      convert_elements<T, Stored>(data(), reinterpret_cast<std::byte*>(destination.data()), size);
    }
  });
}

}  // namespace moduleformer
