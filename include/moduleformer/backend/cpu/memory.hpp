// SPDX-License-Identifier: MIT
#pragma once
// Moving values: the CPU backend's memory is the host's, so these are copies that are complete on return.

#include <moduleformer/backend/cpu/cpu.hpp>
#include <moduleformer/backend/cpu/parallel.hpp>
#include <moduleformer/core/error.hpp>

#include <algorithm>

namespace moduleformer {

/// x = value.
template <Real S>
void fill(Cpu<S>& backend, Arg<Vector<S>> x, Arg<S> value) {
  detail::parallel_blocks(backend, x.size(), 4 * detail::elementwise_block,
                          [&](Index begin, Index end) { std::fill(x.data() + begin, x.data() + end, value); });
}

/// y = x, which do not overlap.
template <Real S, class T>
void copy(Cpu<S>& backend, Arg<Vector<T const>> x, Vector<T> y) {
  expects(x.size() == y.size(), "copy: expected ", x.size(), " elements, found ", y.size());
  detail::parallel_blocks(backend, x.size(), 4 * detail::elementwise_block, [&](Index begin, Index end) {
    std::copy(x.data() + begin, x.data() + end, y.data() + begin);
  });
}

/// y = x: both scalars of this backend are one type.
template <Real S>
void convert(Cpu<S>& backend, Arg<Vector<S const>> x, Arg<Vector<S>> y) {
  copy(backend, x, y);
}

/// host[i] = x[i].
template <Real S, class T>
void to_host(Cpu<S>&, Arg<Vector<T const>> x, T* host) {
  std::copy(x.begin(), x.end(), host);
}

/// x[i] = host[i].
template <Real S, class T>
void from_host(Cpu<S>&, T const* host, Arg<Vector<T>> x) {
  std::copy(host, host + x.size(), x.data());
}

/// f(), which may read the backend's memory.
template <Real S, class F>
void invoke(Cpu<S>&, F&& f) {
  f();
}

/// f(i) for each i < count, which may read the backend's memory and must not depend on another's work.
template <Real S, class F>
void invoke_each(Cpu<S>& backend, Index count, F const& f) {
  detail::parallel_blocks(backend, count, detail::elementwise_block, [&](Index begin, Index end) {
    for (Index i = begin; i < end; ++i) f(i);
  });
}

}  // namespace moduleformer
