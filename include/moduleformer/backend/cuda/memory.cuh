// SPDX-License-Identifier: MIT
#pragma once
// Moving values on the device, and between it and the host. Everything happens in the order of the stream; the
// host's side of to_host and from_host is complete on return.

#include <moduleformer/backend/checks.hpp>
#include <moduleformer/backend/cuda/cuda.cuh>
#include <moduleformer/backend/cuda/kernels/memory.cuh>
#include <moduleformer/core/error.hpp>

#include <algorithm>
#include <concepts>
#include <cstddef>
#include <type_traits>

namespace moduleformer {

namespace detail {

/// Blocks of an elementwise kernel that walks its elements: a few per processor, no more than there is work for.
template <CudaScalar S, class P>
Index walking_blocks(CudaBackend<S, P> const& backend, Index elements, Index threads) {
  return std::min(ceil_divide(elements, threads), Index{8} * backend.processors());
}

template <class T>
std::size_t byte_count(Vector<T> x) {
  return static_cast<std::size_t>(x.size()) * sizeof(T);
}

}  // namespace detail

/// x = value.
template <CudaScalar S, class P, class T>
void fill(CudaBackend<S, P>& backend, Vector<T> x, Arg<T> value) {
  using Kernel = kernels::Fill<T>;
  backend.launch(Kernel{x, value}, detail::walking_blocks(backend, x.size(), Kernel::threads));
}

/// y = x, which do not overlap.
template <CudaScalar S, class P, class T>
void copy(CudaBackend<S, P>& backend, Arg<Vector<T const>> x, Vector<T> y) {
  expects(x.size() == y.size(), "copy: expected ", x.size(), " elements, found ", y.size());
  if (x.size() > 0) backend.stream().copy(y.data(), x.data(), detail::byte_count(x));
}

/// y = x in the other of the backend's scalars, rounded to nearest; a copy where both are one.
template <CudaScalar S, class P, class From, class To>
  requires CudaScalar<std::remove_const_t<From>> && CudaScalar<To>
void convert(CudaBackend<S, P>& backend, Vector<From> x, Vector<To> y) {
  if constexpr (std::same_as<std::remove_const_t<From>, To>) {
    copy(backend, x, y);
  } else {
    expects(x.size() == y.size(), "convert: expected ", x.size(), " elements, found ", y.size());
    using Kernel = kernels::Convert<std::remove_const_t<From>, To>;
    backend.launch(Kernel{x, y}, detail::walking_blocks(backend, x.size(), Kernel::threads));
  }
}

/// host[i] = x[i].
template <CudaScalar S, class P, class T>
void to_host(CudaBackend<S, P>& backend, Vector<T> x, std::remove_const_t<T>* host) {
  if (x.size() > 0) backend.stream().to_host(host, x.data(), detail::byte_count(x));
}

/// x[i] = host[i].
template <CudaScalar S, class P, class T>
void from_host(CudaBackend<S, P>& backend, T const* host, Arg<Vector<T>> x) {
  if (x.size() > 0) backend.stream().from_host(x.data(), host, detail::byte_count(x));
}

/// f() by one thread of the device: f is trivially copyable, its call operator MODULEFORMER_HOST_DEVICE, and what
/// it reads and writes is memory of the backend.
template <CudaScalar S, class P, class F>
void invoke(CudaBackend<S, P>& backend, F const& f) {
  backend.launch(kernels::Invoke<F>{f}, 1);
}

/// f(i) for each i < count, each by a thread of its own; the same holds for f.
template <CudaScalar S, class P, class F>
void invoke_each(CudaBackend<S, P>& backend, Index count, F const& f) {
  using Kernel = kernels::InvokeEach<F>;
  if (count > 0) backend.launch(Kernel{f, count}, detail::ceil_divide(count, Kernel::threads));
}

}  // namespace moduleformer
