// Numbers of each kind, wide and narrow, and the exponential, in forms that a compiler turns into vector instructions.

#pragma once

#include <cstdint>
#include <cstring>
#include <initializer_list>

namespace {

struct Bfloat16 {
  uint16_t bits;
};

inline float bits_to_float(uint32_t bits) {
  float value;
  std::memcpy(&value, &bits, sizeof value);
  return value;
}

inline double bits_to_double(uint64_t bits) {
  double value;
  std::memcpy(&value, &bits, sizeof value);
  return value;
}

template <class W>
inline W wide(Bfloat16 from) { return bits_to_float(static_cast<uint32_t>(from.bits) << 16); }
template <class W, class T>
inline W wide(T from) { return static_cast<W>(from); }

inline void narrow(float from, Bfloat16& to) {
  uint32_t bits;
  std::memcpy(&bits, &from, sizeof bits);
  const uint32_t rounded = (bits + 0x7fff + ((bits >> 16) & 1)) >> 16;
  to.bits = static_cast<uint16_t>((bits & 0x7fffffff) > 0x7f800000 ? 0x7fc0 : rounded);
}
template <class W, class T>
inline void narrow(W from, T& to) { to = static_cast<T>(from); }

// e^x for x of at most 0, to a unit in the last place, in float to four of them below 1e-9; 0 where it would be
// subnormal, nan for nan. Adding a large number rounds x / log 2 to a whole one, and leaves that in the low bits, from
// where it becomes an exponent.
inline float power(float x) {
  constexpr float large = 12582912.0f + 127.0f;
  const float shifted = x * 1.44269504f + large, n = shifted - large;
  const float r = x - n * 0.693147182f;  // rounded by 2e-9 of it: four units at the far end
  float p = 8.3687370643e-3f + r * 1.3811124954e-3f;  // the best of its degree: 5e-9 off
  p = 4.1668444872e-2f + r * p;
  p = 1.6666519642e-1f + r * p;
  p = 4.9999994040e-1f + r * p;
  p = 1.0f + r * (1.0f + r * p);
  uint32_t bits;
  std::memcpy(&bits, &shifted, sizeof bits);
  return x < -87.3f ? 0.0f : p * bits_to_float(bits << 23);
}

inline double power(double x) {
  constexpr double large = 6755399441055744.0 + 1023.0;
  const double shifted = x * 1.4426950408889634 + large, n = shifted - large;
  const double r = (x - n * 0.6931471803691238) - n * 1.9082149292705877e-10;
  double p = 1.6059043836821613e-10;  // 1 / 13!
  for (const double c : {2.08767569878681e-9, 2.505210838544172e-8, 2.755731922398589e-7, 2.7557319223985893e-6,
                         2.48015873015873e-5, 1.984126984126984e-4, 1.388888888888889e-3, 8.333333333333333e-3,
                         4.1666666666666664e-2, 1.6666666666666666e-1, 0.5, 1.0, 1.0})
    p = c + r * p;
  uint64_t bits;
  std::memcpy(&bits, &shifted, sizeof bits);
  return x < -708.3 ? 0.0 : p * bits_to_double(bits << 52);
}

}  // namespace
