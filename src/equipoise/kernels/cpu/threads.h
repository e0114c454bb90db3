// Parallel loops over the threads of the OpenMP library that torch has loaded.

#pragma once

#include <algorithm>
#include <cstdint>

#include "numbers.h"

// The function that `#pragma omp parallel` calls; with this declaration g++ and clang link no OpenMP of their own.
extern "C" {
void GOMP_parallel(void (*work)(void*), void* data, unsigned threads, unsigned flags);
int omp_get_thread_num();
int omp_get_num_threads();
}

namespace {

constexpr int64_t MOST_THREADS = 1024;

// Call work(start, stop, part) in each thread for its part of `count` items, which have `numbers` numbers in all.
template <class Work>
void share(int64_t count, int64_t numbers, int64_t threads, Work work) {
  threads = std::max<int64_t>(1, std::min({threads, numbers >> 14, MOST_THREADS}));
  if (threads == 1) return work(int64_t(0), count, int64_t(0));
  struct Shared {
    Work& work;
    int64_t count;
  } shared{work, count};
  GOMP_parallel(
      [](void* data) {
        auto& [part_of, all] = *static_cast<Shared*>(data);
        const int64_t part = omp_get_thread_num(), parts = omp_get_num_threads();
        part_of(all * part / parts, all * (part + 1) / parts, part);
      },
      &shared, static_cast<unsigned>(threads), 0);
}

// Add numbers to a sum in float, or, if `begin`, overwrite it with them.
template <class T>
void add(const T* from, int64_t count, int64_t threads, bool begin, float* to) {
  share(count, count, threads, [&](int64_t start, int64_t stop, int64_t) {
#pragma omp simd
    for (int64_t k = start; k < stop; ++k) to[k] = (begin ? 0 : to[k]) + wide<float>(from[k]);
  });
}

}  // namespace
