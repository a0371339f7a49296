// SPDX-License-Identifier: MIT
#pragma once
// Host arrays with views, reproducible normal numbers and a comparison for tests of primitives.

#include <moduleformer/core/random.hpp>
#include <moduleformer/core/tensor_view.hpp>

#include <algorithm>
#include <array>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <vector>

namespace moduleformer::test {

/// An owned array of zeros and its view.
template <class T, int Rank>
class Array {
 public:
  Array() = default;
  template <class... Sizes>
  explicit Array(Index first, Sizes... rest) : extents_{first, static_cast<Index>(rest)...} {
    static_assert(sizeof...(Sizes) + 1 == Rank);
    values_.resize(static_cast<std::size_t>(view().size()));
  }
  [[nodiscard]] TensorView<T, Rank> view() { return {values_.data(), extents_}; }
  [[nodiscard]] TensorView<T const, Rank> view() const { return {values_.data(), extents_}; }
  [[nodiscard]] std::vector<T>& values() { return values_; }
  [[nodiscard]] std::vector<T> const& values() const { return values_; }
  template <class... Indices>
  T& operator()(Indices... indices) {
    return view()(indices...);
  }
  template <class... Indices>
  T const& operator()(Indices... indices) const {
    return view()(indices...);
  }

 private:
  typename TensorView<T, Rank>::Extents extents_{};
  std::vector<T> values_;
};

/// Fills with normal numbers (Box and Muller) of a given mean and deviation.
template <class T>
void fill_normal(std::vector<T>& values, std::uint64_t seed, double deviation = 1, double mean = 0) {
  for (std::size_t i = 0; i < values.size(); ++i) {
    auto const words = random_words({seed}, i);
    double const radius = std::sqrt(-2 * std::log(static_cast<double>(to_unit(words[0]))));
    double const angle = 2 * 3.14159265358979324 * static_cast<double>(to_unit(words[1]));
    values[i] = static_cast<T>(mean + deviation * radius * std::cos(angle));
  }
}

/// The largest difference relative to the largest expected magnitude; NaN or sizes that differ give infinity.
template <class A, class B>
double relative_error(std::vector<A> const& found, std::vector<B> const& expected) {
  if (found.size() != expected.size()) return std::numeric_limits<double>::infinity();
  double difference = 0, largest = 0;
  for (std::size_t i = 0; i < found.size(); ++i) {
    double const error = std::abs(static_cast<double>(found[i]) - static_cast<double>(expected[i]));
    if (!(error < std::numeric_limits<double>::infinity())) return std::numeric_limits<double>::infinity();
    difference = std::max(difference, error);
    largest = std::max(largest, std::abs(static_cast<double>(expected[i])));
  }
  return largest > 0 ? difference / largest : difference;
}

}  // namespace moduleformer::test
