// Work that is shared out over threads.

#pragma once

#include <algorithm>
#include <cstdint>

#include "arithmetic.h"

#ifdef _OPENMP
#include <omp.h>
#endif

namespace {

// Call work(start, stop) for each thread's share of `count`; `numbers` is how many there are to work on.
template <class Work>
void share(int64_t count, int64_t numbers, int64_t threads, Work work) {
#ifdef _OPENMP
  threads = std::max<int64_t>(1, std::min(threads, numbers >> 14));
#pragma omp parallel num_threads(static_cast<int>(threads))
  {
    const int64_t part = omp_get_thread_num(), parts = omp_get_num_threads();
    work(count * part / parts, count * (part + 1) / parts);
  }
#else
  work(0, count);
#endif
}

// Add numbers to a sum in float, or begin it with them.
template <class T>
void add(const T* from, int64_t count, int64_t threads, bool begin, float* to) {
  share(count, count, threads, [&](int64_t start, int64_t stop) {
#pragma omp simd
    for (int64_t k = start; k < stop; ++k) to[k] = (begin ? 0 : to[k]) + wide<float>(from[k]);
  });
}

}  // namespace
