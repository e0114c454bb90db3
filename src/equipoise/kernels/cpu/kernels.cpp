// The CPU kernel of losses: it computes the states of each row of logits, runs the program of a loss on them, and
// writes the gradient. It has no code of single statistics or losses. A row is read in chunks that fit in the first
// cache; compilers vectorise every loop. `cpu.py` calls it.

#include <optional>
#include <type_traits>
#include <vector>

#include "threads.h"
#include "tile.h"

namespace {

// Weights of rows, the rule for rows that are left out, and the array of the results.
template <class W>
struct Rows {
  int64_t ignore_index;
  const W *weight, *sample_weight;
  bool skip_zero_weight;
  W* losses;

  bool left_out(const Logits& z, int64_t r) const {
    if (z.target && z.target[r] == ignore_index) return true;
    return (sample_weight && sample_weight[r] == 0) || (skip_zero_weight && class_weight_of(z, r) == 0);
  }
  // The weight of a row in a mean.
  double weight_of(const Logits& z, int64_t r) const {
    return static_cast<double>(class_weight_of(z, r)) * (sample_weight ? sample_weight[r] : 1);
  }
  W class_weight_of(const Logits& z, int64_t r) const { return weight && z.target ? weight[z.target[r]] : 1; }
};

struct Sum {
  double losses = 0, weights = 0;
};

// Compute the states of up to ROWS rows, and whether the loss of each is nan.
template <class T, class W>
void states_of_group(
    const Program& p, const Plan& plan, const Logits& z, int64_t start, int64_t count, const bool* left_out,
    RowsOf<W>* s, bool* nan) {
  if (is_tile(z)) return tile_states<T>(p, plan, z, start, count, s, nan);
  const auto copied = [&](int state) { return uses(p, state) || state == BASE || state == MIN_BASE; };
  for (int64_t r = 0; r < count; ++r) {
    if (left_out[r]) continue;
    W row[STATES];
    nan[r] = row_states<T, W>(p, plan, z, start + r, row);
    for (int state = 0; state < STATES; ++state)
      if (copied(state)) s[state][r] = row[state];
  }
}

// Compute the losses of up to ROWS rows, and the numbers for their gradient: `kept` (rows, K), or null.
template <class T, class W>
void losses_of_group(
    const Program& p, const Plan& plan, const Kept& places, const Logits& z, const Rows<W>& rows, int64_t start,
    int64_t count, W* kept, Sum& sum) {
  alignas(64) static thread_local Registers<W> registers;
  Registers<W>& all = registers;
  bool left_out[ROWS] = {}, nan[ROWS] = {};
  for (int64_t r = 0; r < count; ++r) left_out[r] = rows.left_out(z, start + r);
  states_of_group<T, W>(p, plan, z, start, count, left_out, all.state, nan);
  if (uses(p, CLASS_WEIGHT))
    for (int64_t r = 0; r < count; ++r) all.state[CLASS_WEIGHT][r] = left_out[r] ? 0 : rows.class_weight_of(z, start + r);
  const int64_t width = padded(count);
  const W* derivative[DIFFERENTIABLE] = {};
  for (int64_t i = 0; i < p.inputs; ++i) {
    const int state = p.input[i];
    std::copy(all.state[state], all.state[state] + width, all.value[i]);
    if (state < DIFFERENTIABLE) derivative[state] = all.derivative[i];
  }
  evaluate(p, width, all);
  if (kept) differentiate(p, width, all);
  W loss[ROWS];
  for (int64_t r = 0; r < count; ++r) {
    const W sample = rows.sample_weight ? rows.sample_weight[start + r] : 1;
    loss[r] = left_out[r] ? 0 : nan[r] ? nan_of<W> : all.value[p.result][r] * sample;
    sum.losses += loss[r];
    sum.weights += left_out[r] ? 0 : rows.weight_of(z, start + r);
  }
  if (rows.losses) std::copy(loss, loss + count, rows.losses + start);
  if (!kept) return;
  for (int64_t r = 0; r < count; ++r, kept += places.count) {
    const W sample = rows.sample_weight ? rows.sample_weight[start + r] : 1;
    kept[0] = left_out[r] ? 0 : all.state[BASE][r];
    if (places.min_base >= 0) kept[places.min_base] = left_out[r] ? 0 : all.state[MIN_BASE][r];
    for (int state = 0; state < DIFFERENTIABLE; ++state) {
      if (places.place[state] < 0) continue;
      const W d = left_out[r] || !derivative[state] ? 0 : sample * derivative[state][r];
      kept[places.place[state]] = loss[r] != loss[r] ? nan_of<W> : d;
    }
  }
}

// Write the gradient of up to ROWS rows from the numbers kept by `losses_of_group`; `scale` has one factor per row if
// `each`, else one for all.
template <class T, class W, class Out>
void gradient_of_group(
    const Program& p, const Plan& plan, const Kept& places, const Logits& z, int64_t start, int64_t count,
    const W* kept, int64_t row_step, int64_t column_step, const W* scale, bool each, Out* out, int64_t out_stride) {
  const auto factors_of = [&](int64_t r) {
    return Factors<W>(
        p, plan, places, scale[each ? r : 0], [&](int k) { return kept[r * row_step + k * column_step]; });
  };
  if (is_tile(z)) return tile_gradient<T, W>(p, plan, z, start, count, factors_of, out, out_stride);
  for (int64_t r = 0; r < count; ++r) row_gradient<T>(p, plan, z, start + r, factors_of(r), out + r * out_stride);
}

// Return 1 + the index of the first row whose target is no class, or 0; always 0 for blocks of some of the classes.
int64_t first_wrong_target(const Logits& z, std::optional<int64_t> ignore_index) {
  if (!z.target || z.start >= 0) return 0;
  for (int64_t r = 0; r < z.rows; ++r) {
    const int64_t y = z.target[r];
    if ((y < 0 || y >= z.classes) && y != ignore_index) return r + 1;
  }
  return 0;
}

// Call work(start, stop, sum) in each thread for its rows, and write the totals, added in the order of the threads.
template <class Work>
void sum_over_rows(const Logits& z, double* result, Work work) {
  std::vector<Sum> sums(static_cast<size_t>(std::clamp<int64_t>(z.threads, 1, MOST_THREADS)));
  share(z.rows, z.rows * z.classes, z.threads, [&](int64_t start, int64_t stop, int64_t part) {
    Sum sum;
    work(start, stop, sum);
    sums[static_cast<size_t>(part)] = sum;
  });
  result[0] = result[1] = 0;
  for (const Sum& sum : sums) {
    result[0] += sum.losses;
    result[1] += sum.weights;
  }
}

template <class T, class W>
void losses(const Program& p, const Logits& z, const Rows<W>& rows, W* kept, double* result) {
  const Plan plan(p);
  const Kept places(p);
  sum_over_rows(z, result, [&](int64_t start, int64_t stop, Sum& sum) {
    for (int64_t at = start; at < stop; at += ROWS)
      losses_of_group<T>(
          p, plan, places, z, rows, at, std::min(ROWS, stop - at), kept ? kept + at * places.count : nullptr, sum);
  });
}

template <class T, class W, class Out>
void gradient(
    const Program& p, const Logits& z, const W* kept, int64_t row_step, int64_t column_step, const W* row_gradient_,
    W scale, Out* out, int64_t out_stride) {
  const Plan plan(p);
  const Kept places(p);
  share(z.rows, z.rows * z.classes, z.threads, [&](int64_t start, int64_t stop, int64_t) {
    for (int64_t at = start; at < stop; at += ROWS)
      gradient_of_group<T>(
          p, plan, places, z, at, std::min(ROWS, stop - at), kept + at * row_step, row_step, column_step,
          row_gradient_ ? row_gradient_ + at : &scale, row_gradient_ != nullptr, out + at * out_stride, out_stride);
  });
}

// Losses and gradients, in groups of rows whose logits fit in the second cache.
template <class T, class W, class Out>
void losses_and_gradient(
    const Program& p, const Logits& z, const Rows<W>& rows, const W* row_gradient_, W scale, Out* out,
    int64_t out_stride, double* result) {
  const Plan plan(p);
  const Kept places(p);
  const int64_t fit = (int64_t(512) << 10) / std::max<int64_t>(1, z.classes * static_cast<int64_t>(sizeof(T)));
  const int64_t group = std::min(ROWS, std::max<int64_t>(1, fit));
  sum_over_rows(z, result, [&](int64_t start, int64_t stop, Sum& sum) {
    W kept[ROWS * (DIFFERENTIABLE + 2)];
    for (int64_t at = start; at < stop; at += group) {
      const int64_t count = std::min(group, stop - at);
      losses_of_group<T>(p, plan, places, z, rows, at, count, kept, sum);
      gradient_of_group<T>(
          p, plan, places, z, at, count, kept, places.count, 1, row_gradient_ ? row_gradient_ + at : &scale,
          row_gradient_ != nullptr, out + at * out_stride, out_stride);
    }
  });
}

template <class T, class W>
void states(const Program& p, const Logits& z, W* out) {
  const Plan plan(p);
  share(z.rows, z.rows * z.classes, z.threads, [&](int64_t start, int64_t stop, int64_t) {
    alignas(64) W s[STATES][ROWS];
    const bool left_out[ROWS] = {};
    bool nan[ROWS] = {};
    for (int64_t at = start; at < stop; at += ROWS) {
      const int64_t count = std::min(ROWS, stop - at);
      states_of_group<T, W>(p, plan, z, at, count, left_out, s, nan);
      W* to = out + at;
      for (int state = 0; state < STATES; ++state) {
        if (!uses(p, state)) continue;
        std::copy(s[state], s[state] + count, to);
        to += z.rows;
      }
    }
  });
}

// Call work(T*, W*) with the types of a kind: T of the logits, W of the computation.
template <class Work>
void dispatch(int64_t kind, Work work) {
  constexpr float* in_float = nullptr;
  constexpr double* in_double = nullptr;
  if (kind == 0) return work(in_double, in_double);
  if (kind == 1) return work(in_float, in_float);
  if (kind == 2) return work(static_cast<Bfloat16*>(nullptr), in_float);
  work(static_cast<Float16*>(nullptr), in_float);
}

template <class P>
using of_pointer = std::remove_pointer_t<P>;

}  // namespace

