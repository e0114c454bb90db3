// Rows of few classes, transposed: inner loops run over up to ROWS rows, and so are not shorter than a vector.

#pragma once

#include "gradient.h"

namespace {

constexpr int64_t FEW = 32;  // classes, at most

// Whether rows are processed as tiles.
inline bool is_tile(const Logits& z) { return z.classes <= FEW && z.softcap == 0; }

// One number per row: the logits of a class, a state, ...
template <class W>
using RowsOf = W[ROWS];

#define EACH_ROW for (int64_t r = 0; r < (rows / LANES) * LANES; ++r)

// Read logits of rows from `start` on, padded with zeros.
template <class T, class W>
void load_tile(const Logits& z, int64_t start, int64_t count, RowsOf<W>* x) {
  const T* row = static_cast<const T*>(z.data) + start * z.stride;
  for (int64_t c = 0; c < z.classes; ++c) std::fill(x[c] + padded(count) - LANES, x[c] + padded(count), W(0));
  for (int64_t r = 0; r < count; ++r, row += z.stride)
    for (int64_t c = 0; c < z.classes; ++c) x[c][r] = wide<W>(row[c]);
}

// Read the soft targets of rows from `start` on, padded with zeros.
template <class W>
void load_soft_tile(const Logits& z, int64_t start, int64_t count, RowsOf<W>* t) {
  for (int64_t c = 0; c < z.classes; ++c) std::fill(t[c] + padded(count) - LANES, t[c] + padded(count), W(0));
  for (int64_t r = 0; r < count; ++r) {
    const int64_t column = column_of(z, start + r);
    if (z.target && z.start < 0 && (column < 0 || column >= z.classes)) continue;
    const W* const row = soft_of<W>(z, start + r);
    for (int64_t c = 0; c < z.classes; ++c) t[c][r] = row[c];
  }
}

template <bool unit, bool square, bool gap, class W>
void tile_sums(
    const RowsOf<W>* x, int64_t classes, int64_t rows, const W* base, W scale, W* maxima, W* rest, W* squares, W* gaps) {
  for (int64_t c = 0; c < classes; ++c) {
#pragma omp simd
    EACH_ROW {
      const W g = x[c][r] - base[r], e = exp_nonpositive(unit ? g : scale * g, W());
      const bool max = x[c][r] == base[r];
      maxima[r] += max ? 1 : 0;
      rest[r] += max ? 0 : e;
      if (square) squares[r] += max ? 0 : e * e;
      if (gap) gaps[r] += e * bounded_gap<W>(g);
    }
  }
}

// Compute the states (STATES, rows), as `row_states` does, and whether all classes of each row are masked.
template <class T, class W>
void tile_states(
    const Program& p, const Plan& plan, const Logits& z, int64_t start, int64_t count, RowsOf<W>* s, bool* masked) {
  alignas(64) W x[FEW][ROWS], wrong[ROWS], lowest[ROWS], unused[ROWS];
  const int64_t classes = z.classes, rows = padded(count);
  load_tile<T, W>(z, start, count, x);
  std::memset(s, 0, STATES * sizeof s[0]);
  W *const base = s[BASE], *const target = s[TARGET_LOGIT];
  std::fill(target, target + rows, -infinity<W>);
  std::fill(base, base + rows, -infinity<W>);
  std::fill(wrong, wrong + rows, W(0));
  for (int64_t r = 0; z.target && r < count; ++r) {
    const int64_t column = column_of(z, start + r);
    if (column < 0 || column >= classes) continue;
    target[r] = x[column][r];
    if (p.separate) x[column][r] = target[r] < infinity<W> ? -infinity<W> : target[r];
  }
  for (int64_t c = 0; c < classes; ++c) {
#pragma omp simd
    EACH_ROW {
      const W one = x[c][r];
      base[r] = one > base[r] ? one : base[r];
      wrong[r] = one < infinity<W> ? wrong[r] : 1;
    }
  }
#pragma omp simd
  EACH_ROW base[r] = base[r] == -infinity<W> ? -logit_limit<W> : base[r];
  for (int k = 0; k < plan.exponentials; ++k) {
    const Exponentials& of = plan.exponential[k];
    const W scale = static_cast<W>(of.scale);
    W* const maxima = k == 0 ? s[MAX_EXP] : unused;
    W* const rest = of.slot < 0 ? unused : s[REST_EXP + of.slot];
    W* const squares = of.square < 0 ? unused : s[REST_EXP + of.square];
    if (of.gap && of.square >= 0)
      tile_sums<true, true, true>(x, classes, rows, base, scale, maxima, rest, squares, s[REST_GAP]);
    else if (of.gap)
      tile_sums<true, false, true>(x, classes, rows, base, scale, maxima, rest, squares, s[REST_GAP]);
    else if (of.square >= 0)
      tile_sums<false, true, false>(x, classes, rows, base, scale, maxima, rest, squares, unused);
    else if (scale == 1)
      tile_sums<true, false, false>(x, classes, rows, base, scale, maxima, rest, squares, unused);
    else
      tile_sums<false, false, false>(x, classes, rows, base, scale, maxima, rest, squares, unused);
  }
  for (int64_t c = 0; c < classes && plan.exponentials == 0; ++c) {
#pragma omp simd
    EACH_ROW s[MAX_EXP][r] += x[c][r] == base[r] ? 1 : 0;
  }
  for (int k = 1; k < SCALES; ++k) std::copy(s[MAX_EXP], s[MAX_EXP] + rows, s[MAX_EXP + k]);
  if (plan.minimum) {
    std::fill(lowest, lowest + rows, infinity<W>);
    for (int64_t c = 0; c < classes; ++c) {
#pragma omp simd
      EACH_ROW {
        const W one = x[c][r] == -infinity<W> ? infinity<W> : x[c][r];
        lowest[r] = one < lowest[r] ? one : lowest[r];
      }
    }
    for (int64_t c = 0; c < classes; ++c) {
#pragma omp simd
      EACH_ROW s[MIN_EXP][r] += x[c][r] == lowest[r] ? 1 : 0;
    }
#pragma omp simd
    EACH_ROW s[MIN_BASE][r] = lowest[r] == infinity<W> ? logit_limit<W> : lowest[r];
  }
  for (int64_t c = 0; c < classes && plan.sums; ++c) {
#pragma omp simd
    EACH_ROW {
      const bool present = x[c][r] > -infinity<W>;
      s[SUM_LOGIT][r] += present ? x[c][r] : 0;
      s[COUNT][r] += present ? 1 : 0;
    }
  }
  for (int64_t c = 0; c < classes && plan.greater; ++c) {
#pragma omp simd
    EACH_ROW s[GREATER][r] += x[c][r] > target[r] ? 1 : 0;
  }
  if (plan.soft) {
    alignas(64) W t[FEW][ROWS];
    load_soft_tile(z, start, count, t);
    for (int64_t c = 0; c < classes; ++c) {
#pragma omp simd
      EACH_ROW {
        const W one = x[c][r] == -infinity<W> ? 0 : t[c][r];
        const bool max = x[c][r] == base[r];
        s[MAX_SOFT][r] += max ? one : 0;
        s[REST_SOFT][r] += max ? 0 : one;
        s[REST_SOFT_GAP][r] += max ? 0 : one * bounded_soft_gap(x[c][r] - base[r]);
      }
    }
    for (int64_t r = 0; z.target && r < count; ++r) {
      const int64_t column = column_of(z, start + r);
      if (z.start >= 0 || (column >= 0 && column < classes)) s[TARGET_SOFT][r] = soft_of<W>(z, start + r)[column];
    }
  }
  std::fill(s[CLASS_WEIGHT], s[CLASS_WEIGHT] + rows, W(1));
  for (int64_t r = 0; r < count; ++r) {
    masked[r] = s[MAX_EXP][r] == 0 && !(p.separate && target[r] > -infinity<W>);
    if (wrong[r] == 0) continue;
    for (int state = 0; state < STATES; ++state) s[state][r] = nan_of<W>;
    masked[r] = true;
  }
}

// Coefficients of the functions of a logit for each row; see `Factors`.
template <class W>
struct TileFactors {
  W base[ROWS], min_base[ROWS], target[ROWS], at_max[ROWS], at_min[ROWS], present[ROWS], gap[ROWS];
  W soft_at_max[ROWS], soft_below[ROWS];
  W e[SCALES + 1][ROWS], square[SCALES + 1][ROWS];
};

template <bool unit, bool plain, bool first, class W>
void write_tile(
    const RowsOf<W>* x, int64_t classes, int64_t rows, W scale, const W* base, const W* a, const W* b, const W* gap,
    const W* at_max, RowsOf<W>* to) {
  for (int64_t c = 0; c < classes; ++c) {
#pragma omp simd
    EACH_ROW {
      const W g = x[c][r] - base[r], e = exp_nonpositive(unit ? g : scale * g, W());
      const W below = plain ? a[r] * e : e * (a[r] + b[r] * e + gap[r] * (1 + bounded_gap<W>(g)));
      const W one = x[c][r] == base[r] ? at_max[r] : below;
      to[c][r] = first ? one : to[c][r] + one;
    }
  }
}

// Write the gradient of rows, as `row_gradient` does; factors_of(r) returns the factors of a row.
template <class T, class W, class Out, class FactorsOf>
void tile_gradient(
    const Program& p, const Plan& plan, const Logits& z, int64_t start, int64_t count, FactorsOf factors_of, Out* out,
    int64_t out_stride) {
  alignas(64) W x[FEW][ROWS], y[FEW][ROWS], none[ROWS] = {};
  alignas(64) TileFactors<W> f;
  W constant[ROWS];  // value of all entries of a row, if constant
  bool filled[ROWS];
  const int64_t classes = z.classes, rows = padded(count);
  load_tile<T, W>(z, start, count, x);
  for (int64_t r = 0; r < rows; ++r) {
    const Factors<W> one = factors_of(std::min(r, count - 1));
    f.base[r] = one.base;
    f.min_base[r] = one.min_base;
    f.target[r] = one.target;
    f.at_max[r] = one.at_max;
    f.at_min[r] = one.at_min;
    f.present[r] = one.present;
    f.gap[r] = one.gap;
    f.soft_at_max[r] = one.soft_at_max;
    f.soft_below[r] = one.soft_below;
    for (int k = 0; k < plan.exponentials; ++k) {
      f.e[k][r] = one.e[k];
      f.square[k][r] = one.square[k];
    }
    filled[r] = one.nan || one.zero;
    constant[r] = one.nan ? nan_of<W> : 0;
  }
  for (int k = 0; k < plan.exponentials; ++k) {
    const Exponentials& of = plan.exponential[k];
    const W scale = static_cast<W>(of.scale), *const gap = of.gap ? f.gap : none;
    const bool plain = of.square < 0 && !of.gap;
    if (k > 0)
      write_tile<false, false, false>(x, classes, rows, scale, f.base, f.e[k], f.square[k], gap, none, y);
    else if (scale == 1 && plain)
      write_tile<true, true, true>(x, classes, rows, scale, f.base, f.e[k], f.square[k], gap, f.at_max, y);
    else
      write_tile<false, false, true>(x, classes, rows, scale, f.base, f.e[k], f.square[k], gap, f.at_max, y);
  }
  for (int64_t c = 0; c < classes && plan.exponentials == 0; ++c) {
#pragma omp simd
    EACH_ROW y[c][r] = x[c][r] == f.base[r] ? f.at_max[r] : 0;
  }
  for (int64_t c = 0; c < classes && (plan.minimum || plan.sums); ++c) {
#pragma omp simd
    EACH_ROW {
      y[c][r] += x[c][r] == f.min_base[r] ? f.at_min[r] : 0;
      y[c][r] += x[c][r] == -infinity<W> ? 0 : f.present[r];
    }
  }
  if (plan.soft) {
    alignas(64) W t[FEW][ROWS];
    load_soft_tile(z, start, count, t);
    for (int64_t c = 0; c < classes; ++c) {
#pragma omp simd
      EACH_ROW {
        const W factor = x[c][r] == f.base[r] ? f.soft_at_max[r] : f.soft_below[r];
        y[c][r] += x[c][r] == -infinity<W> || factor == 0 ? 0 : t[c][r] * factor;
      }
    }
  }
  for (int64_t r = 0; r < count; ++r, out += out_stride) {
    const int64_t column = column_of(z, start + r);
    if (column >= 0 && column < classes) {
      const W others = p.separate ? 0 : y[column][r];
      y[column][r] = x[column][r] == -infinity<W> ? others : others + f.target[r];
    }
    if (filled[r]) {
      for (int64_t c = 0; c < classes; ++c) narrow(constant[r], out[c]);
    } else {
      for (int64_t c = 0; c < classes; ++c) narrow(y[c][r], out[c]);
    }
  }
}

#undef EACH_ROW

}  // namespace
