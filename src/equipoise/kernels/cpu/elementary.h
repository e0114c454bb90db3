// Elementary functions for all arguments, accurate to an ulp or two, in forms that compilers vectorise.

#pragma once

#include <cmath>

#include "numbers.h"

namespace {

template <class W>
INLINE W between(W x, W low, W high) { return x < low ? low : x > high ? high : x; }

// Multiply by 2^(n/2) twice: n may be outside the exponents of normal numbers.
template <class W>
INLINE W scaled(W x, W n) {
  const W shifted = n * W(0.5) + rounder<W>, half = shifted - rounder<W>;
  return x * exponent(shifted) * exponent((n - half) + rounder<W>);
}

INLINE float exp_(float x) {
  x = between(x, -110.0f, 89.0f);
  const float n = x * 1.44269504f + rounder<float> - rounder<float>;
  return scaled(exp_near((x - n * 0.693147182f) + n * 1.904654323e-9f, 0.0f), n);
}
INLINE double exp_(double x) {
  x = between(x, -760.0, 710.0);
  const double n = x * 1.4426950408889634 + rounder<double> - rounder<double>;
  return scaled(exp_near((x - n * 0.6931471803691238) - n * 1.9082149292705877e-10, 0.0), n);
}

// Return the logarithm of a positive normal number times 2^shift: n log 2 plus the logarithm of the significand in
// [sqrt(1/2), sqrt(2)), by Cephes' polynomial in float, by fdlibm's in double.
INLINE float log_of_normal(float x, float shift) {
  const uint32_t bits = float_to_bits(x), up = (bits - 0x3f3504f3u) & 0xff800000u;
  const float n = static_cast<float>(static_cast<int32_t>(up)) * 1.1920929e-7f + shift;
  const float u = bits_to_float(bits - up) - 1, q = u * u;
  const float p = polynomial(
      u, 3.3333331174e-1f, -2.4999993993e-1f, 2.0000714765e-1f, -1.6668057665e-1f, 1.4249322787e-1f,
      -1.2420140846e-1f, 1.1676998740e-1f, -1.1514610310e-1f, 7.0376836292e-2f);
  return u + (u * q * p - 0.5f * q + n * -2.12194440e-4f) + n * 0.693359375f;
}
INLINE double log_of_normal(double x, double shift) {
  const uint64_t bits = double_to_bits(x), up = (bits - 0x3fe6a09e667f3bcdu) & 0xfff0000000000000u;
  // Convert the exponent by the bits of 2^52 + n: AVX2 has no conversion from 64-bit integers.
  const uint64_t biased = ((up >> 52) + 1023) & 0x7ff;
  const double n = bits_to_double(biased | 0x4330000000000000u) - (4503599627370496.0 + 1023.0) + shift;
  const double f = bits_to_double(bits - up) - 1, s = f / (2 + f), z = s * s, w = z * z, half = 0.5 * f * f;
  const double even = w * polynomial(w, 3.999999999940941908e-1, 2.222219843214978396e-1, 1.531383769920937332e-1);
  const double odd = z * polynomial(
      w, 6.666666666666735130e-1, 2.857142874366239149e-1, 1.818357216161805012e-1, 1.479819860511658591e-1);
  const double low = n * 1.90821492927058770002e-10;
  return n * 6.93147180369123816490e-1 - ((half - (s * (half + (odd + even)) + low)) - f);
}

template <class W>
INLINE W log_(W x) {
  constexpr W least = std::numeric_limits<W>::min(), up = sizeof(W) == 4 ? W(8388608) : W(18014398509481984);
  const W y = log_of_normal(x < least ? x * up : x, x < least ? W(sizeof(W) == 4 ? -23 : -54) : W(0));
  const W special = x == 0 ? -infinity<W> : x == infinity<W> ? x : nan_of<W>;
  return ((x > 0) & (x < infinity<W>)) ? y : special;
}

// log(1 + x) plus a correction for the rounding error of 1 + x.
template <class W>
INLINE W log1p_(W x) {
  const W sum = 1 + x, y = log_(sum), lost = (x - (sum - 1)) / sum;
  return ((sum > 0) & (sum <= std::numeric_limits<W>::max())) ? y + lost : y;
}
template <class W>
INLINE W log1p_of_unit(W x) {  // x in [0, 1], or nan
  const W sum = 1 + x, y = log_of_normal(sum, W(0)) + (x - (sum - 1)) / sum;
  return x == x ? y : x;
}

INLINE float expm1_near(float x) {
  return x * polynomial(
      x, 1.0f, 0.5f, 1.666666667e-1f, 4.166666667e-2f, 8.333333333e-3f, 1.388888889e-3f, 1.984126984e-4f);
}
INLINE double expm1_near(double x) {
  return x * polynomial(
      x, 1.0, 0.5, 1.6666666666666666e-1, 4.1666666666666664e-2, 8.333333333333333e-3, 1.388888888888889e-3,
      1.984126984126984e-4, 2.48015873015873e-5, 2.7557319223985893e-6, 2.755731922398589e-7, 2.505210838544172e-8,
      2.08767569878681e-9, 1.6059043836821613e-10, 1.1470745597729725e-11);
}
template <class W>
INLINE W expm1_(W x) {
  const W near = expm1_near(x), beyond = exp_(x) - 1;
  return std::fabs(x) < W(0.35) ? near : beyond;
}

// e^-|x|, from which sigmoid, softplus and tanh are computed without cancellation.
template <class W>
INLINE W exp_of_minus(W x) { return exp_(-std::fabs(x)); }

template <class W>
INLINE W sigmoid_(W x) {
  const W e = exp_of_minus(x);
  return (x < 0 ? e : 1) / (1 + e);
}
template <class W>
INLINE W softplus_(W x) { return (x < 0 ? 0 : x) + log1p_of_unit(exp_of_minus(x)); }
template <class W>
INLINE W tanh_(W x) {
  const W lost = -expm1_(-2 * std::fabs(x)), size = lost / (2 - lost);  // 1 - e^-2|x|
  return x < 0 ? -size : size;
}

// In double: the error of the logarithm is multiplied by the exponent.
INLINE float pow_(float x, float y) {
  const double a = x, b = y, finite = exp_(b * log_(std::fabs(a))), size = std::fabs(a) == 1 ? 1 : finite;
  const bool integer = std::floor(b) == b, odd = std::floor(b / 2) * 2 != b;
  // As in C: a non-integer power of -0 and -infinity is that of |x|, of other negative numbers nan.
  const double root = ((a == 0) | (a == -infinity<double>)) ? size : nan_of<double>;
  const double negative = integer ? odd ? -size : size : root;
  return y == 0 ? 1 : static_cast<float>(float_to_bits(x) >> 31 ? negative : size);
}
inline double pow_(double x, double y) { return std::pow(x, y); }
template <class W>
INLINE W derivative_of_pow(W x, W y) {
  const W derivative = y * pow_(x, y - 1);
  return y == 0 ? 0 : derivative;
}

}  // namespace