#ifdef _WIN32
#define EXPORT extern "C" __declspec(dllexport)
#else
#define EXPORT extern "C"
#endif

// Compute in the threads of this OpenMP library from now on; without a call, in the thread of the caller.
EXPORT void equipoise_use_openmp(const OpenMP* given) { openmp = *given; }

EXPORT int64_t equipoise_states(const Program* p, const Logits* z, void* out) {
  if (first_wrong_target(*z, std::nullopt)) return 0;
  dispatch(z->kind, [&](auto t, auto w) {
    using W = of_pointer<decltype(w)>;
    states<of_pointer<decltype(t)>>(*p, *z, static_cast<W*>(out));
  });
  return 1;
}

EXPORT int64_t equipoise_kept(const Program* p) { return Kept(*p).count; }

EXPORT int64_t equipoise_losses(
    const Program* p, const Logits* z, int64_t ignore_index, const void* weight, const void* sample_weight,
    int64_t skip_zero_weight, void* losses_, void* kept, double* result) {
  if (registers(*p) > REGISTERS) return -1;
  if (const int64_t wrong = first_wrong_target(*z, ignore_index)) return wrong;
  dispatch(z->kind, [&](auto t, auto w) {
    using W = of_pointer<decltype(w)>;
    const Rows<W> rows{
        ignore_index, static_cast<const W*>(weight), static_cast<const W*>(sample_weight), skip_zero_weight != 0,
        static_cast<W*>(losses_)};
    losses<of_pointer<decltype(t)>>(*p, *z, rows, static_cast<W*>(kept), result);
  });
  return 0;
}

