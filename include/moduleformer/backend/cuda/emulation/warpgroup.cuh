// SPDX-License-Identifier: MIT
#pragma once
// ProductQueue: a thread's matrix products of its warpgroup (wgmma.m64nNk16) that have not been waited for. They are
// executed as late as the contract allows, at the wait for their group, on what then lies in shared memory; until then
// the sums are NaN. Each warp executes its 16 rows of the 64.

#include <moduleformer/core/types.hpp>

#include <algorithm>
#include <bit>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <limits>
#include <vector>

namespace moduleformer::emulation {

/// An operand in shared memory: GpuWarpgroup::SharedMatrix.
struct SharedMatrix {
  void const* place;
  int panel_bytes;

  /// Element (mn, k): mn counts rows of A or columns of B. Its address has the bits of its chunk of 16 bytes combined
  /// with those of its row of 128 bytes.
  [[nodiscard]] float at(int mn, int k, int major) const {
    auto address = reinterpret_cast<std::uintptr_t>(place) +
                   static_cast<std::uintptr_t>(major == 0 ? 128 * mn + 2 * k
                                                          : mn / 64 * panel_bytes + 128 * k + mn % 64 * 2);
    address ^= (address >> 7 & 7) << 4;
    std::uint16_t bits;
    std::memcpy(&bits, reinterpret_cast<void const*>(address), sizeof bits);
    return std::bit_cast<float>(static_cast<std::uint32_t>(bits) << 16);
  }
};

class ProductQueue {
 public:
  struct Product {
    float* sums;
    int columns;
    SharedMatrix a, b;
    int major_a, major_b;
    bool add;  // to the sums, or else set them
    bool has_rows;  // a is what the lanes have in registers
    std::uint32_t rows[4];
  };

  void issue(Product const& product) {
    products_.push_back({product, groups_, {}});
    hide_sums();
  }
  void commit() { ++groups_; }
  void clear() {
    products_.clear();
    groups_ = 0;
  }

  /// What a warp's lanes bring to a wait.
  struct Wait {
    ProductQueue* queue;
    int warp;
    int newest;
  };
  /// Executes all groups but the newest ones of the warp's queues.
  static void run(void* const* lanes) {
    auto const wait = [&](std::size_t lane) { return *static_cast<Wait const*>(lanes[lane]); };
    Index const still_running = wait(0).queue->groups_ - wait(0).newest;
    auto const& first = wait(0).queue->products_;
    std::size_t done = 0;
    while (done < first.size() && first[done].group < still_running) {
      Product const& product = first[done].product;
      std::vector<float> b(static_cast<std::size_t>(16 * product.columns));
      float a[16][16];
      int const row = wait(0).warp % 4 * 16;
      for (int k = 0; k < 16; ++k) {
        for (int r = 0; r < 16; ++r) a[r][k] = product.has_rows ? 0.0f : product.a.at(row + r, k, product.major_a);
        for (int c = 0; c < product.columns; ++c)
          b[static_cast<std::size_t>(16 * c + k)] = product.b.at(c, k, product.major_b);
      }
      for (std::size_t lane = 0; lane < 32 && product.has_rows; ++lane)
        if (done < wait(lane).queue->products_.size())
          put_rows(wait(lane).queue->products_[done].product.rows, static_cast<int>(lane), a);
      for (std::size_t lane = 0; lane < 32; ++lane) wait(lane).queue->execute(done, static_cast<int>(lane), a, b.data());
      ++done;
    }
    for (std::size_t lane = 0; lane < 32; ++lane) {
      auto& products = wait(lane).queue->products_;
      products.erase(products.begin(), products.begin() + static_cast<std::ptrdiff_t>(std::min(done, products.size())));
      wait(lane).queue->hide_sums();
    }
  }

 private:
  struct Pending {
    Product product;
    Index group;
    std::vector<float> before;  // the sums that the first product of theirs adds to
  };

  /// The sums that products under way add to are kept aside.
  void hide_sums() {
    for (std::size_t i = 0; i < products_.size(); ++i) {
      Pending& pending = products_[i];
      auto const same = [&](Pending const& other) { return other.product.sums == pending.product.sums; };
      if (!pending.before.empty() || std::any_of(products_.begin(), products_.begin() + static_cast<std::ptrdiff_t>(i), same))
        continue;
      float* const sums = pending.product.sums;
      pending.before.assign(sums, sums + pending.product.columns / 2);
      std::fill_n(sums, pending.product.columns / 2, std::numeric_limits<float>::quiet_NaN());
    }
  }

  /// A lane's words of a fragment of 16 x 16.
  static void put_rows(std::uint32_t const (&words)[4], int lane, float (&a)[16][16]) {
    for (int i = 0; i < 8; ++i) {
      std::uint32_t const bits = i % 2 == 0 ? words[i / 2] << 16 : words[i / 2] & 0xffff0000u;
      a[lane / 4 + 8 * (i / 2 % 2)][2 * (lane % 4) + 8 * (i / 4) + i % 2] = std::bit_cast<float>(bits);
    }
  }

  void execute(std::size_t number, int lane, float const (&a)[16][16], float const* b) {
    if (number >= products_.size()) return;  // lanes that issued less than others: their sums stay NaN
    Pending& pending = products_[number];
    float* const sums = pending.product.sums;
    std::copy(pending.before.begin(), pending.before.end(), sums);
    if (!pending.product.add) std::fill_n(sums, pending.product.columns / 2, 0.0f);
    for (int i = 0; i < pending.product.columns / 2; ++i) {
      int const row = lane / 4 + i / 2 % 2 * 8, column = i / 4 * 8 + lane % 4 * 2 + i % 2;
      for (int k = 0; k < 16; ++k) sums[i] += a[row][k] * b[16 * column + k];
    }
  }

  std::vector<Pending> products_;  // the oldest first
  Index groups_ = 0;               // committed so far
};

}  // namespace moduleformer::emulation
