// SPDX-License-Identifier: MIT
#pragma once
// What a warp's matrix instructions do, on the registers of its 32 lanes: ldmatrix and mma.m16n8k16 (PTX ISA,
// section 9.7.13). A product here is exact and is added to c in float, one after another in ascending k; a
// tensor core adds a few products at once, with other rounding, so only sums that are exact agree bit by bit.

#include <array>
#include <bit>
#include <cstddef>
#include <cstdint>
#include <cstring>

namespace moduleformer::emulation {

struct MatrixLoad {
  std::uint32_t* words;      // (4)
  std::uint16_t const* row;  // (8)
};

/// Lane l gets of matrix i elements (l/4, 2(l%4)) and (l/4, 2(l%4)+1), or those of its transpose.
template <bool Transposed>
void load_matrices(void* const* lanes) {
  std::array<std::uint16_t, 8> rows[32];
  for (std::size_t lane = 0; lane < 32; ++lane)
    std::memcpy(rows[lane].data(), static_cast<MatrixLoad const*>(lanes[lane])->row, 16);
  for (std::size_t lane = 0; lane < 32; ++lane)
    for (std::size_t matrix = 0; matrix < 4; ++matrix) {
      std::uint32_t word = 0;
      for (std::size_t half = 0; half < 2; ++half) {
        std::size_t const a = lane / 4, b = 2 * (lane % 4) + half;
        std::uint32_t const element = Transposed ? rows[8 * matrix + b][a] : rows[8 * matrix + a][b];
        word |= element << (16 * half);
      }
      static_cast<MatrixLoad const*>(lanes[lane])->words[matrix] = word;
    }
}

struct Product {
  float* c;                // (4)
  std::uint32_t const* a;  // (4)
  std::uint32_t const* b;  // (2)
};

/// c (16,8) += a (16,16) b (16,8); where each element lies: GpuThread::multiply_add.
inline void multiply_add(void* const* lanes) {
  float a[16][16], b[16][8], c[16][8];
  auto const element = [](std::uint32_t word, std::size_t half) {
    return std::bit_cast<float>(half == 0 ? word << 16 : word & 0xffff0000u);
  };
  for (std::size_t lane = 0; lane < 32; ++lane) {
    auto const& mine = *static_cast<Product const*>(lanes[lane]);
    std::size_t const g = lane / 4, t = lane % 4;
    for (std::size_t half = 0; half < 2; ++half) {
      for (std::size_t i = 0; i < 4; ++i) a[g + 8 * (i % 2)][2 * t + 8 * (i / 2) + half] = element(mine.a[i], half);
      for (std::size_t i = 0; i < 2; ++i) b[2 * t + 8 * i + half][g] = element(mine.b[i], half);
    }
    for (std::size_t i = 0; i < 4; ++i) c[g + 8 * (i / 2)][2 * t + i % 2] = mine.c[i];
  }
  for (std::size_t row = 0; row < 16; ++row)
    for (std::size_t k = 0; k < 16; ++k)
      for (std::size_t column = 0; column < 8; ++column) c[row][column] += a[row][k] * b[k][column];
  for (std::size_t lane = 0; lane < 32; ++lane)
    for (std::size_t i = 0; i < 4; ++i)
      static_cast<Product const*>(lanes[lane])->c[i] = c[lane / 4 + 8 * (i / 2)][2 * (lane % 4) + i % 2];
}

}  // namespace moduleformer::emulation
