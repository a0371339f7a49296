// SPDX-License-Identifier: MIT
#pragma once
// Stick-breaking attention, forward, on the CUDA backend (kernels/stick_breaking.cuh). The grid is bounded by the rows
// and the number of sequences; blocks find their tiles on the device.

#include <moduleformer/backend/backend.hpp>
#include <moduleformer/backend/checks.hpp>
#include <moduleformer/backend/cuda/attention_products.cuh>
#include <moduleformer/backend/cuda/cuda.cuh>
#include <moduleformer/backend/cuda/kernels/attention_float_product.cuh>
#include <moduleformer/backend/cuda/kernels/attention_tensor_product.cuh>
#include <moduleformer/backend/cuda/kernels/packs.cuh>
#include <moduleformer/backend/cuda/kernels/stick_breaking.cuh>
#include <moduleformer/backend/cuda/kernels/stick_breaking_tensor.cuh>
#include <moduleformer/backend/cuda/kernels/stick_breaking_warpgroup.cuh>
#include <moduleformer/backend/cuda/stick_breaking_decode.cuh>
#include <moduleformer/core/error.hpp>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>
#include <type_traits>

namespace moduleformer {

namespace detail {

template <class S>
using AttentionUnits = std::conditional_t<std::is_same_v<S, float>, kernels::NaturalUnits, kernels::BinaryUnits>;

/// The arguments as kernels take them; throws where they do not fit. What a sequence names is not checked.
template <CudaScalar S>
kernels::AttentionShape attention_shape(char const* where, StickBreakingVariant variant,
                                        AttentionExtents const& extents, Vector<Sequence const> sequences,
                                        Matrix<S const> q, Matrix<S const> k, Matrix<S const> v) {
  expect_attention(where, extents, q, k, v);
  // Rows are counted, and places in a block of keys found, in 32 bits.
  constexpr Index most = std::numeric_limits<std::int32_t>::max(), widest = most / 128;
  expects(std::max({q.extent(0), k.extent(0), sequences.extent(0)}) < most && q.extent(1) <= widest, where,
          ": expected less than ", most, " query rows, keys and sequences of at most ", widest, " columns, found ",
          q.extent(0), ", ", k.extent(0), ", ", sequences.extent(0), " and ", q.extent(1));
  return {sequences.data(),
          static_cast<int>(sequences.extent(0)),
          static_cast<int>(extents.heads),
          static_cast<int>(extents.head_size),
          static_cast<int>(extents.rows_per_token),
          variant.inclusive,
          variant.keep_remainder,
          q.extent(0)};
}

/// At least as many tiles as the sequences' rows have, however they are divided.
inline Index most_tiles(kernels::AttentionShape const& shape, Index tile_rows) {
  return shape.rows / tile_rows + shape.sequence_count;
}

/// log of the stick below which a row is done, 0 meaning that nothing of it is left in a float.
template <class Units>
float attention_bound(double stop_below) {
  constexpr double smallest = std::numeric_limits<float>::denorm_min();
  return static_cast<float>(std::log(std::max(stop_below, smallest)) * double{Units::per_nat});
}

/// f(head size as a constant) and true, if heads of that size have kernels for tensor cores.
template <class F>
bool with_tensor_head(Index head_size, F f) {
  switch (head_size) {
    case 32: f(std::integral_constant<int, 32>{}); return true;
    case 64: f(std::integral_constant<int, 64>{}); return true;
    case 96: f(std::integral_constant<int, 96>{}); return true;
    case 128: f(std::integral_constant<int, 128>{}); return true;
    default: return false;
  }
}

/// f<Product>() with the products for heads of any size: on tensor cores where rows of bfloat16 are aligned.
template <CudaScalar S, class F>
void with_attention_product(Index head_size, bool aligned, F f) {
  if constexpr (std::is_same_v<S, bfloat16>)
    if (aligned && head_size % 8 == 0) return f.template operator()<kernels::AttentionTensorProduct>();
  f.template operator()<kernels::AttentionFloatProduct<S>>();
}

template <class Units>
float attention_scale(Index head_size) {
  return static_cast<float>(double{Units::per_nat} / std::sqrt(static_cast<double>(head_size)));
}

}  // namespace detail

/// y (P,A) from q (P,A), k and v (rows, A); rows of y in no sequence become 0. log_stick (P,H): ln r_i; stop
/// (P,H): the first key of its sequence that the row visited. A sequence's bits depend on it and on how many rows and
/// sequences the call has, not on the other sequences.
template <CudaScalar S, class P>
void stick_breaking_forward(CudaBackend<S, P>& backend, StickBreakingVariant variant, AttentionExtents extents,
                            Vector<Sequence const> sequences, Arg<Matrix<S const>> q, Arg<Matrix<S const>> k,
                            Arg<Matrix<S const>> v, Arg<Matrix<S>> y, Arg<Matrix<float>> log_stick,
                            Matrix<std::int32_t> stop) {
  constexpr char const* where = "stick_breaking_forward";
  auto const shape = detail::attention_shape<S>(where, variant, extents, sequences, q, k, v);
  detail::expect_extents(where, "y", y, q.extent(0), q.extent(1));
  if (log_stick) detail::expect_extents(where, "log_stick", log_stick, q.extent(0), extents.heads);
  if (stop) detail::expect_extents(where, "stop", stop, q.extent(0), extents.heads);
  if (q.extent(0) == 0) return;

  using Units = detail::AttentionUnits<S>;
  Index const heads = extents.heads;
  kernels::StickBreakingCall<S> call{shape,
                                     q.data(),
                                     k.data(),
                                     v.data(),
                                     y.data(),
                                     nullptr,
                                     log_stick.data(),
                                     stop.data(),
                                     detail::attention_scale<Units>(extents.head_size),
                                     detail::attention_bound<Units>(extents.stop_below),
                                     false,
                                     0};
  if (detail::is_narrow(shape)) {
    call.packed = extents.head_size % 8 == 0 && kernels::may_pack<8>(q.data(), k.data(), v.data(), y.data());
    return detail::attend_narrow<Units>(backend, call);
  }
  if constexpr (std::is_same_v<S, bfloat16>) {
    bool const aligned = kernels::may_pack<8>(q.data(), k.data(), v.data(), y.data());
    if (aligned && detail::with_tensor_head(extents.head_size, [&](auto d) {
          auto const launch = [&]<class Kernel>(std::type_identity<Kernel>) {
            call.tiles = detail::most_tiles(shape, Kernel::size);
            backend.launch(Kernel{call}, call.tiles * heads + detail::ceil_divide(shape.rows, Kernel::threads),
                           Kernel::shared_bytes);
          };
          if (backend.stream().has_warpgroups()) launch(std::type_identity<kernels::StickBreakingWarpgroupForward<d>>{});
          else launch(std::type_identity<kernels::StickBreakingTensorForward<d>>{});
        }))
      return;
    auto const matrix = detail::score_matrix(shape, extents.most_keys, k.extent(0), 6);
    if (aligned && matrix.rows > 0)
      return detail::attend_by_products(backend, call, matrix);
  }
  Scope const scope{backend.workspace()};
  detail::with_attention_product<S>(
      extents.head_size, kernels::may_pack<8>(q.data(), k.data(), v.data(), y.data()), [&]<class Product>() {
        using Kernel = kernels::StickBreakingForward<Product, Units>;
        if (extents.head_size > Kernel::size) {
          if constexpr (std::is_same_v<S, float>) call.sums = y.data();
          else call.sums = backend.workspace().template allocate<float>(q.size()).data();
        }
        call.packed =
            extents.head_size % 4 == 0 && kernels::may_pack<4>(q.data(), k.data(), v.data(), y.data(), call.sums);
        call.tiles = detail::most_tiles(shape, Kernel::size);
        backend.launch(Kernel{call}, call.tiles * heads + detail::ceil_divide(shape.rows, Kernel::threads),
                       Kernel::shared_floats * sizeof(float));
      });
}

}  // namespace moduleformer
