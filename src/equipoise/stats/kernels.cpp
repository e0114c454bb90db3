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
#include <limits>

#include "loops.h"
#include "threads.h"

namespace {

constexpr int64_t CHUNK = 2048;

// A block of logits: what both kernels are told of it.
struct Block {
  void* logits;           // (rows, width), classes side by side
  int64_t stride;         // from row to row
  int64_t rows, width;
  int64_t pitch;          // from one of the numbers of a row to the next
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
  int64_t kept;           // whether the logits are overwritten by e^(scale gap), or are that already; -0 where masked
};

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
  share(block.rows, block.rows * block.width, block.threads, [&](int64_t start, int64_t stop) {
    for (int64_t r = start; r < stop; ++r) work(r);
  });
}

// Whether the exponentials at a scale are the squares of those before.
inline bool doubles(const Block& block, int64_t k) {
  return k > 0 && block.scales[k] == 2 * block.scales[k - 1];
}

// What is asked beside the powers, bit by bit.
enum : int64_t { TIES = 1, LEVEL = 2, LOWEST = 4, LARGER = 8 };

// Write, a row of numbers each: the target's logit, the largest, how many share it, the sum of the logits and how
// many they are, the smallest, how many share it, how many are larger than the target's, the sum of e^gap times
// minus the gap; then for each scale the sum of e^(scale gap) over the smaller ones, and for each soft target the
// sums of it times minus the gap and of it. Return whether every target is a class; a run of them cannot tell.
template <class T, class W>
int64_t sums(const Block& block, int64_t asked, W* out) {
  std::atomic<int64_t> good{1};
  over_rows(block, [&](int64_t r) {
    T* const row = static_cast<T*>(block.logits) + r * block.stride;
    const int64_t width = block.width;
    const int64_t column = column_of(block, r);
    if (block.start < 0 && block.target && (column < 0 || column >= width)) {
      good = 0;
      return;
    }
    const W cap = static_cast<W>(block.cap);
    W x[CHUNK], e[CHUNK];
    W own = -infinity<W>, top = -infinity<W>, bottom = infinity<W>;
    double total = 0, classes = 0;
    const auto read = [&](int64_t at, int64_t count, bool level) {
      const W highest = load<T, W>(row + at, count, cap, x, nullptr);
      if (level) total += level_of(x, count, classes);
      if (!block.apart || column < at || column >= at + count) return highest;
      own = x[column - at];
      x[column - at] = -infinity<W>;
      return own == highest ? largest(x, count) : highest;
    };
    for (int64_t at = 0; at < width; at += CHUNK) {
      const int64_t count = std::min(CHUNK, width - at);
      const W highest = read(at, count, asked & LEVEL);
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
    const int64_t first = std::find(block.whole, block.whole + block.powers, 0) - block.whole;
    bool nan = false;
    double ties = 0, lows = 0, larger = 0, spread = 0;
    W* const after = out + 9 * block.pitch + r;
    for (int64_t k = 0; k < block.powers + 2 * block.soft; ++k) after[k * block.pitch] = 0;
    for (int64_t at = 0; at < width; at += CHUNK) {
      const int64_t count = std::min(CHUNK, width - at);
      if (width > CHUNK) read(at, count, false);
      if (asked & TIES || (block.powers == 0 && !(asked & LOWEST))) ties += count_of(x, count, top, nan);
      if (asked & LOWEST) lows += count_of(x, count, bottom, nan);
      if (asked & LARGER) {
        W more = 0;
#pragma omp simd reduction(+ : more)
        for (int64_t c = 0; c < count; ++c) more += x[c] > own ? 1 : 0;
        larger += more;
      }
      for (int64_t k = 0; k < block.powers; ++k) {
        const W scale = static_cast<W>(block.scales[k]);
        const W* const held = doubles(block, k) ? e : nullptr;
        W sum;
        if (block.whole[k]) {
          sum = exponentials(x, count, base, scale, held, e);
        } else {
          double same = 0, gaps = 0;
          sum = held ? smaller<true>(x, count, top, base, scale, held, e, same, gaps)
                     : smaller<false>(x, count, top, base, scale, held, e, same, gaps);
          if (scale == 1) spread += gaps;
          if (k == first) ties += same;
        }
        nan |= sum != sum;
        if (block.kept && k == 0) {
          const bool marks = block.soft || (asked & LEVEL);
#pragma omp simd
          for (int64_t c = 0; c < count; ++c)
            narrow(marks && x[c] == -infinity<W> ? W(-0.0) : e[c], row[at + c]);
        }
        after[k * block.pitch] += sum;
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
        after[(block.powers + 2 * k) * block.pitch] += gaps;
        after[(block.powers + 2 * k + 1) * block.pitch] += sum;
      }
    }
    if (nan) top = bottom = std::numeric_limits<W>::quiet_NaN();
    const bool empty = top == -infinity<W>;
    if (empty)
      for (int64_t k = 0; k < block.powers; ++k) after[k * block.pitch] = 0;
    const double numbers[] = {own, top, empty ? 0 : ties, total, classes, bottom, lows, larger, empty ? 0 : spread};
    for (int64_t k = 0; k < 9; ++k) out[k * block.pitch + r] = static_cast<W>(numbers[k]);
  });
  return good;
}

// Write the slope: `numbers` holds, a row each, what the exponentials are relative to, the level, the slope at the
// target, the factor of e^(scale gap) for each scale, that of it times the gap, the marked logits, their marks, and
// the factors of the soft targets. Where exponentials were kept there are no gaps, marks and cap.
template <class T, class W, class Out>
void slope(const Block& block, int64_t marks, const W* numbers, Out* out, int64_t out_stride) {
  over_rows(block, [&](int64_t r) {
    const T* row = static_cast<const T*>(block.logits) + r * block.stride;
    Out* const to = out + r * out_stride;
    const int64_t column = column_of(block, r);
    const W cap = static_cast<W>(block.cap);
    const auto number = [&](int64_t k) { return numbers[k * block.pitch + r]; };
    const W base = base_of(number(0)), level = number(1);
    W x[CHUNK], e[CHUNK], y[CHUNK], chain[CHUNK];
    if (block.powers == 1 && marks == 0 && block.soft == 0 && cap == 0) {
      const W scale = static_cast<W>(block.scales[0]), a = number(3), b = number(4);
      const bool kept = block.kept;
      for (int64_t at = 0; at < block.width; at += CHUNK) {
        const int64_t count = std::min(CHUNK, block.width - at);
        const W* const from = widened(row + at, count, x);
        W* const into = room_of(to + at, y);
        if (kept && level == 0) {
#pragma omp simd
          for (int64_t c = 0; c < count; ++c) into[c] = a * from[c];
        } else if (kept) {
#pragma omp simd
          for (int64_t c = 0; c < count; ++c) into[c] = std::signbit(from[c]) ? 0 : level + a * from[c];
        } else if (scale == 1 && b == 0) {
          spread<true, true>(from, count, base, scale, level, a, b, into);
        } else if (scale == 1) {
          spread<true, false>(from, count, base, scale, level, a, b, into);
        } else {
          spread<false, false>(from, count, base, scale, level, a, b, into);
        }
        if (block.apart && column >= at && column < at + count) into[column - at] = number(2);
        narrowed(into, count, to + at);
      }
      return;
    }
    for (int64_t at = 0; at < block.width; at += CHUNK) {
      const int64_t count = std::min(CHUNK, block.width - at);
      load<T, W>(row + at, count, cap, x, chain);
      if (block.powers == 0) std::fill(y, y + count, level);
      const W* held = block.kept ? x : nullptr;
      for (int64_t k = 0; k < block.powers; ++k) {
        const W scale = static_cast<W>(block.scales[k]), a = number(3 + k), b = number(3 + block.powers + k);
        if (!block.kept || k > 0) {
          exponentials(x, count, base, scale, doubles(block, k) ? held : nullptr, e);
          held = e;
        }
        if (k == 0) {
#pragma omp simd
          for (int64_t c = 0; c < count; ++c) y[c] = level + a * held[c];
        } else {
#pragma omp simd
          for (int64_t c = 0; c < count; ++c) y[c] += a * held[c];
        }
        if (b != 0) {
#pragma omp simd
          for (int64_t c = 0; c < count; ++c) y[c] += b * (held[c] * gap_of(x[c], base));
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
      if (level != 0 || marks || block.soft) {
        const bool kept = block.kept;
#pragma omp simd
        for (int64_t c = 0; c < count; ++c) y[c] = (kept ? std::signbit(x[c]) : x[c] == -infinity<W>) ? 0 : y[c];
      }
      if (block.apart && column >= at && column < at + count) y[column - at] = number(2);
      if (cap != 0)
        for (int64_t c = 0; c < count; ++c) y[c] *= chain[c];
      narrowed(y, count, to + at);
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

extern "C" void equipoise_add(
    const void* from, int64_t kind, int64_t count, int64_t threads, int64_t begin, float* to) {
  if (kind == 2) return add(static_cast<const Bfloat16*>(from), count, threads, begin, to);
  add(static_cast<const _Float16*>(from), count, threads, begin, to);
}

// Call `work` for each lane, in a thread of its own where there are as many.
extern "C" void equipoise_lanes(int64_t lanes, void (*work)(int64_t)) {
  share(lanes, lanes << 14, lanes, [&](int64_t start, int64_t stop) {
    for (int64_t lane = start; lane < stop; ++lane) work(lane);
  });
}
