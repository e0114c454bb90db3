// The states of rows: sums over the classes, relative to the largest logit.

#pragma once

#include "logits.h"

namespace {

// The base of a row without a class is minus this number.
template <class W>
constexpr W logit_limit = std::numeric_limits<W>::max() / 8;

// Clamp gaps from below, so that a soft target times the gap is finite.
template <class W>
INLINE W bounded_soft_gap(W gap) { return gap < -logit_limit<W> ? -logit_limit<W> : gap; }

// Loop over a chunk padded with -inf; `count` is a multiple of LANES.
#define EACH_CLASS for (int64_t c = 0; c < (count / LANES) * LANES; ++c)

template <class W>
struct ExponentialSums {
  W maxima, rest, squares, gaps;
};

// Sums over the logits other than `highest`, the largest; nan to exclude none.
template <bool unit, bool square, bool gap, class W>
inline ExponentialSums<W> exponential_sums(const W* x, int64_t count, W base, W highest, W scale) {
  Vector<W> maxima{}, rest{}, squares{}, gaps{};
  for (int64_t c = 0; c < count; c += VECTOR<W>) {
    const Vector<W> z = vector_at(x + c), g = z - base, e = exp_nonpositive(unit ? g : scale * g, W());
    const Vector<W> below = z == highest ? Vector<W>{} : e;
    maxima += z == highest ? Vector<W>{} + 1 : Vector<W>{};
    rest += below;
    if (square) squares += below * below;
    if (gap) gaps += e * bounded_gap<W>(g);
  }
  return {sum_of<W>(maxima), sum_of<W>(rest), square ? sum_of<W>(squares) : 0, gap ? sum_of<W>(gaps) : 0};
}

template <class W>
inline ExponentialSums<W> exponential_sums(const Exponentials& of, const W* x, int64_t count, W base, W highest) {
  const W scale = static_cast<W>(of.scale);
  const bool square = of.square >= 0;
  if (of.gap && square) return exponential_sums<true, true, true>(x, count, base, highest, scale);
  if (of.gap) return exponential_sums<true, false, true>(x, count, base, highest, scale);
  if (scale == 1 && square) return exponential_sums<true, true, false>(x, count, base, highest, scale);
  if (scale == 1) return exponential_sums<true, false, false>(x, count, base, highest, scale);
  if (square) return exponential_sums<false, true, false>(x, count, base, highest, scale);
  return exponential_sums<false, false, false>(x, count, base, highest, scale);
}

// Return the number of logits equal to `value`, and set `nan` if any is nan.
template <class W>
inline W count_of(const W* x, int64_t count, W value, bool& nan) {
  W found = 0, wrong = 0;
#pragma omp simd reduction(+ : found, wrong)
  EACH_CLASS {
    found += x[c] == value ? 1 : 0;
    wrong += x[c] != x[c] ? 1 : 0;
  }
  nan |= wrong > 0;
  return found;
}

// Return the smallest logit that is not masked.
template <class W>
inline W min_of(const W* x, int64_t count) {
  return -max_of_padded(x, count, [](Vector<W> z) { return z == -infinity<W> ? z : -z; });
}

// Compute the states of a row; all are nan if any logit is nan or +inf. Return whether the loss is nan, that is, if
// any logit is nan or +inf, or every class is masked.
template <class T, class W>
bool row_states(const Program& p, const Plan& plan, const Logits& z, int64_t r, W* s) {
  alignas(64) W x[CHUNK], chain[CHUNK];
  const T* const row = static_cast<const T*>(z.data) + r * z.stride;
  const int64_t classes = z.classes, column = column_of(z, r);
  const W cap = static_cast<W>(z.softcap);
  const bool here = column >= 0 && column < classes, separate = here && p.separate;
  W target = -infinity<W>, highest = -infinity<W>, lowest = infinity<W>;
  if (here && cap == 0) target = wide<W>(row[column]);
  if (here && cap != 0) {
    load<T, W>(row + column, 1, cap, x, chain);
    target = x[0];
  }
  const auto read = [&](int64_t at, int64_t count) {
    const W most = load<T, W>(row + at, count, cap, x, chain);
    if (!separate || column < at || column >= at + count) return most;
    x[column - at] = -infinity<W>;
    return target < most ? most : max_of_padded(x, padded(count));
  };
  if (classes > CHUNK && cap == 0) {  // the largest on both sides of the target
    const int64_t stop = separate ? column : classes;
    highest = max_of<W>(row, stop);
    if (separate) highest = std::max(highest, max_of<W>(row + stop + 1, classes - stop - 1));
  }
  for (int64_t at = 0; at < classes; at += CHUNK) {
    if (classes > CHUNK && cap == 0 && !plan.minimum) break;
    const int64_t count = std::min(CHUNK, classes - at);
    highest = std::max(highest, read(at, count));
    if (plan.minimum) lowest = std::min(lowest, min_of(x, padded(count)));
  }
  const bool empty = highest == -infinity<W>;
  const W base = empty ? 0 : highest, mark = empty ? nan_of<W> : highest;
  double maxima = 0, sum = 0, present = 0, greater = 0, minima = 0, soft[3] = {};
  double rest[SCALES] = {}, gaps = 0;
  bool nan = !(target < infinity<W>) || highest == infinity<W>;
  for (int64_t at = 0; at < classes; at += CHUNK) {
    const int64_t width = std::min(CHUNK, classes - at), count = padded(width);
    if (classes > CHUNK) read(at, width);
    for (int k = 0; k < plan.exponentials; ++k) {
      const Exponentials& of = plan.exponential[k];
      const ExponentialSums<W> found = exponential_sums(of, x, count, base, mark);
      if (k == 0) maxima += found.maxima;
      if (of.slot >= 0) rest[of.slot] += found.rest;
      if (of.square >= 0) rest[of.square] += found.squares;
      if (of.gap) gaps += found.gaps;
      nan |= found.rest != found.rest;
    }
    if (plan.exponentials == 0) maxima += count_of(x, count, mark, nan);
    if (plan.minimum) minima += count_of(x, count, lowest, nan);
    if (plan.sums) {
      W total = 0, found = 0;
#pragma omp simd reduction(+ : total, found)
      EACH_CLASS {
        const bool masked = x[c] == -infinity<W>;
        total += masked ? 0 : x[c];
        found += masked ? 0 : 1;
      }
      sum += total;
      present += found;
    }
    if (plan.greater) {
      W found = 0;
#pragma omp simd reduction(+ : found)
      EACH_CLASS found += x[c] > target ? 1 : 0;
      greater += found;
    }
    if (plan.soft) {
      const W* const table = soft_of<W>(z, r) + at;
      W at_max = 0, below = 0, below_gap = 0;
#pragma omp simd reduction(+ : at_max, below, below_gap)
      for (int64_t c = 0; c < width; ++c) {
        const W t = x[c] == -infinity<W> ? 0 : table[c], gap = x[c] - base;
        const bool max = x[c] == mark;
        at_max += max ? t : 0;
        below += max ? 0 : t;
        below_gap += max ? 0 : t * bounded_soft_gap(gap);
      }
      soft[0] += at_max;
      soft[1] += below;
      soft[2] += below_gap;
    }
  }
  if (nan) {
    std::fill(s, s + STATES, nan_of<W>);
    return true;
  }
  s[TARGET_LOGIT] = target;
  s[MAX_GAP] = s[MAX_SOFT_GAP] = 0;
  s[REST_GAP] = static_cast<W>(gaps);
  s[MIN_EXP] = static_cast<W>(minima);
  s[SUM_LOGIT] = static_cast<W>(sum);
  for (int k = 0; k < SCALES; ++k) {
    s[MAX_EXP + k] = static_cast<W>(maxima);
    s[REST_EXP + k] = static_cast<W>(rest[k]);
  }
  s[REST_SOFT_GAP] = static_cast<W>(soft[2]);
  s[BASE] = empty ? -logit_limit<W> : highest;
  s[MIN_BASE] = lowest == infinity<W> ? logit_limit<W> : lowest;
  s[COUNT] = static_cast<W>(present);
  s[GREATER] = static_cast<W>(greater);
  s[MAX_SOFT] = static_cast<W>(soft[0]);
  s[REST_SOFT] = static_cast<W>(soft[1]);
  s[TARGET_SOFT] = z.soft && z.target ? soft_of<W>(z, r)[column] : 0;
  s[CLASS_WEIGHT] = 1;
  return empty && !(separate && target > -infinity<W>);
}

}  // namespace
