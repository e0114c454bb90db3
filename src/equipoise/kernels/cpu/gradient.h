// The gradient of rows of logits: a linear combination of the terms of the states and their derivatives.

#pragma once

#include "states.h"

namespace {

// Layout of the numbers of a row that `losses` keeps for the gradient: base, min_base if used, derivatives.
struct Kept {
  int count = 1;
  int min_base = -1;
  int place[DIFFERENTIABLE];  // index of the derivative by each state, or -1

  explicit Kept(const Program& p) {
    if (uses(p, MIN_EXP)) min_base = count++;
    for (int k = 0; k < DIFFERENTIABLE; ++k) place[k] = uses(p, k) ? count++ : -1;
  }
};

// Coefficients of the functions of a logit in the gradient of a row.
template <class W>
struct Factors {
  W base, min_base, target, at_max, at_min, present, soft_at_max, soft_below;
  W e[SCALES + 1], square[SCALES + 1], gap;  // of e^(scale gap), its square, and (1 + gap) e^gap
  bool nan, zero;

  template <class Read>
  Factors(const Program& p, const Plan& plan, const Kept& kept, W scale, Read read) {
    W d[DIFFERENTIABLE];
    nan = false;
    zero = true;
    for (int k = 0; k < DIFFERENTIABLE; ++k) {
      d[k] = kept.place[k] < 0 ? 0 : read(kept.place[k]);
      d[k] = d[k] == 0 ? 0 : d[k] * scale;
      nan |= d[k] != d[k];
      zero &= d[k] == 0;
    }
    base = read(0);
    min_base = kept.min_base < 0 ? nan_of<W> : read(kept.min_base);
    target = d[TARGET_LOGIT];
    at_min = d[MIN_EXP];
    present = d[SUM_LOGIT];
    soft_at_max = d[MAX_SOFT_GAP];
    soft_below = d[REST_SOFT_GAP];
    gap = d[REST_GAP];
    at_max = d[MAX_GAP];
    for (int k = 0; k < p.scales; ++k) at_max += static_cast<W>(p.scale[k]) * d[MAX_EXP + k];
    for (int k = 0; k < plan.exponentials; ++k) {
      const Exponentials& of = plan.exponential[k];
      const W c = static_cast<W>(of.scale);
      e[k] = of.slot < 0 ? 0 : c * d[REST_EXP + of.slot];
      square[k] = of.square < 0 ? 0 : 2 * c * d[REST_EXP + of.square];
    }
  }
};

// Write or add, with e = e^(scale g) and g = x - base: e (a + b e + gap (1 + g)) for g < 0, `at_max` for g = 0.
template <bool unit, bool plain, bool first, class W>
inline void write_exponentials(
    const W* x, int64_t count, W base, W scale, W a, W b, W gap, W at_max, W* to) {
#pragma omp simd
  EACH_CLASS {
    const W g = x[c] - base, e = exp_nonpositive(unit ? g : scale * g, W());
    const W below = plain ? a * e : e * (a + b * e + gap * (1 + bounded_gap<W>(g)));
    const W one = x[c] == base ? at_max : below;
    to[c] = first ? one : to[c] + one;
  }
}

template <bool first, class W>
inline void write_exponentials(
    const Exponentials& of, const W* x, int64_t count, W base, W a, W b, W gap, W at_max, W* to) {
  const W scale = static_cast<W>(of.scale);
  gap = of.gap ? gap : 0;
  const bool plain = b == 0 && gap == 0;
  if (scale == 1 && plain) return write_exponentials<true, true, first>(x, count, base, scale, a, b, gap, at_max, to);
  if (scale == 1) return write_exponentials<true, false, first>(x, count, base, scale, a, b, gap, at_max, to);
  write_exponentials<false, false, first>(x, count, base, scale, a, b, gap, at_max, to);
}

// Write the gradient of a row, in W or narrowed to the dtype of the logits; `out` may be the row itself.
template <class T, class W, class Out>
void row_gradient(const Program& p, const Plan& plan, const Logits& z, int64_t r, const Factors<W>& f, Out* out) {
  alignas(64) W copy[CHUNK], chain[CHUNK], computed[CHUNK];
  const T* const row = static_cast<const T*>(z.data) + r * z.stride;
  const int64_t classes = z.classes, column = column_of(z, r);
  const W cap = static_cast<W>(z.softcap);
  const W base = f.base, at_max = f.at_max, min_base = f.min_base, at_min = f.at_min, present = f.present;
  const W soft_at_max = f.soft_at_max, soft_below = f.soft_below;
  const bool more = at_min != 0 || present != 0 || soft_at_max != 0 || soft_below != 0;
  if (f.nan || f.zero) {
    Out value;
    narrow(f.nan ? nan_of<W> : W(0), value);
    std::fill(out, out + classes, value);
    return;
  }
  for (int64_t at = 0, width; at < classes; at += width) {
    width = std::min(CHUNK, classes - at);
    if (width > LANES) width = width / LANES * LANES;  // the remainder is a separate, padded chunk
    const int64_t count = padded(width);
    const bool in_place = count == width;
    const W* x = copy;
    if constexpr (std::is_same_v<T, W>) {
      if (in_place && cap == 0 && plan.exponentials < 2 && !more) x = row + at;
    }
    if (x == copy) load<T, W>(row + at, width, cap, copy, chain);
    W* to = computed;
    if constexpr (std::is_same_v<Out, W>) {
      if (in_place) to = out + at;
    }
    const bool here = column >= at && column < at + width;
    const W target = here ? x[column - at] : 0;
    bool written = false;
    for (int k = 0; k < plan.exponentials; ++k) {
      if (f.e[k] == 0 && f.square[k] == 0 && (!plan.exponential[k].gap || f.gap == 0)) continue;
      if (written)
        write_exponentials<false>(plan.exponential[k], x, count, base, f.e[k], f.square[k], f.gap, W(0), to);
      else
        write_exponentials<true>(plan.exponential[k], x, count, base, f.e[k], f.square[k], f.gap, at_max, to);
      written = true;
    }
    if (!written) {
#pragma omp simd
      EACH_CLASS to[c] = x[c] == base ? at_max : 0;
    }
    if (at_min != 0 || present != 0) {
#pragma omp simd
      EACH_CLASS to[c] += (x[c] == min_base ? at_min : 0) + (x[c] == -infinity<W> ? 0 : present);
    }
    if (soft_at_max != 0 || soft_below != 0) {
      const W* const table = soft_of<W>(z, r) + at;
#pragma omp simd
      for (int64_t c = 0; c < width; ++c) {
        const W t = table[c], factor = x[c] == base ? soft_at_max : soft_below;
        to[c] += x[c] == -infinity<W> ? 0 : t * factor;
      }
    }
    if (here && p.separate)
      to[column - at] = target == -infinity<W> ? 0 : f.target;
    else if (here && target > -infinity<W>)
      to[column - at] += f.target;
    if (cap != 0) {
#pragma omp simd
      for (int64_t c = 0; c < width; ++c) to[c] *= chain[c];
    }
    if (static_cast<const void*>(to) == out + at) continue;
#pragma omp simd
    for (int64_t c = 0; c < width; ++c) narrow(to[c], out[at + c]);
  }
}

#undef EACH_CLASS

}  // namespace
