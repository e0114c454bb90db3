// Programs: elementwise instructions that compute the loss of a row from its states. `cpu.py` has the same tables.

#pragma once

#include <algorithm>
#include <cstdint>

#include "elementary.h"

namespace {

enum State : int {
  TARGET_LOGIT, MAX_GAP, REST_GAP, MIN_EXP, SUM_LOGIT, MAX_EXP, REST_EXP = 9, MAX_SOFT_GAP = 13, REST_SOFT_GAP,
  BASE, MIN_BASE, COUNT, GREATER, MAX_SOFT, REST_SOFT, TARGET_SOFT, CLASS_WEIGHT, STATES
};
constexpr int DIFFERENTIABLE = BASE;  // states before this have a derivative by the logits
constexpr int SCALES = 4;

enum Op : int32_t {
  NEG, ADD, SUB, MUL, DIV, EXP, LOG, LOG1P, EXPM1, LOGSIGMOID, SIGMOID, SOFTPLUS, TANH, SQRT, RELU, ABS, MAXIMUM,
  MINIMUM, POW, GT, LT, EQ, NE, GE, LE, AND, OR, NOT, WHERE, CLAMP, DETACH
};

struct Instruction {
  int32_t op, a, b, c;  // registers: inputs first, then constants, then the instructions
};

struct Program {
  int64_t separate;  // whether the sums are over the classes without the target
  int64_t scales;
  double scale[SCALES];
  int64_t used;  // a bit per state
  int64_t inputs;
  const int32_t* input;  // state of each input
  int64_t constants;
  const double* constant;
  int64_t length;
  const Instruction* code;
  int64_t result;  // register of the loss
};

constexpr int64_t ROWS = 64;         // rows per group
constexpr int64_t REGISTERS = 192;   // at most, in a program
constexpr int64_t LANES = 16;        // rows and classes are padded to a multiple, so that loops have no remainder

inline int64_t padded(int64_t count) { return (count + LANES - 1) / LANES * LANES; }
inline int64_t registers(const Program& p) { return p.inputs + p.constants + p.length; }
inline bool uses(const Program& p, int state) { return p.used >> state & 1; }
inline bool uses_any(const Program& p, int first, int last) {
  return p.used >> first & ((int64_t(1) << (last - first + 1)) - 1);
}

// The states of up to ROWS rows, the registers, and the derivative of the loss by each register.
template <class W>
struct Registers {
  alignas(64) W state[STATES][ROWS];
  alignas(64) W value[REGISTERS][ROWS];
  alignas(64) W derivative[REGISTERS][ROWS];
};

// a b, but 0 if a or b is 0: a branch that was not taken may have a derivative of infinity or nan.
template <class W>
INLINE W product(W a, W b) {
  const W with_b = b == 0 ? 0 : a * b;
  return a == 0 ? 0 : with_b;
}

// The bound is written as a multiple of LANES, so that the compiler generates no remainder loop.
#define EACH_ROW _Pragma("omp simd") for (int64_t r = 0; r < (rows / LANES) * LANES; ++r)

// Compute all registers from the inputs; `rows` is a multiple of LANES.
template <class W>
void evaluate(const Program& p, int64_t rows, Registers<W>& all) {
  W(*const value)[ROWS] = all.value;
  for (int64_t k = 0; k < p.constants; ++k)
    std::fill(value[p.inputs + k], value[p.inputs + k] + rows, static_cast<W>(p.constant[k]));
  const int64_t first = p.inputs + p.constants;
#define VALUE(OP, EXPRESSION) \
  case OP: \
    EACH_ROW { \
      [[maybe_unused]] const W x = a[r], y = b[r]; \
      to[r] = EXPRESSION; \
    } \
    break
  for (int64_t k = 0; k < p.length; ++k) {
    const Instruction i = p.code[k];
    const W *const a = value[i.a], *const b = value[i.b], *const c = value[i.c];
    W* const to = value[first + k];
    switch (i.op) {
      VALUE(NEG, -x);
      VALUE(ADD, x + y);
      VALUE(SUB, x - y);
      VALUE(MUL, x * y);
      VALUE(DIV, x / y);
      VALUE(EXP, exp_(x));
      VALUE(LOG, log_(x));
      VALUE(LOG1P, log1p_(x));
      VALUE(EXPM1, expm1_(x));
      VALUE(LOGSIGMOID, -softplus_(-x));
      VALUE(SIGMOID, sigmoid_(x));
      VALUE(SOFTPLUS, softplus_(x));
      VALUE(TANH, tanh_(x));
      VALUE(SQRT, std::sqrt(x));
      VALUE(RELU, x < 0 ? 0 : x);
      VALUE(ABS, std::fabs(x));
      VALUE(MAXIMUM, ((x > y) | (x != x)) ? x : y);
      VALUE(MINIMUM, ((x < y) | (x != x)) ? x : y);
      VALUE(GT, x > y ? 1 : 0);
      VALUE(LT, x < y ? 1 : 0);
      VALUE(EQ, x == y ? 1 : 0);
      VALUE(NE, x != y ? 1 : 0);
      VALUE(GE, x >= y ? 1 : 0);
      VALUE(LE, x <= y ? 1 : 0);
      VALUE(AND, ((x != 0) & (y != 0)) ? 1 : 0);
      VALUE(OR, ((x != 0) | (y != 0)) ? 1 : 0);
      VALUE(NOT, x == 0 ? 1 : 0);
      VALUE(WHERE, x != 0 ? y : c[r]);
      VALUE(DETACH, x);
      case CLAMP:
        EACH_ROW {
          const W x = a[r], low = b[r], high = c[r], up = ((x > low) | (x != x)) ? x : low;
          to[r] = ((up < high) | (up != up)) ? up : high;
        }
        break;
      case POW: {  // special cases give the results of torch for -0 and minus infinity
        const bool constant = i.b >= p.inputs && i.b < first;
        if (constant && b[0] == 2) {
          EACH_ROW to[r] = a[r] * a[r];
        } else if (constant && b[0] == W(0.5)) {
          EACH_ROW to[r] = std::sqrt(a[r]);
        } else if (constant && b[0] == W(-0.5)) {
          EACH_ROW to[r] = 1 / std::sqrt(a[r]);
        } else {
          EACH_ROW to[r] = pow_(a[r], b[r]);
        }
        break;
      }
    }
  }
#undef VALUE
}

// Compute the derivative of the result by every input, in reverse mode.
template <class W>
void differentiate(const Program& p, int64_t rows, Registers<W>& all) {
  W(*const value)[ROWS] = all.value;
  W(*const derivative)[ROWS] = all.derivative;
  const int64_t first = p.inputs + p.constants, count = first + p.length;
  std::memset(derivative, 0, static_cast<size_t>(count) * sizeof derivative[0]);
  std::fill(derivative[p.result], derivative[p.result] + rows, W(1));
  const auto varies = [&](int64_t k) { return k < p.inputs || k >= first; };
  for (int64_t k = p.length; k-- > 0;) {
    const Instruction i = p.code[k];
    const W *const a = value[i.a], *const b = value[i.b], *const c = value[i.c], *const result = value[first + k];
    const W* const d = derivative[first + k];
    W *const to_a = derivative[i.a], *const to_b = derivative[i.b], *const to_c = derivative[i.c];
#define ADD_TO(TO, EXPRESSION) \
  EACH_ROW { \
    [[maybe_unused]] const W x = a[r], y = b[r], z = result[r]; \
    TO[r] += product(d[r], EXPRESSION); \
  }
#define ONE(OP, EXPRESSION) \
  case OP: \
    ADD_TO(to_a, EXPRESSION); \
    break
#define TWO(OP, LEFT, RIGHT) \
  case OP: \
    if (varies(i.a)) ADD_TO(to_a, LEFT); \
    if (varies(i.b)) ADD_TO(to_b, RIGHT); \
    break
    switch (i.op) {
      ONE(NEG, W(-1));
      TWO(ADD, W(1), W(1));
      TWO(SUB, W(1), W(-1));
      TWO(MUL, y, x);
      TWO(DIV, 1 / y, -z / y);
      ONE(EXP, z);
      ONE(LOG, 1 / x);
      ONE(LOG1P, 1 / (1 + x));
      ONE(EXPM1, exp_(x));  // not z + 1, which cancels for z near -1
      ONE(LOGSIGMOID, sigmoid_(-x));
      ONE(SOFTPLUS, sigmoid_(x));
      ONE(SQRT, W(0.5) / z);
      ONE(RELU, x > 0 ? W(1) : W(0));
      ONE(ABS, x > 0 ? W(1) : x < 0 ? W(-1) : W(0));
      TWO(MAXIMUM, x > y ? W(1) : x == y ? W(0.5) : W(0), y > x ? W(1) : x == y ? W(0.5) : W(0));
      TWO(MINIMUM, x < y ? W(1) : x == y ? W(0.5) : W(0), y < x ? W(1) : x == y ? W(0.5) : W(0));
      case SIGMOID:
        EACH_ROW {
          const W e = exp_of_minus(a[r]), share = 1 / (1 + e);
          to_a[r] += product(d[r], e * share * share);
        }
        break;
      case TANH:
        EACH_ROW {
          const W e = exp_of_minus(2 * a[r]), share = 1 / (1 + e);
          to_a[r] += product(d[r], 4 * e * share * share);
        }
        break;
      case WHERE:
        if (varies(i.b)) ADD_TO(to_b, x != 0 ? W(1) : W(0));
        if (varies(i.c)) ADD_TO(to_c, x != 0 ? W(0) : W(1));
        break;
      case CLAMP:  // y is the lower bound
        ADD_TO(to_a, ((x >= y) & (x <= c[r])) ? W(1) : W(0));
        if (varies(i.b)) ADD_TO(to_b, ((x < y) & (y < c[r])) ? W(1) : W(0));
        if (varies(i.c)) ADD_TO(to_c, ((x > c[r]) | (y > c[r])) ? W(1) : W(0));
        break;
      case POW:
        if (!varies(i.b) && b[0] == 2) {
          ADD_TO(to_a, 2 * x);
        } else if (!varies(i.b) && b[0] == W(0.5)) {
          ADD_TO(to_a, W(0.5) / z);
        } else {
          ADD_TO(to_a, derivative_of_pow(x, y));
          if (varies(i.b)) ADD_TO(to_b, ((x == 0) & (y >= 0)) ? W(0) : z * log_(x));
        }
        break;
      default:  // comparisons and detach
        break;
    }
#undef ADD_TO
#undef ONE
#undef TWO
  }
}

#undef EACH_ROW

}  // namespace
