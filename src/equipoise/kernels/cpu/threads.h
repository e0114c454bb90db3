// Parallel loops over the threads of the OpenMP library that torch has loaded.

#pragma once

#include <algorithm>
#include <cstdint>

#include "numbers.h"

// What an OpenMP library is called by: `parallel` in libgomp's convention, or `fork` and the two before it in LLVM's,
// and who asks. Addresses are given when the kernels are loaded, so that they link no OpenMP of their own.
struct OpenMP {
  void (*parallel)(void (*work)(void*), void* data, unsigned threads, unsigned flags);
  int32_t (*thread)(void* place);
  void (*push_threads)(void* place, int32_t thread, int32_t threads);
  void (*fork)(void* place, int32_t count, void (*work)(int32_t*, int32_t*, void*), void* data);
  int (*thread_number)();
  int (*threads)();
};

namespace {

constexpr int64_t MOST_THREADS = 1024;

OpenMP openmp{};

// Call work(data) in each of `threads` threads.
inline void in_parallel(int64_t threads, void (*work)(void*), void* data) {
  if (openmp.parallel) return openmp.parallel(work, data, static_cast<unsigned>(threads), 0);
  static char name[] = ";unknown;unknown;0;0;;";
  static struct {
    int32_t reserved, flags, reserved_too, size;
    char* source;
  } place{0, 2, 0, 22, name};  // LLVM's ident_t: flag 2 says that a compiler calls as `fork` expects
  struct Work {
    void (*work)(void*);
    void* data;
  } both{work, data};
  openmp.push_threads(&place, openmp.thread(&place), static_cast<int32_t>(threads));
  openmp.fork(
      &place, 1,
      [](int32_t*, int32_t*, void* given) {
        const Work& of = *static_cast<Work*>(given);
        of.work(of.data);
      },
      &both);
}

// Call work(start, stop, part) in each thread for its part of `count` items, which have `numbers` numbers in all.
template <class Work>
void share(int64_t count, int64_t numbers, int64_t threads, Work work) {
  threads = std::max<int64_t>(1, std::min({threads, numbers >> 14, MOST_THREADS}));
  if (threads == 1 || !openmp.threads) return work(int64_t(0), count, int64_t(0));
  struct Shared {
    Work& work;
    int64_t count;
  } shared{work, count};
  in_parallel(
      threads,
      [](void* data) {
        auto& [part_of, all] = *static_cast<Shared*>(data);
        const int64_t part = openmp.thread_number(), parts = openmp.threads();
        part_of(all * part / parts, all * (part + 1) / parts, part);
      },
      &shared);
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
