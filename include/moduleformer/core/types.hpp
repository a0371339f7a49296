// SPDX-License-Identifier: MIT
#pragma once
// Index and token types, the storage types of tensors, and the letters used in comments:
// B batch, T queries, S keys, N = B*T tokens, D hidden size, E experts, K top-k, H heads,
// A attention hidden size, d = A/H head size, F expert width, R router hidden size, L layers,
// V vocabulary, P = N*K slots (one per token and chosen expert, slot = token*K + s).

#include <bit>
#include <concepts>
#include <cstdint>
#include <string_view>

namespace moduleformer {

using Index = std::int64_t;
using TokenId = std::int32_t;

/// Labels with this value are not counted in a loss.
inline constexpr TokenId ignore_label = -100;

/// Scalars the CPU computes in.
template <class T>
concept Real = std::same_as<T, float> || std::same_as<T, double>;

/// The upper half of a float: 8 exponent bits, 7 mantissa bits. Storage only.
struct bfloat16 {
  std::uint16_t bits = 0;

  constexpr bfloat16() = default;
  /// Rounds to nearest, ties to even; NaN stays NaN.
  constexpr explicit bfloat16(float value) {
    auto const word = std::bit_cast<std::uint32_t>(value);
    bool const is_nan = (word & 0x7fffffffu) > 0x7f800000u;
    bits = is_nan ? static_cast<std::uint16_t>((word >> 16) | 0x40u)
                  : static_cast<std::uint16_t>((word + 0x7fffu + ((word >> 16) & 1u)) >> 16);
  }
  constexpr explicit operator float() const {
    return std::bit_cast<float>(static_cast<std::uint32_t>(bits) << 16);
  }
};

/// IEEE binary16. Storage only.
struct float16 {
  std::uint16_t bits = 0;

  /// Without branches, so that loops over it become vector code.
  constexpr explicit operator float() const {
    std::uint32_t const sign = static_cast<std::uint32_t>(bits & 0x8000u) << 16;
    std::uint32_t const magnitude = bits & 0x7fffu;
    std::uint32_t const is_special = magnitude >= 0x7c00u ? 1u : 0u;  // infinity or NaN: the exponent becomes 255
    std::uint32_t const normal = (magnitude << 13) + ((112u + is_special * 112u) << 23);
    // 0.5 + magnitude * 2^-24 is magnitude in the last bits of 0.5; for normal numbers the result is not used.
    std::uint32_t const subnormal = std::bit_cast<std::uint32_t>(std::bit_cast<float>(0x3f000000u | magnitude) - 0.5f);
    std::uint32_t const is_subnormal = magnitude < 0x400u ? ~0u : 0u;
    return std::bit_cast<float>(sign | (subnormal & is_subnormal) | (normal & ~is_subnormal));
  }
};

/// How a tensor's elements are stored in a file.
enum class StorageType { f64, f32, f16, bf16, i64, i32, u8 };

/// Bytes of one element.
constexpr Index storage_size(StorageType type) {
  switch (type) {
    case StorageType::f64:
    case StorageType::i64: return 8;
    case StorageType::f32:
    case StorageType::i32: return 4;
    case StorageType::f16:
    case StorageType::bf16: return 2;
    case StorageType::u8: return 1;
  }
  return 0;
}

/// The storage type of a C++ type.
template <class T>
inline constexpr StorageType storage_type_of = [] {
  if constexpr (std::same_as<T, double>) return StorageType::f64;
  else if constexpr (std::same_as<T, float>) return StorageType::f32;
  else if constexpr (std::same_as<T, float16>) return StorageType::f16;
  else if constexpr (std::same_as<T, bfloat16>) return StorageType::bf16;
  else if constexpr (std::same_as<T, std::int64_t>) return StorageType::i64;
  else if constexpr (std::same_as<T, std::int32_t>) return StorageType::i32;
  else {
    static_assert(std::same_as<T, std::uint8_t>, "moduleformer: this type cannot be stored in a tensor");
    return StorageType::u8;
  }
}();

}  // namespace moduleformer
