// SPDX-License-Identifier: MIT
#pragma once
// For tests of the CUDA backend: host arrays to a backend's memory and back, values as its scalar holds them, and
// running a computation in every order of threads that the platform can be asked for. No Eigen, no CPU backend.
// A suite is a header of templates over `Backends`; emulated.hpp or device.hpp, included before it, says which.

#include "../support.hpp"

#include <moduleformer/backend/buffer.hpp>
#include <moduleformer/backend/cuda/emulation/options.cuh>
#include <moduleformer/backend/cuda/memory.cuh>
#include <moduleformer/core/random.hpp>

#include <boost/test/unit_test.hpp>

#include <cstddef>
#include <cstring>
#include <initializer_list>
#include <string>
#include <type_traits>
#include <utility>
#include <vector>

namespace moduleformer::test {

/// A number as type T holds it, and back.
template <class T, class X>
T number(X x) {
  if constexpr (std::is_same_v<T, X>) return x;
  else if constexpr (std::is_same_v<T, bfloat16>) return bfloat16(static_cast<float>(x));
  else if constexpr (std::is_same_v<X, bfloat16>) return static_cast<T>(static_cast<float>(x));
  else return static_cast<T>(x);
}

template <class T, class X>
std::vector<T> numbers(std::vector<X> const& values) {
  std::vector<T> result;
  result.reserve(values.size());
  for (X const& x : values) result.push_back(number<T>(x));
  return result;
}

/// Normal numbers that S holds exactly.
template <class S>
std::vector<double> normal_numbers(Index count, std::uint64_t seed, double deviation = 1, double mean = 0) {
  std::vector<double> values(static_cast<std::size_t>(count));
  fill_normal(values, seed, deviation, mean);
  for (double& x : values) x = number<double>(number<S>(x));
  return values;
}

/// A backend and the arrays that a test keeps in its memory.
template <class B>
class Device {
 public:
  [[nodiscard]] B& backend() { return backend_; }

  /// Elements that nobody wrote: NaN under emulation.
  template <class T, class... Sizes>
  auto allocate(Sizes... sizes) {
    TensorView<T, static_cast<int>(sizeof...(Sizes))> view{nullptr, {static_cast<Index>(sizes)...}};
    arrays_.emplace_back(view.size() * static_cast<Index>(sizeof(T)));
    return TensorView<T, static_cast<int>(sizeof...(Sizes))>{reinterpret_cast<T*>(arrays_.back().data()),
                                                             view.extents()};
  }

  /// A copy of host values as type T (theirs, if none is named) under these extents (a vector, if there are none).
  template <class T = void, class X, class... Sizes>
  auto upload(std::vector<X> const& host, Sizes... sizes) {
    using Element = std::conditional_t<std::is_void_v<T>, X, T>;
    if constexpr (sizeof...(Sizes) == 0) {
      return upload<Element>(host, host.size());
    } else {
      auto const view = allocate<Element>(sizes...);
      BOOST_REQUIRE(view.size() == static_cast<Index>(host.size()));
      auto const values = numbers<Element>(host);
      from_host(backend_, values.data(), view.reshape(view.size()));
      return view;
    }
  }
  template <class T, int Rank>
  auto upload(Array<T, Rank> const& host) {
    auto const flat = upload(host.values());
    return TensorView<T, Rank>{flat.data(), host.view().extents()};
  }

  /// The elements as the host's values of type Out (their own, if none is named).
  template <class Out = void, class T, int Rank>
  auto download(TensorView<T, Rank> view) {
    using Element = std::remove_const_t<T>;
    std::vector<Element> values(static_cast<std::size_t>(view.size()));
    to_host(backend_, view.reshape(view.size()), values.data());
    return numbers<std::conditional_t<std::is_void_v<Out>, Element, Out>>(values);
  }

 private:
  B backend_;
  std::vector<Buffer<std::byte, typename B::Memory>> arrays_;
};

template <class T>
bool same_bits(std::vector<T> const& a, std::vector<T> const& b) {
  return a.size() == b.size() && (a.empty() || std::memcmp(a.data(), b.data(), a.size() * sizeof(T)) == 0);
}

/// Puts the emulation's options back where a test ends.
class RestoredOptions {
 public:
  RestoredOptions() : kept_(emulation_options()) {}
  RestoredOptions(RestoredOptions const&) = delete;
  RestoredOptions& operator=(RestoredOptions const&) = delete;
  ~RestoredOptions() { emulation_options() = kept_; }
  [[nodiscard]] emulation::Options const& kept() const { return kept_; }

 private:
  emulation::Options kept_;
};

/// compute(Device<B>&) -> std::vector<T>, on a fresh device for each order of threads and blocks, which must all give
/// the same bits. On a GPU, which has an order of its own, it runs twice.
template <class B, class F>
auto in_all_orders(F const& compute) {
  RestoredOptions const restored;
  auto const once = [&](emulation::Order order, int workers) {
    emulation_options() = restored.kept();
    emulation_options().order = order;
    emulation_options().workers = workers;
    Device<B> device;
    return compute(device);
  };
  auto const first = once(emulation::Order::forward, 1);
  BOOST_TEST(same_bits(first, once(emulation::Order::reverse, 1)), "forward and reverse order differ");
  if constexpr (requires(B& b) { b.stream().launches(); })
    BOOST_TEST(same_bits(first, once(emulation::Order::shuffled, 2)), "forward and shuffled order differ");
  return first;
}

/// check() on emulated devices with and without products of warpgroups, the latter with so much shared memory for a block;
/// a GPU is what it is.
template <class B, class F>
void on_devices_of(std::initializer_list<int> shared_kib, F const& check) {
  if constexpr (!requires(B& b) { b.stream().launches(); }) return check();
  RestoredOptions const restored;
  check();
  emulation_options().warpgroups = false;
  for (int const kib : shared_kib) {
    emulation_options().shared_limit = static_cast<std::size_t>(kib) << 10;
    check();
  }
}
/// check() with every engine of large products: 8.6, 8.9 and 12.x have the least shared memory.
template <class B, class F>
void with_every_product_engine(F const& check) {
  on_devices_of<B>({99}, check);
}
/// check() with every engine of attention: that of 8.0 takes more shared memory.
template <class B, class F>
void with_every_attention_engine(F const& check) {
  on_devices_of<B>({163, 99}, check);
}

/// The largest error that a tensor of scalar S may show relative to its largest element, for sums of moderate length.
template <class S>
inline constexpr double bound = std::is_same_v<S, float> ? 2e-5 : 1e-2;

}  // namespace moduleformer::test