EXPORT void equipoise_gradient(
    const Program* p, const Logits* z, const void* kept, int64_t row_step, int64_t column_step,
    const void* row_gradient_, double scale, void* out, int64_t out_stride, int64_t out_in_W) {
  dispatch(z->kind, [&](auto t, auto w) {
    using T = of_pointer<decltype(t)>;
    using W = of_pointer<decltype(w)>;
    const auto write = [&](auto* to) {
      gradient<T>(*p, *z, static_cast<const W*>(kept), row_step, column_step, static_cast<const W*>(row_gradient_),
                  static_cast<W>(scale), to, out_stride);
    };
    if (out_in_W) return write(static_cast<W*>(out));
    write(static_cast<T*>(out));
  });
}

EXPORT int64_t equipoise_losses_and_gradient(
    const Program* p, const Logits* z, int64_t ignore_index, const void* weight, const void* sample_weight,
    int64_t skip_zero_weight, const void* row_gradient_, double scale, void* losses_, void* out, int64_t out_stride,
    int64_t out_in_W, double* result) {
  if (registers(*p) > REGISTERS) return -1;
  if (const int64_t wrong = first_wrong_target(*z, ignore_index)) return wrong;
  dispatch(z->kind, [&](auto t, auto w) {
    using T = of_pointer<decltype(t)>;
    using W = of_pointer<decltype(w)>;
    const Rows<W> rows{
        ignore_index, static_cast<const W*>(weight), static_cast<const W*>(sample_weight), skip_zero_weight != 0,
        static_cast<W*>(losses_)};
    const auto write = [&](auto* to) {
      losses_and_gradient<T>(*p, *z, rows, static_cast<const W*>(row_gradient_), static_cast<W>(scale), to, out_stride,
                             result);
    };
    if (out_in_W) return write(static_cast<W*>(out));
    write(static_cast<T*>(out));
  });
  return 0;
}

EXPORT void equipoise_add(
    const void* from, int64_t kind, int64_t count, int64_t threads, int64_t begin, float* to) {
  if (kind == 2) return add(static_cast<const Bfloat16*>(from), count, threads, begin, to);
  add(static_cast<const Float16*>(from), count, threads, begin, to);
}

// Call `work` for each number below `count`, each in a separate thread if there are enough.
EXPORT void equipoise_run_in_threads(int64_t count, void (*work)(int64_t)) {
  share(count, count << 14, count, [&](int64_t start, int64_t stop, int64_t) {
    for (int64_t k = start; k < stop; ++k) work(k);
  });
}
