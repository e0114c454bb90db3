// A block of logits, and functions that read a chunk of a row.

#pragma once

#include <algorithm>
#include <type_traits>

#include "program.h"

namespace {

struct Logits {
  void* data;
  int64_t kind;    // 0 float64, 1 float32, 2 bfloat16, 3 float16
  int64_t stride;  // of the rows; the classes of a row are contiguous
  int64_t rows, classes;
  const int64_t* target;  // (rows), indices among all classes, or null
  int64_t start;          // class of the first column, or -1: the rows are complete
  double softcap;         // s, for logits s tanh(z / s), or 0
  const void* soft;       // table of soft targets, (all classes, all classes) or (all classes), or null
  int64_t soft_stride;    // of the rows, 0 for (all classes)
  int64_t threads;
};

constexpr int64_t CHUNK = 2048;  // classes that fit in the first cache

// A loop over the classes, which computes the sums of e^(scale gap), of its squares, and of gap e^gap.
struct Exponentials {
  double scale;
  int slot, square;  // scale slots that the sums belong to, or -1
  bool gap;
};

// The loops over the classes that a program needs; computed once per call.
struct Plan {
  int exponentials = 0;
  Exponentials exponential[SCALES + 1];
  bool sums, minimum, greater, soft;

  explicit Plan(const Program& p) {
    bool gap = uses(p, MAX_GAP) || uses(p, REST_GAP);
    const auto wanted = [&](int s) { return s < p.scales && uses(p, REST_EXP + s); };
    for (int s = 0; s < p.scales; ++s) {
      const bool pair = s + 1 < p.scales && p.scale[s + 1] == 2 * p.scale[s] && wanted(s + 1);
      if (!wanted(s) && !pair) continue;
      exponential[exponentials++] = {p.scale[s], wanted(s) ? s : -1, pair ? s + 1 : -1, gap && p.scale[s] == 1};
      gap = gap && p.scale[s] != 1;
      s += pair;
    }
    if (gap) exponential[exponentials++] = {1.0, -1, -1, true};
    sums = uses(p, SUM_LOGIT) || uses(p, COUNT);
    minimum = uses(p, MIN_BASE) || uses(p, MIN_EXP);
    greater = uses(p, GREATER);
    soft = uses_any(p, MAX_SOFT_GAP, REST_SOFT_GAP) || uses_any(p, MAX_SOFT, TARGET_SOFT);
  }
};

// Column of the target of a row; outside [0, classes) if the target is not in this block.
inline int64_t column_of(const Logits& z, int64_t r) {
  return z.target ? z.target[r] - std::max<int64_t>(0, z.start) : -1;
}

template <class W>
inline const W* soft_of(const Logits& z, int64_t r) {
  return static_cast<const W*>(z.soft) + (z.target ? z.target[r] * z.soft_stride : 0) + std::max<int64_t>(0, z.start);
}

// Cap logits, and write the derivative of the cap. Not inlined, so that all calls give equal bits.
template <class W>
__attribute__((noinline)) void cap_logits(W* x, int64_t count, W cap, W* chain) {
#pragma omp simd
  for (int64_t c = 0; c < (count / LANES) * LANES; ++c) {
    const W scaled = x[c] / cap, e = exp_of_minus(2 * scaled), share = 1 / (1 + e);
    x[c] = cap * tanh_(scaled);
    chain[c] = 4 * e * share * share;
  }
}

// Running maximum of logits; nan is ignored.
template <class W>
struct RunningMax {
  Vector<W> highest[4];  // four, as consecutive updates of one wait for each other

  RunningMax() {
    for (auto& one : highest) one = Vector<W>{} - infinity<W>;
  }
  INLINE void update(int k, Vector<W> z) { highest[k] = z > highest[k] ? z : highest[k]; }
  INLINE W value() const {
    const auto larger = [](auto a, auto b) { return a > b ? a : b; };
    return combined<W>(larger(larger(highest[0], highest[1]), larger(highest[2], highest[3])), larger);
  }
};

// Return the maximum of map(logits); `count` is a multiple of LANES.
template <class W, class Map>
inline W max_of_padded(const W* x, int64_t count, Map map) {
  RunningMax<W> max;
  int64_t c = 0;
  for (; c + 4 * VECTOR<W> <= count; c += 4 * VECTOR<W>)
    for (int k = 0; k < 4; ++k) max.update(k, map(vector_at(x + c + k * VECTOR<W>)));
  for (; c < count; c += VECTOR<W>) max.update(0, map(vector_at(x + c)));
  return max.value();
}
template <class W>
inline W max_of_padded(const W* x, int64_t count) {
  return max_of_padded(x, count, [](Vector<W> z) { return z; });
}

// Read `count` logits and pad them with -inf to a multiple of LANES. Return the largest.
template <class T, class W>
inline W load(const T* from, int64_t count, W cap, W* x, W* chain) {
  const int64_t end = padded(count);
  for (int64_t c = 0; c < LANES; ++c) x[end - LANES + c] = -infinity<W>;
  if constexpr (std::is_same_v<T, W>) {
    if (cap == 0 && count >= VECTOR<W>) {  // by vectors: compilers turn a copying loop into slow string instructions
      RunningMax<W> max;
      const auto copy = [&](int64_t c, int k) {
        const Vector<W> z = vector_at(from + c);
        std::memcpy(x + c, &z, sizeof z);
        max.update(k, z);
      };
      int64_t c = 0;
      for (; c + 4 * VECTOR<W> <= count; c += 4 * VECTOR<W>)
        for (int k = 0; k < 4; ++k) copy(c + k * VECTOR<W>, k);
      for (; c + VECTOR<W> <= count; c += VECTOR<W>) copy(c, 0);
      if (c < count) copy(count - VECTOR<W>, 1);
      return max.value();
    }
  }
#pragma omp simd
  for (int64_t c = 0; c < count; ++c) x[c] = wide<W>(from[c]);
  if (cap != 0) {
    cap_logits(x, end, cap, chain);
    std::fill(x + count, x + end, -infinity<W>);
  }
  return max_of_padded(x, end);
}

// Return the largest number; nan is ignored.
template <class W, class T>
inline W max_of(const T* x, int64_t count) {
  constexpr int64_t STEP = 4 * VECTOR<W>;
  RunningMax<W> max;
  const auto update = [&](const W* from) {
    for (int k = 0; k < 4; ++k) max.update(k, vector_at(from + k * VECTOR<W>));
  };
  W copy[static_cast<size_t>(STEP)];
  int64_t c = 0;
  for (; c + STEP <= count; c += STEP) {
    if constexpr (std::is_same_v<T, W>) {
      update(x + c);
    } else {
#pragma omp simd
      for (int64_t k = 0; k < STEP; ++k) copy[k] = wide<W>(x[c + k]);
      update(copy);
    }
  }
  for (int64_t k = 0; k < STEP; ++k) copy[k] = c + k < count ? wide<W>(x[c + k]) : -infinity<W>;
  update(copy);
  return max.value();
}

}  // namespace
