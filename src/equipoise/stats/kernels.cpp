// Sums over rows of logits, and the slope that a mix of statistics has there: the counterpart of `Tile` and
// `Slope.spread` on a CPU. A row is worked through in chunks that stay in the first cache, every loop of which
// the compiler turns into vector instructions.
//
// A class is masked where its logit is minus infinity. Exponentials are relative to a row's largest logit, whose
// own is not summed: the sum of the smaller ones keeps every digit.

#include <algorithm>
#include <atomic>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>

#ifdef _OPENMP
#include <omp.h>
#endif

namespace {

constexpr int64_t CHUNK = 2048;

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

inline void widen(Bfloat16 from, float& to) { to = bits_to_float(static_cast<uint32_t>(from.bits) << 16); }
template <class T, class W>
inline void widen(T from, W& to) { to = static_cast<W>(from); }

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
  float p = 1.3981999507e-3f + r * 1.9875691500e-4f;
  p = 8.3334519073e-3f + r * p;
  p = 4.1665795894e-2f + r * p;
  p = 1.6666665459e-1f + r * p;
  p = 5.0000001201e-1f + r * p;
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

// A block of logits: what both kernels are told of it.
struct Block {
  const void* logits;     // (rows, width), classes side by side
  int64_t stride;         // from row to row
  int64_t rows, width;
  const int64_t* target;  // (rows), counted over all classes, or null
  int64_t start;          // class of the first column, or -1 where every class is there
  double cap;             // s of logits s tanh(z / s), or 0
  int64_t apart;          // whether the target is kept out of the sums, or has a slope of its own
  int64_t threads;
  int64_t powers;         // how many scales
  const double* scales;
  const int64_t* whole;   // for each, whether its sum is of all classes, the largest included
  int64_t soft;           // how many soft targets, (C,) or (C, C), in the work dtype
  const void* const* softs;
  const int64_t* soft_strides;  // from row to row, 0 for (C,)
  void* kept;             // the logits again, in the work dtype, to be overwritten by e^(scale gap); or null
};

template <class W>
constexpr W infinity = std::numeric_limits<W>::infinity();
template <class W>
constexpr W far = -std::numeric_limits<W>::max() / 64;  // a gap where e^gap is zero

template <class W>
inline W gap_of(W logit, W base) {
  const W gap = logit - base;
  return gap < far<W> ? far<W> : gap;
}

template <class W>
inline W base_of(W top) { return top == -infinity<W> ? 0 : top; }

// Read logits, and cap them; `chain` is the derivative of the cap, or null.
template <class T, class W>
inline void load(const T* from, int64_t count, W cap, W* to, W* chain) {
#pragma omp simd
  for (int64_t c = 0; c < count; ++c) widen(from[c], to[c]);
  if (cap == 0) return;
#pragma omp simd
  for (int64_t c = 0; c < count; ++c) {
    const W x = to[c] / cap, size = std::fabs(x), q = x * x, t = power(-2 * size);
    W near = W(62.0 / 2835) - q * W(1382.0 / 155925);
    near = x * (1 + q * (W(-1.0 / 3) + q * (W(2.0 / 15) + q * (W(-17.0 / 315) + q * near))));
    const W beyond = (1 - t) / (1 + t);
    to[c] = cap * (size < W(0.1) ? near : x < 0 ? -beyond : beyond);
    if (chain) chain[c] = 4 * t / ((1 + t) * (1 + t));
  }
}

inline int64_t column_of(const Block& block, int64_t r) {
  return block.target ? block.target[r] - std::max<int64_t>(0, block.start) : -1;
}

template <class W>
inline const W* soft_row(const Block& block, int64_t k, int64_t r) {
  const int64_t row = block.target ? block.target[r] * block.soft_strides[k] : 0;
  return static_cast<const W*>(block.softs[k]) + row + std::max<int64_t>(0, block.start);
}

template <class Work>
void over_rows(const Block& block, Work work) {
#ifdef _OPENMP
  const int64_t logits = block.rows * block.width;
  const int64_t threads = std::max<int64_t>(1, std::min(block.threads, logits >> 14));
#pragma omp parallel num_threads(static_cast<int>(threads))
  {
    const int64_t part = omp_get_thread_num(), parts = omp_get_num_threads();
    const int64_t stop = block.rows * (part + 1) / parts;
    for (int64_t r = block.rows * part / parts; r < stop; ++r) work(r);
  }
#else
  for (int64_t r = 0; r < block.rows; ++r) work(r);
#endif
}

// What is asked beside the powers, bit by bit.
enum : int64_t { TIES = 1, SPREAD = 2, LEVEL = 4, LOWEST = 8, LARGER = 16 };

// Write, a row of numbers each: the target's logit, the largest, how many share it, the sum of the logits and how
// many they are, the smallest, how many share it, how many are larger than the target's, the sum of e^gap times
// minus the gap; then for each scale the sum of e^(scale gap) over the smaller ones, and for each soft target the
// sums of it times minus the gap and of it. Return whether every target is a class; a run of them cannot tell.
template <class T, class W>
int64_t sums(const Block& block, int64_t asked, W* out) {
  std::atomic<int64_t> good{1};
  over_rows(block, [&](int64_t r) {
    const T* row = static_cast<const T*>(block.logits) + r * block.stride;
    const int64_t width = block.width;
    const int64_t column = column_of(block, r);
    if (block.start < 0 && block.target && (column < 0 || column >= width)) {
      good = 0;
      return;
    }
    const W cap = static_cast<W>(block.cap);
    W x[CHUNK];
    W own = -infinity<W>, top = -infinity<W>, bottom = infinity<W>;
    double total = 0, classes = 0;
    for (int64_t at = 0; at < width; at += CHUNK) {
      const int64_t count = std::min(CHUNK, width - at);
      load<T, W>(row + at, count, cap, x, nullptr);
      if (asked & LEVEL) {
        W sum = 0, there = 0;
#pragma omp simd reduction(+ : sum, there)
        for (int64_t c = 0; c < count; ++c) {
          const bool masked = x[c] == -infinity<W>;
          sum += masked ? 0 : x[c];
          there += masked ? 0 : 1;
        }
        total += sum;
        classes += there;
      }
      if (block.apart && column >= at && column < at + count) {
        own = x[column - at];
        x[column - at] = -infinity<W>;
      }
      W highest = -infinity<W>;
#pragma omp simd reduction(max : highest)
      for (int64_t c = 0; c < count; ++c) highest = x[c] > highest ? x[c] : highest;
      top = std::max(top, highest);
      if (asked & LOWEST) {
        W least = infinity<W>;
#pragma omp simd reduction(min : least)
        for (int64_t c = 0; c < count; ++c) {
          const W one = x[c] == -infinity<W> ? infinity<W> : x[c];
          least = one < least ? one : least;
        }
        bottom = std::min(bottom, least);
      }
    }
    const W base = base_of(top);
    bool nan = false;
    double ties = 0, lows = 0, larger = 0, spread = 0;
    W* const after = out + 9 * block.rows + r;
    for (int64_t k = 0; k < block.powers + 2 * block.soft; ++k) after[k * block.rows] = 0;
    for (int64_t at = 0; at < width; at += CHUNK) {
      const int64_t count = std::min(CHUNK, width - at);
      if (width > CHUNK) {
        load<T, W>(row + at, count, cap, x, nullptr);
        if (block.apart && column >= at && column < at + count) x[column - at] = -infinity<W>;
      }
      if (asked & (TIES | LOWEST)) {  // both are nan where a logit is
        W here = 0, bad = 0;
#pragma omp simd reduction(+ : here, bad)
        for (int64_t c = 0; c < count; ++c) {
          here += x[c] == top ? 1 : 0;
          bad += x[c] != x[c] ? 1 : 0;
        }
        ties += here;
        nan |= bad > 0;
      }
      if (asked & LOWEST) {
        W low = 0;
#pragma omp simd reduction(+ : low)
        for (int64_t c = 0; c < count; ++c) low += x[c] == bottom ? 1 : 0;
        lows += low;
      }
      if (asked & LARGER) {
        W more = 0;
#pragma omp simd reduction(+ : more)
        for (int64_t c = 0; c < count; ++c) more += x[c] > own ? 1 : 0;
        larger += more;
      }
      for (int64_t k = 0; k < block.powers; ++k) {
        const W scale = static_cast<W>(block.scales[k]);
        W sum = 0, gaps = 0;
        if (block.kept) {
          W* const kept = static_cast<W*>(block.kept) + r * block.stride + at;
#pragma omp simd reduction(+ : sum)
          for (int64_t c = 0; c < count; ++c) {
            const W one = power(scale * (x[c] - base));
            sum += one;
            kept[c] = one;
          }
        } else if (block.whole[k]) {
#pragma omp simd reduction(+ : sum)
          for (int64_t c = 0; c < count; ++c) sum += power(scale * (x[c] - base));
        } else if ((asked & SPREAD) && scale == 1) {
#pragma omp simd reduction(+ : sum, gaps)
          for (int64_t c = 0; c < count; ++c) {
            const W gap = gap_of(x[c], base), one = x[c] == top ? gap : power(gap);
            sum += one;  // the largest adds nothing; or nan, where it is infinite
            gaps -= one * gap;
          }
          spread += gaps;
        } else {
#pragma omp simd reduction(+ : sum)
          for (int64_t c = 0; c < count; ++c) {
            const W gap = gap_of(x[c], base);
            sum += x[c] == top ? gap : power(scale * gap);
          }
        }
        after[k * block.rows] += sum;
      }
      for (int64_t k = 0; k < block.soft; ++k) {
        const W* const soft = soft_row<W>(block, k, r) + at;
        W gaps = 0, sum = 0;
#pragma omp simd reduction(+ : gaps, sum)
        for (int64_t c = 0; c < count; ++c) {
          const W t = x[c] == -infinity<W> ? 0 : soft[c];
          gaps -= t * gap_of(x[c], base);
          sum += t;
        }
        after[(block.powers + 2 * k) * block.rows] += gaps;
        after[(block.powers + 2 * k + 1) * block.rows] += sum;
      }
    }
    if (nan) top = bottom = std::numeric_limits<W>::quiet_NaN();
    const bool empty = top == -infinity<W>;
    if (empty)
      for (int64_t k = 0; k < block.powers; ++k) after[k * block.rows] = 0;
    const double numbers[] = {own, top, empty ? 0 : ties, total, classes, bottom, lows, larger, empty ? 0 : spread};
    for (int64_t k = 0; k < 9; ++k) out[k * block.rows + r] = static_cast<W>(numbers[k]);
  });
  return good;
}

// Write the slope: `numbers` holds, a row each, what the exponentials are relative to, the level, the slope at the
// target, the factor of e^(scale gap) for each scale, that of it times the gap, the marked logits, their marks, and
// the factors of the soft targets.
template <class T, class W, class Out>
void slope(const Block& block, int64_t marks, const W* numbers, Out* out, int64_t out_stride) {
  over_rows(block, [&](int64_t r) {
    const T* row = static_cast<const T*>(block.logits) + r * block.stride;
    Out* const to = out + r * out_stride;
    const int64_t column = column_of(block, r);
    const W cap = static_cast<W>(block.cap);
    const auto number = [&](int64_t k) { return numbers[k * block.rows + r]; };
    const W base = base_of(number(0)), level = number(1);
    const bool plain = block.powers == 1 && number(4) == 0 && level == 0 && marks == 0 && block.soft == 0;
    W x[CHUNK], y[CHUNK], chain[CHUNK];
    for (int64_t at = 0; at < block.width; at += CHUNK) {
      const int64_t count = std::min(CHUNK, block.width - at);
      load<T, W>(row + at, count, cap, x, chain);
      if (plain) {
        const W scale = static_cast<W>(block.scales[0]), a = number(3);
#pragma omp simd
        for (int64_t c = 0; c < count; ++c) y[c] = a * power(scale * (x[c] - base));
      } else {
        std::fill(y, y + count, level);
      }
      for (int64_t k = plain ? 1 : 0; k < block.powers; ++k) {
        const W scale = static_cast<W>(block.scales[k]), a = number(3 + k), b = number(3 + block.powers + k);
        if (b == 0) {
#pragma omp simd
          for (int64_t c = 0; c < count; ++c) y[c] += a * power(scale * gap_of(x[c], base));
        } else {
#pragma omp simd
          for (int64_t c = 0; c < count; ++c) {
            const W gap = gap_of(x[c], base), one = power(scale * gap);
            y[c] += a * one + b * (one * gap);
          }
        }
      }
      const int64_t first = 3 + 2 * block.powers;
      for (int64_t k = 0; k < marks; ++k) {
        const W value = number(first + k), mark = number(first + marks + k);
#pragma omp simd
        for (int64_t c = 0; c < count; ++c) y[c] += x[c] == value ? mark : 0;
      }
      for (int64_t k = 0; k < block.soft; ++k) {
        const W* const soft = soft_row<W>(block, k, r) + at;
        const W factor = number(first + 2 * marks + k);
#pragma omp simd
        for (int64_t c = 0; c < count; ++c) y[c] += factor * soft[c];
      }
      if (!plain) {
#pragma omp simd
        for (int64_t c = 0; c < count; ++c) y[c] = x[c] == -infinity<W> ? 0 : y[c];
      }
      if (block.apart && column >= at && column < at + count) y[column - at] = number(2);
      if (cap != 0)
        for (int64_t c = 0; c < count; ++c) y[c] *= chain[c];
#pragma omp simd
      for (int64_t c = 0; c < count; ++c) narrow(y[c], to[at + c]);
    }
  });
}

}  // namespace

