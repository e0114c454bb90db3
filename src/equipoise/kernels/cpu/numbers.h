// Conversions between dtypes, vectors, and the exponential function, in forms that compilers vectorise.

#pragma once

#include <cstdint>
#include <cstring>
#include <limits>

namespace {

struct Bfloat16 {
  uint16_t bits;
};

struct Float16 {
  uint16_t bits;
};

// A call inside a loop would prevent its vectorisation.
#define INLINE inline __attribute__((always_inline))

template <class W>
constexpr W infinity = std::numeric_limits<W>::infinity();
template <class W>
constexpr W nan_of = std::numeric_limits<W>::quiet_NaN();

INLINE float bits_to_float(uint32_t bits) {
  float value;
  std::memcpy(&value, &bits, sizeof value);
  return value;
}

INLINE uint32_t float_to_bits(float value) {
  uint32_t bits;
  std::memcpy(&bits, &value, sizeof bits);
  return bits;
}

INLINE double bits_to_double(uint64_t bits) {
  double value;
  std::memcpy(&value, &bits, sizeof value);
  return value;
}

INLINE uint64_t double_to_bits(double value) {
  uint64_t bits;
  std::memcpy(&bits, &value, sizeof bits);
  return bits;
}

// Conversions of half precision by bit operations: compilers vectorise casts on some processors only.
template <class W>
INLINE W wide(Bfloat16 from) { return bits_to_float(static_cast<uint32_t>(from.bits) << 16); }
template <class W>
INLINE W wide(Float16 from) {
  const uint32_t bits = static_cast<uint32_t>(from.bits) << 16, twice = bits + bits;
  const float normal = bits_to_float((twice >> 4) + (0xe0u << 23)) * 1.92592994e-34f;  // 2^-112
  const float subnormal = bits_to_float((twice >> 17) | (126u << 23)) - 0.5f;
  return bits_to_float((bits & 0x80000000u) | float_to_bits(twice < (1u << 27) ? subnormal : normal));
}
template <class W, class T>
INLINE W wide(T from) { return static_cast<W>(from); }

INLINE void narrow(float from, Bfloat16& to) {
  const uint32_t bits = float_to_bits(from), rounded = (bits + 0x7fff + ((bits >> 16) & 1)) >> 16;
  to.bits = static_cast<uint16_t>((bits & 0x7fffffff) > 0x7f800000 ? 0x7fc0 : rounded);
}
// Adding a power of two that depends on the exponent rounds to the significand of float16.
INLINE void narrow(float from, Float16& to) {
  const uint32_t bits = float_to_bits(from), twice = bits + bits, exponent = twice & 0xff000000u;
  const float size = bits_to_float(bits & 0x7fffffffu) * 5.19229686e33f * 7.70371978e-34f;  // 2^112, 2^-110
  const float least = bits_to_float(((exponent < 0x71000000u ? 0x71000000u : exponent) >> 1) + 0x07800000u);
  const uint32_t sum = float_to_bits(least + size), rounded = ((sum >> 13) & 0x7c00u) + (sum & 0xfffu);
  to.bits = static_cast<uint16_t>((bits & 0x80000000u) >> 16 | (twice > 0xff000000u ? 0x7e00u : rounded));
}
template <class W, class T>
INLINE void narrow(W from, T& to) { to = static_cast<T>(from); }

// Adding this number rounds to an integer n, and leaves n + the bias of the exponent in the low bits; a left shift
// of these bits gives 2^n.
template <class W>
constexpr W rounder = 0;
template <>
constexpr float rounder<float> = 12582912.0f + 127.0f;
template <>
constexpr double rounder<double> = 6755399441055744.0 + 1023.0;

INLINE float exponent(float shifted) { return bits_to_float(float_to_bits(shifted) << 23); }
INLINE double exponent(double shifted) { return bits_to_double(double_to_bits(shifted) << 52); }

// A vector register of numbers. Sums over classes use it explicitly: in a loop over scalars the compiler would
// reduce the register one number at a time.
#if defined(__AVX512F__)
constexpr int64_t VECTOR_BYTES = 64;
#elif defined(__AVX__)
constexpr int64_t VECTOR_BYTES = 32;
#else
constexpr int64_t VECTOR_BYTES = 16;
#endif
typedef float Floats __attribute__((vector_size(VECTOR_BYTES)));
typedef double Doubles __attribute__((vector_size(VECTOR_BYTES)));
typedef uint32_t FloatBits __attribute__((vector_size(VECTOR_BYTES)));
typedef uint64_t DoubleBits __attribute__((vector_size(VECTOR_BYTES)));
template <class W>
struct VectorOf {
  using type = Floats;
};
template <>
struct VectorOf<double> {
  using type = Doubles;
};
template <class W>
using Vector = typename VectorOf<W>::type;
template <class W>
constexpr int64_t VECTOR = VECTOR_BYTES / static_cast<int64_t>(sizeof(W));

INLINE Floats exponent(Floats shifted) { return reinterpret_cast<Floats>(reinterpret_cast<FloatBits>(shifted) << 23); }
INLINE Doubles exponent(Doubles shifted) { return reinterpret_cast<Doubles>(reinterpret_cast<DoubleBits>(shifted) << 52); }

template <class W>
INLINE Vector<W> vector_at(const W* from) {
  Vector<W> to;
  std::memcpy(&to, from, sizeof to);
  return to;
}

// Reduce a vector by combining one half with the other, repeatedly.
template <class W, class Combine>
INLINE W combined(Vector<W> of, Combine combine) {
  W x[VECTOR<W>];
  std::memcpy(x, &of, sizeof x);
  for (int64_t half = VECTOR<W> / 2; half > 0; half /= 2)
    for (int64_t k = 0; k < half; ++k) x[k] = combine(x[k], x[k + half]);
  return x[0];
}
template <class W>
INLINE W sum_of(Vector<W> of) {
  return combined<W>(of, [](W a, W b) { return a + b; });
}

// A polynomial, constant term first. Recursive: a compiler may not unroll a loop over the factors.
template <class X, class W>
INLINE W polynomial(X, W factor) { return factor; }
template <class X, class W, class... More>
INLINE X polynomial(X x, W factor, More... factors) { return factor + x * polynomial(x, factors...); }

// e^r for |r| <= log(2) / 2; in float the minimax polynomial, with an error of 5e-9.
template <class X>
INLINE X exp_near(X r, float) {
  return polynomial(
      r, 1.0f, 1.0f, 4.9999994040e-1f, 1.6666519642e-1f, 4.1668444872e-2f, 8.3687370643e-3f, 1.3811124954e-3f);
}
template <class X>
INLINE X exp_near(X r, double) {
  return polynomial(
      r, 1.0, 1.0, 0.5, 1.6666666666666666e-1, 4.1666666666666664e-2, 8.333333333333333e-3, 1.388888888888889e-3,
      1.984126984126984e-4, 2.48015873015873e-5, 2.7557319223985893e-6, 2.755731922398589e-7, 2.505210838544172e-8,
      2.08767569878681e-9, 1.6059043836821613e-10);
}

// e^x for x <= 0, accurate to an ulp, in float to four ulps for results below 1e-9; 0 for subnormal results, exactly
// 1 for x = 0, nan for nan. X is a number or a vector.
template <class X>
INLINE X exp_nonpositive(X x, float) {
  const X shifted = x * 1.44269504f + rounder<float>, n = shifted - rounder<float>;
  const X r = x - n * 0.693147182f;  // error 2e-9 n: four ulps for the smallest results
  const X e = exp_near(r, 0.0f) * exponent(shifted);
  return x < -87.3f ? X{} : e;
}
template <class X>
INLINE X exp_nonpositive(X x, double) {
  const X shifted = x * 1.4426950408889634 + rounder<double>, n = shifted - rounder<double>;
  const X r = (x - n * 0.6931471803691238) - n * 1.9082149292705877e-10;
  const X e = exp_near(r, 0.0) * exponent(shifted);
  return x < -708.3 ? X{} : e;
}

// Clamp gaps from below to a value with e^gap = 0, so that gap e^gap is 0 for minus infinity.
template <class W>
constexpr W no_gap = sizeof(W) == 4 ? W(-128) : W(-1024);
template <class W, class X>
INLINE X bounded_gap(X gap) { return gap < no_gap<W> ? X{} + no_gap<W> : gap; }

}  // namespace
