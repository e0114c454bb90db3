// What is done to a run of the logits of a row that stays in the first cache; a compiler turns each loop into vector
// instructions.

#pragma once

#include <cmath>
#include <cstdint>
#include <limits>

#include "arithmetic.h"

namespace {

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

// Return the largest logit.
template <class W>
inline W largest(const W* x, int64_t count) {
  W highest = -infinity<W>;
#pragma omp simd reduction(max : highest)
  for (int64_t c = 0; c < count; ++c) highest = x[c] > highest ? x[c] : highest;
  return highest;
}

// Return the sum of the logits that are not masked, and add how many they are to `classes`.
template <class W>
inline W level_of(const W* x, int64_t count, double& classes) {
  W sum = 0, there = 0;
#pragma omp simd reduction(+ : sum)
  for (int64_t c = 0; c < count; ++c) sum += x[c];
  if (std::isfinite(sum)) {
    classes += count;
    return sum;
  }
  sum = 0;
#pragma omp simd reduction(+ : sum, there)
  for (int64_t c = 0; c < count; ++c) {
    const bool masked = x[c] == -infinity<W>;
    sum += masked ? 0 : x[c];
    there += masked ? 0 : 1;
  }
  classes += there;
  return sum;
}

// Return how many logits are of a value; `nan` becomes true if one is nan.
template <class W>
inline W count_of(const W* x, int64_t count, W value, bool& nan) {
  W here = 0, bad = 0;
#pragma omp simd reduction(+ : here, bad)
  for (int64_t c = 0; c < count; ++c) {
    here += x[c] == value ? 1 : 0;
    bad += x[c] != x[c] ? 1 : 0;
  }
  nan |= bad > 0;
  return here;
}

// Read logits, and cap them; `chain` is the derivative of the cap, or null. Return the largest.
template <class T, class W>
inline W load(const T* from, int64_t count, W cap, W* to, W* chain) {
  W highest = -infinity<W>;
#pragma omp simd reduction(max : highest)
  for (int64_t c = 0; c < count; ++c) {
    const W one = wide<W>(from[c]);
    to[c] = one;
    highest = one > highest ? one : highest;
  }
  if (cap == 0) return highest;
#pragma omp simd
  for (int64_t c = 0; c < count; ++c) {
    const W x = to[c] / cap, size = std::fabs(x), q = x * x, t = power(-2 * size);
    W near = W(62.0 / 2835) - q * W(1382.0 / 155925);
    near = x * (1 + q * (W(-1.0 / 3) + q * (W(2.0 / 15) + q * (W(-17.0 / 315) + q * near))));
    const W beyond = (1 - t) / (1 + t);
    to[c] = cap * (size < W(0.1) ? near : x < 0 ? -beyond : beyond);
    if (chain) chain[c] = 4 * t / ((1 + t) * (1 + t));
  }
  return largest(to, count);
}

// Write e^(scale gap) for each logit, and return their sum; `held` has it for half the scale, or is null.
template <class W>
inline W exponentials(const W* x, int64_t count, W base, W scale, const W* held, W* to) {
  W sum = 0;
  if (held) {
#pragma omp simd reduction(+ : sum)
    for (int64_t c = 0; c < count; ++c) sum += to[c] = held[c] * held[c];
  } else if (scale == 1) {
#pragma omp simd reduction(+ : sum)
    for (int64_t c = 0; c < count; ++c) sum += to[c] = power(x[c] - base);
  } else {
#pragma omp simd reduction(+ : sum)
    for (int64_t c = 0; c < count; ++c) sum += to[c] = power(scale * (x[c] - base));
  }
  return sum;
}

// The same, but return the sum over the classes below the largest, nan where that is infinite; add how many share the
// largest, and the sum of e^(scale gap) times minus the gap.
template <bool squares, class W>
inline W smaller(
    const W* x, int64_t count, W top, W base, W scale, const W* held, W* to, double& ties, double& spread) {
  W sum = 0, here = 0, gaps = 0;
#pragma omp simd reduction(+ : sum, here, gaps)
  for (int64_t c = 0; c < count; ++c) {
    const W gap = x[c] - base, one = squares ? held[c] * held[c] : power(scale * gap);
    to[c] = one;
    sum += x[c] == top ? gap : one;
    here += x[c] == top ? 1 : 0;
    gaps -= one * (gap < far<W> ? far<W> : gap);
  }
  ties += here;
  spread += gaps;
  return sum;
}

// Write level + e^(scale gap) (a + b gap) for each logit, 0 where it is masked; `unit` if the scale is 1, `flat` if b
// is 0.
template <bool unit, bool flat, class W>
inline void spread(const W* x, int64_t count, W base, W scale, W level, W a, W b, W* to) {
#pragma omp simd
  for (int64_t c = 0; c < count; ++c) {
    const W gap = flat ? x[c] - base : gap_of(x[c], base);
    const W one = level + power(unit ? gap : scale * gap) * (flat ? a : a + b * gap);
    to[c] = x[c] == -infinity<W> ? 0 : one;
  }
}

// Numbers in the dtype of the work: themselves, or a copy.
template <class W>
inline const W* widened(const W* from, int64_t, W*) { return from; }
template <class T, class W>
inline const W* widened(const T* from, int64_t count, W* to) {
#pragma omp simd
  for (int64_t c = 0; c < count; ++c) to[c] = wide<W>(from[c]);
  return to;
}

// Where to put numbers in the dtype of the work that `narrowed` then has as they are wanted.
template <class W>
inline W* room_of(W* out, W*) { return out; }
template <class Out, class W>
inline W* room_of(Out*, W* room) { return room; }

template <class W, class Out>
inline void narrowed(const W* from, int64_t count, Out* to) {
  if (static_cast<const void*>(from) == to) return;
#pragma omp simd
  for (int64_t c = 0; c < count; ++c) narrow(from[c], to[c]);
}

}  // namespace