// Kinds: 0 double, 1 float, 2 bfloat16, 3 half. Work is in double for double, else in float; a slope is written as
// what the logits are, or as what the work is.
extern "C" int64_t equipoise_sums(const Block* block, int64_t kind, int64_t asked, void* out) {
  if (kind == 0) return sums<double, double>(*block, asked, static_cast<double*>(out));
  if (kind == 1) return sums<float, float>(*block, asked, static_cast<float*>(out));
  if (kind == 2) return sums<Bfloat16, float>(*block, asked, static_cast<float*>(out));
  return sums<_Float16, float>(*block, asked, static_cast<float*>(out));
}

extern "C" void equipoise_slope(
    const Block* block, int64_t kind, int64_t marks, const void* numbers, void* out, int64_t stride, int64_t wide) {
  const auto* const doubles = static_cast<const double*>(numbers);
  const auto* const floats = static_cast<const float*>(numbers);
  if (kind == 0) return slope<double>(*block, marks, doubles, static_cast<double*>(out), stride);
  if (kind == 1) return slope<float>(*block, marks, floats, static_cast<float*>(out), stride);
  if (kind == 2 && wide) return slope<Bfloat16>(*block, marks, floats, static_cast<float*>(out), stride);
  if (kind == 2) return slope<Bfloat16>(*block, marks, floats, static_cast<Bfloat16*>(out), stride);
  if (wide) return slope<_Float16>(*block, marks, floats, static_cast<float*>(out), stride);
  slope<_Float16>(*block, marks, floats, static_cast<_Float16*>(out), stride);
}
