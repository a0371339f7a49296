// SPDX-License-Identifier: MIT
#pragma once
// Kernels of backend/cuda/memory.cuh: x = value, y = x in another scalar, f() by one thread, f(i) by many.

#include <moduleformer/core/platform.hpp>
#include <moduleformer/core/tensor_view.hpp>

namespace moduleformer::kernels {

/// x = value.
template <class T>
struct Fill {
  static constexpr int threads = 256;
  Vector<T> x;
  T value;

  template <class Thread>
  MODULEFORMER_DEVICE void operator()(Thread const& thread) const {
    for (Index i = thread.block() * threads + thread.index(); i < x.size(); i += thread.blocks() * threads)
      x[i] = value;
  }
};

/// y = x, rounded to y's scalar.
template <class From, class To>
struct Convert {
  static constexpr int threads = 256;
  Vector<From const> x;
  Vector<To> y;

  template <class Thread>
  MODULEFORMER_DEVICE void operator()(Thread const& thread) const {
    for (Index i = thread.block() * threads + thread.index(); i < x.size(); i += thread.blocks() * threads)
      y[i] = static_cast<To>(static_cast<float>(x[i]));
  }
};

/// f() by one thread.
template <class F>
struct Invoke {
  static constexpr int threads = 32;
  F f;

  template <class Thread>
  MODULEFORMER_DEVICE void operator()(Thread const& thread) const {
    if (thread.index() == 0) f();
  }
};

/// f(i) for each i < count.
template <class F>
struct InvokeEach {
  static constexpr int threads = 256;
  F f;
  Index count;

  template <class Thread>
  MODULEFORMER_DEVICE void operator()(Thread const& thread) const {
    Index const i = thread.block() * threads + thread.index();
    if (i < count) f(i);
  }
};

}  // namespace moduleformer::kernels
