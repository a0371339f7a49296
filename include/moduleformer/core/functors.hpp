// SPDX-License-Identifier: MIT
#pragma once
// Scalar activations and their derivatives, written once for host and device. Each is a policy of
// role Activation: a(z), and d a/d z from the same evaluation. Names are those of config.json.

#include <moduleformer/core/math.hpp>
#include <moduleformer/core/platform.hpp>
#include <moduleformer/core/policy.hpp>

#include <string_view>

namespace moduleformer {

/// An activation's value and derivative at one point.
template <class T>
struct ValueAndDerivative {
  T value;
  T derivative;
};

/// 0.5 z (1 + tanh(sqrt(2/pi) (z + 0.044715 z^3))), the tanh form of arXiv 1606.08415.
/// Written with a sigmoid, 0.5 (1 + tanh u) = 1 / (1 + exp(-2u)), so that one exp gives both.
struct GeluTanh {
  using Role = role::Activation;
  static constexpr std::string_view name = "gelu_new";
  template <class T>
  MODULEFORMER_HOST_DEVICE ValueAndDerivative<T> operator()(T z) const {
    constexpr T c = T(0.7978845608028654), k = T(0.044715), edge = T(30);
    // Beyond the edge the sigmoid is 0 or 1 exactly; the cube of a larger z might overflow.
    T const x = math::clamp(z, -edge, edge);
    T const s = math::sigmoid(T(2) * c * x * (T(1) + k * x * x));
    T const slope = T(2) * c * (T(1) + T(3) * k * x * x);
    return {z * s, s + x * s * (T(1) - s) * slope};
  }
};

/// z Phi(z) with the normal distribution function (erf form).
struct Gelu {
  using Role = role::Activation;
  static constexpr std::string_view name = "gelu";
  template <class T>
  MODULEFORMER_HOST_DEVICE ValueAndDerivative<T> operator()(T z) const {
    auto const [below, density] = math::normal(z);
    return {z * below, below + z * density};
  }
};

/// max(z, 0); derivative 0 at 0.
struct Relu {
  using Role = role::Activation;
  static constexpr std::string_view name = "relu";
  template <class T>
  MODULEFORMER_HOST_DEVICE ValueAndDerivative<T> operator()(T z) const {
    return z > T(0) ? ValueAndDerivative<T>{z, T(1)} : ValueAndDerivative<T>{T(0), T(0)};
  }
};

/// z sigmoid(z).
struct Silu {
  using Role = role::Activation;
  static constexpr std::string_view name = "silu";
  template <class T>
  MODULEFORMER_HOST_DEVICE ValueAndDerivative<T> operator()(T z) const {
    T const s = math::sigmoid(z);
    return {z * s, s + z * s * (T(1) - s)};
  }
};

/// tanh(z).
struct Tanh {
  using Role = role::Activation;
  static constexpr std::string_view name = "tanh";
  template <class T>
  MODULEFORMER_HOST_DEVICE ValueAndDerivative<T> operator()(T z) const {
    T const t = math::tanh(z);
    return {t, T(1) - t * t};
  }
};

/// z itself: for products without an activation.
struct Identity {
  using Role = role::Activation;
  static constexpr std::string_view name = "identity";
  template <class T>
  MODULEFORMER_HOST_DEVICE ValueAndDerivative<T> operator()(T z) const {
    return {z, T(1)};
  }
};

}  // namespace moduleformer
