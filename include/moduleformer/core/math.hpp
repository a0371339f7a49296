// SPDX-License-Identifier: MIT
#pragma once
// exp, log, tanh and the normal distribution without branches or calls, so that loops over them
// become vector code; host and device. Errors are 1 to 2 units in the last place (tests/core/math.cpp).
// exp: x = n ln 2 + r, |r| <= ln 2 / 2, exp(r) = 1 + r + r^2 q(r), times 2^n through the exponent bits.
// log: x = 2^n (1 + f), s = f / (2 + f), log(1 + f) = f - f^2/2 + s (f^2/2 + R(s^2)), as in fdlibm's
// e_log.c. The polynomials are interpolations at Chebyshev nodes, computed with 60 digits. Float on a device: exp and
// divisions by the instructions for them, to about 3 units in the last place.

#include <moduleformer/core/platform.hpp>
#include <moduleformer/core/types.hpp>

#include <cmath>
#include <cstdint>
#include <type_traits>

namespace moduleformer::math {

namespace detail {

// __builtin_bit_cast is std::bit_cast without needing a device version of the latter.
template <class To, class From>
MODULEFORMER_HOST_DEVICE constexpr To bits_as(From from) {
  return __builtin_bit_cast(To, from);
}

template <Real T>
MODULEFORMER_HOST_DEVICE inline T multiply_add(T a, T b, T c) {
#if MODULEFORMER_FAST_FMA
  return std::fma(a, b, c);
#else
  return a * b + c;
#endif
}

/// c0 + c1 x + c2 x^2 + ... by Horner's rule; arguments rather than an array, which would keep the
/// loop around it from being vectorised.
template <Real T>
MODULEFORMER_HOST_DEVICE inline T polynomial(T, T c) {
  return c;
}
template <Real T, class... Rest>
MODULEFORMER_HOST_DEVICE inline T polynomial(T x, T c, Rest... rest) {
  return multiply_add(polynomial(x, rest...), x, c);
}

template <Real T>
struct Constants;

template <>
struct Constants<float> {
  using Bits = std::int32_t;
  static constexpr int mantissa = 23;
  static constexpr Bits bias = 127;
  static constexpr float magic = 0x1.8p23f;  // adding it rounds to an integer, found in the low bits
  static constexpr float lowest = -87.5f, highest = 89.0f;
  static constexpr float ln2_high = 0x1.62e4p-1f, ln2_low = 0x1.7f7d1cp-20f;
  static constexpr float smallest = 0x1p-126f, infinity = __builtin_huge_valf();
  MODULEFORMER_HOST_DEVICE static float exp_rest(float r) {
    return polynomial(r, 0.5f, 0.16666576989698776f, 0.041666554617204576f, 0.0083631790527225774f,
                      0.0013926183587713495f);
  }
  MODULEFORMER_HOST_DEVICE static float log_rest(float z) {
    return polynomial(z, 0.66666666549883177f, 0.40000125594554367f, 0.28550396958019614f, 0.23341943388714561f);
  }
};

template <>
struct Constants<double> {
  using Bits = std::int64_t;
  static constexpr int mantissa = 52;
  static constexpr Bits bias = 1023;
  static constexpr double magic = 0x1.8p52;
  static constexpr double lowest = -708.3, highest = 710.0;
  static constexpr double ln2_high = 0x1.62e42feep-1, ln2_low = 0x1.a39ef35793c76p-33;
  static constexpr double smallest = 0x1p-1022, infinity = __builtin_huge_val();
  MODULEFORMER_HOST_DEVICE static double exp_rest(double r) {
    return polynomial(r, 0.5000000000000001, 0.16666666666666667, 0.041666666666624129, 0.0083333333333300614,
                      0.0013888888917213717, 0.00019841269863053617, 2.4801521295954375e-05, 2.7557268459997063e-06,
                      2.7620088445409750e-07, 2.5100385495510320e-08);
  }
  MODULEFORMER_HOST_DEVICE static double log_rest(double z) {
    return polynomial(z, 0.66666666666666696, 0.39999999999893222, 0.28571428628810996, 0.22222210674238516,
                      0.18182922513515942, 0.15330617306743304, 0.14630031364122861);
  }
};

}  // namespace detail

/// a if the condition holds, else b: by masks, since compilers turn a ternary of results of arithmetic
/// into a branch, which keeps the loop around it from being vectorised.
template <Real T>
MODULEFORMER_HOST_DEVICE inline T select(bool condition, T a, T b) {
#if defined(__CUDA_ARCH__)
  return condition ? a : b;
#else
  using Bits = typename detail::Constants<T>::Bits;
  Bits const mask = -static_cast<Bits>(condition);
  return detail::bits_as<T>((detail::bits_as<Bits>(a) & mask) | (detail::bits_as<Bits>(b) & ~mask));
#endif
}

/// The nearest value to x in [low, high]; NaN stays NaN.
template <Real T>
MODULEFORMER_HOST_DEVICE inline T clamp(T x, T low, T high) {
  return select(x > high, high, select(x < low, low, x));
}

namespace detail {

/// x = n ln 2 + rest: exp(x) - 1 = 2^n - 1 + 2^n residue, with half = 2^(n-1).
template <Real T>
struct SplitExp {
  T residue;
  T half;
};

// At n = lowest representable exponent, half is the bit pattern of 0: results below about 2 times the
// smallest normal number become 0 without a comparison.
template <Real T>
MODULEFORMER_HOST_DEVICE inline SplitExp<T> split_exp(T x) {
  using C = Constants<T>;
  x = clamp(x, C::lowest, C::highest);
  T const shifted = multiply_add(x, T(1.4426950408889634074L), C::magic);
  T const n = shifted - C::magic;
  T const r = multiply_add(n, -C::ln2_low, multiply_add(n, -C::ln2_high, x));
  // Unsigned, since the shift drops the bits of `magic` and relies on wrapping.
  using Unsigned = std::make_unsigned_t<typename C::Bits>;
  Unsigned const exponent = bits_as<Unsigned>(shifted) + static_cast<Unsigned>(C::bias - 1);
  return {multiply_add(r * r, C::exp_rest(r), r), bits_as<T>(exponent << C::mantissa)};
}

/// 1 / x.
template <Real T>
MODULEFORMER_HOST_DEVICE inline T reciprocal(T x) {
#if defined(__CUDA_ARCH__)
  if constexpr (std::is_same_v<T, float>) {
    float y;
    asm("rcp.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
    return y;
  }
#endif
  return T(1) / x;
}

}  // namespace detail

/// e^x; 0 below about -87 (float) or -708 (double), infinity above about 88.72 or 709.78.
template <Real T>
MODULEFORMER_HOST_DEVICE inline T exp(T x) {
#if defined(__CUDA_ARCH__)
  if constexpr (std::is_same_v<T, float>) {  // 2^(x log2 e), the product's rounding error made good
    constexpr float log2_e = 1.44269504f, rest = 1.92596303e-8f, ln2 = 0.693147181f;
    float const y = x * log2_e, error = std::fma(x, rest, std::fma(x, log2_e, -y));
    float power;
    asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(power) : "f"(y));
    return power > 0 && power < detail::Constants<float>::infinity ? std::fma(power, error * ln2, power) : power;
  }
#endif
  auto const [residue, half] = detail::split_exp(x);
  return detail::multiply_add(residue, T(2), T(2)) * half;
}

/// Natural logarithm; -infinity at 0, NaN below 0, infinity at infinity.
template <Real T>
MODULEFORMER_HOST_DEVICE inline T log(T x) {
  using C = detail::Constants<T>;
  using Bits = typename C::Bits;
  constexpr T grow = T(Bits{1} << (C::mantissa + 1));
  bool const subnormal = x < C::smallest;
  T const y = select(subnormal, x * grow, x);
  // The exponent is counted from sqrt(1/2), so that f is in [sqrt(1/2) - 1, sqrt(2) - 1].
  using Unsigned = std::make_unsigned_t<Bits>;
  constexpr auto root = detail::bits_as<Unsigned>(T(0.70710678118654752440L));
  constexpr Unsigned mask = (Unsigned{1} << C::mantissa) - 1, bias = static_cast<Unsigned>(C::bias) << C::mantissa;
  Unsigned const shifted = detail::bits_as<Unsigned>(y) - root;
  T const f = detail::bits_as<T>((shifted & mask) + root) - T(1);
  // The exponent field becomes a number through the mantissa of `magic`: no conversion of 64-bit integers.
  Unsigned const exponent = (shifted + bias) >> C::mantissa;
  T const raw = detail::bits_as<T>(exponent + detail::bits_as<Unsigned>(C::magic)) - C::magic;
  T const n = raw - select(subnormal, T(C::bias + C::mantissa + 1), T(C::bias));
  T const s = f / (T(2) + f);
  T const z = s * s;
  T const half_square = T(0.5) * f * f;
  T const rest = s * detail::multiply_add(z, C::log_rest(z), half_square);
  T const result = n * C::ln2_high - ((half_square - detail::multiply_add(n, C::ln2_low, rest)) - f);
  T const positive = select(x < C::infinity, result, x);
  return select(x > T(0), positive, select(x == T(0), -C::infinity, C::infinity - C::infinity));
}

/// Hyperbolic tangent, through e^(2|x|) - 1 so that small arguments keep their digits.
template <Real T>
MODULEFORMER_HOST_DEVICE inline T tanh(T x) {
  auto const [residue, half] = detail::split_exp(T(2) * clamp(std::fabs(x), T(0), T(22)));  // tanh(22) rounds to 1
  T const grown = detail::multiply_add(T(2) * half, residue, detail::multiply_add(T(2), half, T(-1)));
  return std::copysign(grown * detail::reciprocal(grown + T(2)), x);
}

/// 1 / (1 + e^-x).
template <Real T>
MODULEFORMER_HOST_DEVICE inline T sigmoid(T x) {
  return detail::reciprocal(T(1) + exp(-x));
}

/// The standard normal distribution at x.
template <class T>
struct Normal {
  T below;    // probability of a value below x
  T density;  // exp(-x^2/2) / sqrt(2 pi)
};

/// For float through Mills' ratio P(X > a) / density(a) = t p(t), t = 1 / (1 + a/4), which keeps relative
/// accuracy in both tails; for double through erfc of the standard library (not vectorised).
template <Real T>
MODULEFORMER_HOST_DEVICE inline Normal<T> normal(T x) {
  T const density = T(0.39894228040143267794L) * exp(T(-0.5) * x * x);
  if constexpr (std::is_same_v<T, float>) {
    float const t = detail::reciprocal(1.0f + 0.25f * std::fabs(x));
    float const mills = detail::polynomial(t, 0.250040662743f, 0.249200518495f, 0.241014476023f, 0.172986518305f,
                                           0.23907109616f, -0.00921927692431f, 0.121115473972f, 0.0917808334006f,
                                           -0.141237133952f, 0.0385609751002f);
    float const tail = density * (t * mills);
    return {select(x < 0.0f, tail, 1.0f - tail), density};
  } else {
    return {T(0.5) * std::erfc(T(-0.70710678118654752440L) * x), density};
  }
}

}  // namespace moduleformer::math
