// SPDX-License-Identifier: MIT
#pragma once
// TensorView<T, Rank>: a pointer and extents, row-major and contiguous. It owns nothing, is
// trivially copyable, and is passed by value (to kernels too).

#include <moduleformer/core/platform.hpp>
#include <moduleformer/core/types.hpp>

#include <array>
#include <type_traits>

namespace moduleformer {

template <class T, int Rank>
class TensorView {
 public:
  using Element = T;
  using Extents = std::array<Index, static_cast<std::size_t>(Rank)>;

  constexpr TensorView() = default;
  constexpr TensorView(T* data, Extents extents) : data_(data), extents_(extents) {}

  /// A view of mutable elements is also a view of constant ones.
  template <class Mutable>
    requires(std::is_const_v<T> && std::is_same_v<Mutable const, T> && !std::is_same_v<Mutable, T>)
  constexpr TensorView(TensorView<Mutable, Rank> other) : data_(other.data()), extents_(other.extents()) {}

  [[nodiscard]] constexpr T* data() const { return data_; }
  [[nodiscard]] constexpr Index extent(int dimension) const {
    return extents_[static_cast<std::size_t>(dimension)];
  }
  [[nodiscard]] constexpr Extents const& extents() const { return extents_; }
  [[nodiscard]] constexpr Index size() const {
    Index product = 1;
    for (Index const extent : extents_) product *= extent;
    return product;
  }
  [[nodiscard]] constexpr explicit operator bool() const { return data_ != nullptr; }

  /// The element at the given indices, one per dimension.
  template <class... Indices>
  [[nodiscard]] constexpr T& operator()(Indices... indices) const {
    static_assert(sizeof...(Indices) == Rank, "moduleformer: one index per dimension");
    Index offset = 0;
    int dimension = 0;
    ((offset = offset * extent(dimension++) + static_cast<Index>(indices)), ...);
    return data_[offset];
  }
  [[nodiscard]] constexpr T& operator[](Index i) const { return data_[i]; }

  /// The i-th slice along the first dimension.
  [[nodiscard]] constexpr TensorView<T, Rank - 1> slice(Index i) const
    requires(Rank > 1)
  {
    typename TensorView<T, Rank - 1>::Extents rest{};
    Index step = 1;
    for (int k = 1; k < Rank; ++k) {
      rest[static_cast<std::size_t>(k - 1)] = extent(k);
      step *= extent(k);
    }
    return {data_ + i * step, rest};
  }

  /// Rows [begin, begin + count) of the first dimension.
  [[nodiscard]] constexpr TensorView rows(Index begin, Index count) const {
    Extents part = extents_;
    part[0] = count;
    Index step = 1;
    for (int k = 1; k < Rank; ++k) step *= extent(k);
    return {data_ + begin * step, part};
  }

  /// The same elements under other extents; the product must not change.
  template <class... Sizes>
  [[nodiscard]] constexpr auto reshape(Sizes... sizes) const {
    return TensorView<T, static_cast<int>(sizeof...(Sizes))>{data_, {static_cast<Index>(sizes)...}};
  }

  [[nodiscard]] constexpr T* begin() const { return data_; }
  [[nodiscard]] constexpr T* end() const { return data_ + size(); }

 private:
  T* data_ = nullptr;
  Extents extents_{};
};

template <class T>
using Vector = TensorView<T, 1>;
template <class T>
using Matrix = TensorView<T, 2>;

static_assert(std::is_trivially_copyable_v<TensorView<float, 3>>);

}  // namespace moduleformer
