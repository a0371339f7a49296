// SPDX-License-Identifier: MIT
#pragma once
// Runs of elements between their stored and their computing type. Both sides may have any alignment
// (a tensor in a file starts where it starts), so elements go through memcpy, which compilers turn
// into vector loads. Narrowing rounds to nearest, ties to even, once.

#include <moduleformer/core/error.hpp>
#include <moduleformer/core/platform.hpp>
#include <moduleformer/core/types.hpp>

#include <bit>
#include <concepts>
#include <cstddef>
#include <cstdint>
#include <cstring>

namespace moduleformer {

static_assert(std::endian::native == std::endian::little, "moduleformer: stored tensors are little-endian");

template <class T>
concept StoredReal = Real<T> || std::same_as<T, float16> || std::same_as<T, bfloat16>;
template <class T>
concept StoredInteger = std::same_as<T, std::int64_t> || std::same_as<T, std::int32_t> || std::same_as<T, std::uint8_t>;

/// Calls function.template operator()<T>() with the C++ type of the storage type.
template <class Function>
constexpr decltype(auto) with_storage_type(StorageType type, Function&& function) {
  switch (type) {
    case StorageType::f64: return function.template operator()<double>();
    case StorageType::f32: return function.template operator()<float>();
    case StorageType::f16: return function.template operator()<float16>();
    case StorageType::bf16: return function.template operator()<bfloat16>();
    case StorageType::i64: return function.template operator()<std::int64_t>();
    case StorageType::i32: return function.template operator()<std::int32_t>();
    case StorageType::u8: return function.template operator()<std::uint8_t>();
  }
  fail<Error>("not a storage type: ", static_cast<int>(type));
}

/// What convert_element can do: equal types; between real numbers all but rounding to float16; between
/// integers all (values that do not fit must have been refused before).
template <class To, class From>
inline constexpr bool is_convertible_element =
    std::same_as<To, From> || (StoredReal<To> && StoredReal<From> && !std::same_as<To, float16>) ||
    (StoredInteger<To> && StoredInteger<From>);

/// The float between zero and value that is nearest to it, with the last bit set if it is not equal.
/// Rounding that to fewer bits rounds the double correctly; rounding a rounded float would not.
constexpr float round_to_odd(double value) {
  auto const nearest = static_cast<float>(value);
  auto const back = static_cast<double>(nearest);
  auto const bits = std::bit_cast<std::uint32_t>(nearest);
  unsigned const is_beyond = ((value < 0) & (back < value)) | ((value > 0) & (back > value));
  unsigned const is_rounded = back != value;
  return std::bit_cast<float>((bits - is_beyond) | is_rounded);
}

template <class To, class From>
  requires is_convertible_element<To, From>
constexpr To convert_element(From value) {
  if constexpr (std::same_as<To, From>) {
    return value;
  } else if constexpr (StoredReal<From> && !Real<From>) {
    return convert_element<To>(static_cast<float>(value));
  } else if constexpr (std::same_as<To, bfloat16>) {
    if constexpr (std::same_as<From, double>) return bfloat16(round_to_odd(value));
    else return bfloat16(value);
  } else {
    return static_cast<To>(value);
  }
}

/// Converts count elements; the runs must not overlap.
template <class To, class From>
void convert_elements(std::byte const* MODULEFORMER_RESTRICT source, std::byte* MODULEFORMER_RESTRICT destination,
                      Index count) {
  if constexpr (std::same_as<To, From>) {
    if (count > 0) std::memcpy(destination, source, static_cast<std::size_t>(count) * sizeof(To));
  } else {
    for (Index i = 0; i < count; ++i) {
      From element;
      std::memcpy(&element, source + i * static_cast<Index>(sizeof(From)), sizeof(From));
      To const converted = convert_element<To>(element);
      std::memcpy(destination + i * static_cast<Index>(sizeof(To)), &converted, sizeof(To));
    }
  }
}

}  // namespace moduleformer
