// The kernel of losses on a CPU: the states of each row of logits, the loss as a program over them, and the gradient.
// It knows no statistic and no loss. A row is read in chunks that stay in the first cache; the compiler turns every loop
// into vector instructions. `cpu.py` calls it.

#include <optional>
#include <type_traits>
#include <vector>

#include "gradient.h"
#include "threads.h"

namespace {

// What weighs and leaves out rows, and where the results of all rows go.
template <class W>
struct Rows {
  int64_t ignore_index;
  const W *weight, *sample_weight;
  bool skip_zero_weight;
  W* losses;

  // The weight of a row in a mean; negative where it is left out.
  double weight_of(const Logits& z, int64_t r) const {
    if (z.target && z.target[r] == ignore_index) return -1;
    if (sample_weight && sample_weight[r] == 0) return -1;
    const double class_weight = class_weight_of(z, r);
    if (skip_zero_weight && class_weight == 0) return -1;
    return class_weight * (sample_weight ? sample_weight[r] : 1);
  }
  W class_weight_of(const Logits& z, int64_t r) const { return weight && z.target ? weight[z.target[r]] : 1; }
};

struct Sum {
  double losses = 0, weights = 0;
};

// Compute the losses of up to ROWS rows, and what their gradient needs: `kept` (rows, K), or null.
template <class T, class W>
void losses_of_group(
    const Program& p, const Plan& plan, const Kept& places, const Logits& z, const Rows<W>& rows, int64_t start,
    int64_t count, W* kept, Sum& sum) {
  alignas(64) static thread_local Registers<W> all;
  double weights[ROWS];
  bool nan[ROWS];
  W base[ROWS][2];
  for (int64_t k = 0; k < count; ++k) {
    const int64_t r = start + k;
    weights[k] = rows.weight_of(z, r);
    nan[k] = false;
    base[k][0] = base[k][1] = 0;
    if (weights[k] < 0) continue;
    W s[STATES];
    nan[k] = row_states<T, W>(p, plan, z, r, s) || s[BASE] != s[BASE];
    s[CLASS_WEIGHT] = rows.class_weight_of(z, r);
    for (int64_t i = 0; i < p.inputs; ++i) all.value[i][k] = s[p.input[i]];
    base[k][0] = s[BASE];
    base[k][1] = s[MIN_BASE];
  }
  const int64_t width = padded(count);
  evaluate(p, width, all);
  const W* const result = all.value[p.result];
  if (kept) differentiate(p, width, all);
  int source[DIFFERENTIABLE];  // register of each state with a derivative
  std::fill(source, source + DIFFERENTIABLE, -1);
  for (int64_t i = 0; i < p.inputs; ++i)
    if (p.input[i] < DIFFERENTIABLE) source[p.input[i]] = static_cast<int>(i);
  for (int64_t k = 0; k < count; ++k) {
    const bool out = weights[k] < 0;
    const W sample = rows.sample_weight ? rows.sample_weight[start + k] : 1;
    const W loss = out ? 0 : nan[k] ? nan_of<W> : result[k] * sample;
    if (rows.losses) rows.losses[start + k] = loss;
    sum.losses += loss;
    sum.weights += out ? 0 : weights[k];
    if (!kept) continue;
    W* const to = kept + k * places.count;
    to[0] = base[k][0];
    if (places.min_base >= 0) to[places.min_base] = base[k][1];
    for (int state = 0; state < DIFFERENTIABLE; ++state) {
      if (places.place[state] < 0) continue;
      const W d = out || source[state] < 0 ? 0 : sample * all.derivative[source[state]][k];
      to[places.place[state]] = loss != loss ? nan_of<W> : d;
    }
  }
}

// Return the number of the first row with a target that is no class, from 1, or 0; a run of classes cannot tell.
int64_t first_wrong_target(const Logits& z, std::optional<int64_t> ignore_index) {
  if (!z.target || z.start >= 0) return 0;
  for (int64_t r = 0; r < z.rows; ++r) {
    const int64_t y = z.target[r];
    if ((y < 0 || y >= z.classes) && y != ignore_index) return r + 1;
  }
  return 0;
}

// Call work(start, stop, sum) for each thread's rows, and write the sums over threads in their order.
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
    for (int64_t r = start; r < stop; ++r) {
      const W by = row_gradient_ ? row_gradient_[r] : scale;
      const Factors<W> factors(
          p, plan, places, by, [&](int k) { return kept[r * row_step + k * column_step]; });
      row_gradient<T>(p, plan, z, r, factors, out + r * out_stride);
    }
  });
}

// Both, in groups of rows whose logits stay in the second cache.
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
      for (int64_t k = 0; k < count; ++k) {
        const W by = row_gradient_ ? row_gradient_[at + k] : scale;
        const Factors<W> factors(p, plan, places, by, [&](int i) { return kept[k * places.count + i]; });
        row_gradient<T>(p, plan, z, at + k, factors, out + (at + k) * out_stride);
      }
    }
  });
}

template <class T, class W>
void states(const Program& p, const Logits& z, W* out) {
  const Plan plan(p);
  share(z.rows, z.rows * z.classes, z.threads, [&](int64_t start, int64_t stop, int64_t) {
    for (int64_t r = start; r < stop; ++r) {
      W s[STATES];
      row_states<T, W>(p, plan, z, r, s);
      int64_t place = r;
      for (int state = 0; state < STATES; ++state) {
        if (!uses(p, state)) continue;
        out[place] = s[state];
        place += z.rows;
      }
    }
  });
}

// Call work(pointer to a logit, pointer to a number that is worked with) of the types of a kind.
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

extern "C" int64_t equipoise_states(const Program* p, const Logits* z, void* out) {
  if (first_wrong_target(*z, std::nullopt)) return 0;
  dispatch(z->kind, [&](auto t, auto w) {
    using W = of_pointer<decltype(w)>;
    states<of_pointer<decltype(t)>>(*p, *z, static_cast<W*>(out));
  });
  return 1;
}

extern "C" int64_t equipoise_kept(const Program* p) { return Kept(*p).count; }

extern "C" int64_t equipoise_losses(
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

extern "C" void equipoise_gradient(
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

extern "C" int64_t equipoise_losses_and_gradient(
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

extern "C" void equipoise_add(
    const void* from, int64_t kind, int64_t count, int64_t threads, int64_t begin, float* to) {
  if (kind == 2) return add(static_cast<const Bfloat16*>(from), count, threads, begin, to);
  add(static_cast<const Float16*>(from), count, threads, begin, to);
}

// Call `work` for each of `count` numbers, in a thread of its own where there are as many.
extern "C" void equipoise_run_in_threads(int64_t count, void (*work)(int64_t)) {
  share(count, count << 14, count, [&](int64_t start, int64_t stop, int64_t) {
    for (int64_t k = start; k < stop; ++k) work(k);
  });
}
