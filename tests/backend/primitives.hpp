// SPDX-License-Identifier: MIT
#pragma once
// For tests of primitives: random arrays, plain double references, and running a primitive on one and on
// three threads with a workspace full of NaN, which must give the same bits.

#include "support.hpp"

#include <moduleformer/backend/cpu/cpu.hpp>

#include <boost/test/unit_test.hpp>

#include <cstring>
#include <limits>
#include <vector>

namespace moduleformer::test {

/// Rounding errors that sums of a few hundred terms may show, relative to the largest element.
template <class S>
inline constexpr double tolerance = std::is_same_v<S, float> ? 3e-6 : 1e-14;

template <class S, class... Sizes>
auto random_array(std::uint64_t seed, Sizes... sizes) {
  Array<S, static_cast<int>(sizeof...(Sizes))> array(static_cast<Index>(sizes)...);
  fill_normal(array.values(), seed);
  return array;
}

/// Fills fresh scratch with NaN, so that reading what was never written shows.
template <class S>
void poison(Cpu<S>& backend) {
  Scope const scope{backend.workspace()};
  for (double& x : backend.workspace().template allocate<double>(Index{1} << 20))
    x = std::numeric_limits<double>::quiet_NaN();
}

/// f(backend) -> std::vector<S> on one thread; checks that three give the same bits.
template <class S, class F>
std::vector<S> run(F const& f) {
  Cpu<S> one{1}, three{3};
  poison(one);
  poison(three);
  std::vector<S> const first = f(one), second = f(three);
  BOOST_TEST(first.size() == second.size());
  BOOST_TEST(std::memcmp(first.data(), second.data(), first.size() * sizeof(S)) == 0, "one and three threads differ");
  return first;
}

/// op(a) op(b) in double, a and b as stored.
template <class A, class B>
std::vector<double> product(A const& a, bool transpose_a, B const& b, bool transpose_b) {
  auto const x = a.view();
  auto const y = b.view();
  Index const m = x.extent(transpose_a ? 1 : 0), k = x.extent(transpose_a ? 0 : 1), n = y.extent(transpose_b ? 0 : 1);
  std::vector<double> result(static_cast<std::size_t>(m * n));
  for (Index i = 0; i < m; ++i)
    for (Index j = 0; j < n; ++j) {
      double sum = 0;
      for (Index l = 0; l < k; ++l)
        sum +=
            static_cast<double>(transpose_a ? x(l, i) : x(i, l)) * static_cast<double>(transpose_b ? y(j, l) : y(l, j));
      result[static_cast<std::size_t>(i * n + j)] = sum;
    }
  return result;
}

}  // namespace moduleformer::test
