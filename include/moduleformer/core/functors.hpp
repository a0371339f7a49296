// SPDX-License-Identifier: MIT
#pragma once
// Scalar activations and their derivatives, written once for host and device. Each is a policy of
// role Activation: a(z), and d a/d z from the same evaluation. Names are those of config.json.

#include <moduleformer/core/platform.hpp>
#include <moduleformer/core/policy.hpp>

#include <cmath>
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
    constexpr T c = T(0.7978845608028654), k = T(0.044715);
    T const u = c * z * (T(1) + k * z * z);
    T const s = T(1) / (T(1) + std::exp(T(-2) * u));
    T const slope = T(2) * c * (T(1) + T(3) * k * z * z);
    return {z * s, s + z * s * (T(1) - s) * slope};
  }
};

/// z Phi(z) with the normal distribution function (erf form).
struct Gelu {
  using Role = role::Activation;
  static constexpr std::string_view name = "gelu";
  template <class T>
  MODULEFORMER_HOST_DEVICE ValueAndDerivative<T> operator()(T z) const {
    T const phi = T(0.5) * std::erfc(-z * T(0.7071067811865476));
    T const density = T(0.3989422804014327) * std::exp(T(-0.5) * z * z);
    return {z * phi, phi + z * density};
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
    T const s = T(1) / (T(1) + std::exp(-z));
    return {z * s, s + z * s * (T(1) - s)};
  }
};

/// tanh(z).
struct Tanh {
  using Role = role::Activation;
  static constexpr std::string_view name = "tanh";
  template <class T>
  MODULEFORMER_HOST_DEVICE ValueAndDerivative<T> operator()(T z) const {
    T const t = std::tanh(z);
    return {t, T(1) - t * t};
  }
};

}  // namespace moduleformer
