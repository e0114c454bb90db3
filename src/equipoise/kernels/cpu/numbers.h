// Numbers of each dtype, wide and narrow, and the exponential, in forms that a compiler turns into vector instructions.

#pragma once

#include <cstdint>
#include <cstring>
#include <initializer_list>
#include <limits>

namespace {

struct Bfloat16 {
  uint16_t bits;
};

#ifdef __clang__  // before version 15 it has _Float16 only where the processor computes in it
using Float16 = __fp16;
#else
using Float16 = _Float16;
#endif

template <class W>
constexpr W infinity = std::numeric_limits<W>::infinity();
template <class W>
constexpr W nan_of = std::numeric_limits<W>::quiet_NaN();

inline float bits_to_float(uint32_t bits) {
  float value;
  std::memcpy(&value, &bits, sizeof value);
  return value;
}

inline uint32_t float_to_bits(float value) {
  uint32_t bits;
  std::memcpy(&bits, &value, sizeof bits);
  return bits;
}

inline double bits_to_double(uint64_t bits) {
  double value;
  std::memcpy(&value, &bits, sizeof value);
  return value;
}

inline uint64_t double_to_bits(double value) {
  uint64_t bits;
  std::memcpy(&bits, &value, sizeof bits);
  return bits;
}

template <class W>
inline W wide(const Bfloat16& from) { return bits_to_float(static_cast<uint32_t>(from.bits) << 16); }
template <class W, class T>  // by reference: clang passes no half by value
inline W wide(const T& from) { return static_cast<W>(from); }

inline void narrow(float from, Bfloat16& to) {
  const uint32_t bits = float_to_bits(from), rounded = (bits + 0x7fff + ((bits >> 16) & 1)) >> 16;
  to.bits = static_cast<uint16_t>((bits & 0x7fffffff) > 0x7f800000 ? 0x7fc0 : rounded);
}
template <class W, class T>
inline void narrow(W from, T& to) { to = static_cast<T>(from); }

// Adding this number rounds to an integer n and leaves n + the exponent's bias in the low bits, from where a shift
// makes it 2^n.
template <class W>
constexpr W rounder = 0;
template <>
constexpr float rounder<float> = 12582912.0f + 127.0f;
template <>
constexpr double rounder<double> = 6755399441055744.0 + 1023.0;

inline float exponent(float shifted) { return bits_to_float(float_to_bits(shifted) << 23); }
inline double exponent(double shifted) { return bits_to_double(double_to_bits(shifted) << 52); }

// e^r for r within half of log 2 of 0.
inline float exp_near(float r) {
  float p = 8.3687370643e-3f + r * 1.3811124954e-3f;  // the best of its degree: 5e-9 off
  p = 4.1668444872e-2f + r * p;
  p = 1.6666519642e-1f + r * p;
  p = 4.9999994040e-1f + r * p;
  return 1.0f + r * (1.0f + r * p);
}
inline double exp_near(double r) {
  double p = 1.6059043836821613e-10;  // 1 / 13!
  for (const double c : {2.08767569878681e-9, 2.505210838544172e-8, 2.755731922398589e-7, 2.7557319223985893e-6,
                         2.48015873015873e-5, 1.984126984126984e-4, 1.388888888888889e-3, 8.333333333333333e-3,
                         4.1666666666666664e-2, 1.6666666666666666e-1, 0.5, 1.0, 1.0})
    p = c + r * p;
  return p;
}

// e^x for x of at most 0, to a unit in the last place, in float to four of them below 1e-9; 0 where it would be
// subnormal, exactly 1 for 0, nan for nan.
inline float exp_nonpositive(float x) {
  const float shifted = x * 1.44269504f + rounder<float>, n = shifted - rounder<float>;
  const float r = x - n * 0.693147182f;  // off by 2e-9 n: four units at the far end
  return x < -87.3f ? 0.0f : exp_near(r) * exponent(shifted);
}
inline double exp_nonpositive(double x) {
  const double shifted = x * 1.4426950408889634 + rounder<double>, n = shifted - rounder<double>;
  const double r = (x - n * 0.6931471803691238) - n * 1.9082149292705877e-10;
  return x < -708.3 ? 0.0 : exp_near(r) * exponent(shifted);
}

// A gap below which e^gap is 0, so that it may stand for all gaps below, minus infinity included.
template <class W>
constexpr W no_gap = sizeof(W) == 4 ? W(-128) : W(-1024);
template <class W>
inline W bounded_gap(W gap) { return gap < no_gap<W> ? no_gap<W> : gap; }

}  // namespace
