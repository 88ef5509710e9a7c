// Where the numbers of a block of lanes come from and where their adjoints go.
#pragma once
#include <cstdlib>
#include <vector>

#include "states.hpp"

enum Input {
  FLIP, B1, PHASE, DEMOD, EFFICIENCY,                  // of each row, of each lane
  DURATION, T1, T2, M0, DF,                            // OWN: what the kinds follow from
  RELAX, CARRY, CARRY_IM, GROWN, ANGLE, READ, READ_IM, // else: given for each kind
  READ_ANGLE, START, LOSS, TURN, SATURATED, ORDERED, CROSSED, INPUTS
};
constexpr int SIGNAL = INPUTS, COTANGENT = INPUTS + 1, AXES = 6;
enum Role { VALUE, TANGENT, GRADIENT, TOTAL, MOVED_GRADIENT, MOVED_TOTAL, ROLES };
enum KnotField {
  KIND, ROW, FIRST, COUNT, STEP, BASE, ENTERS, LEAVES, SIGN, WAIT, REGROW, TURNS, BEFORE,
  FRAME, CLEAR, CLEARS_F, CLEARS_Z, FIRST_READING, READINGS, STORE, KNOT
};
enum ReadingField { PLACE, READ_WAIT, READ_TURN, READ_FRAME, READ_ROW, PART, ORDER, LOOK };
typedef int64_t L;

// a tensor (leading, part, row, *batch) with a stride for each axis
struct Array {
  L id, role, rows;
  R* data;
  L lead, part, row, axes[AXES];
};

struct Call {
  L lanes, ndim, sizes[AXES], threads, knots, readings, intervals, kinds, places, orders;
  L stored, copies, tangents;  // copies of the cotangent; tangents that are given
  const L *knot, *reading, *clears, *waits, *rows, *tops;
  L arrays;
  const Array* array;
};

struct Lanes {  // of one block: the offsets of its lanes in an array
  L at[W];
  int step;  // 0: all the same, 1: consecutive, -1: neither
};

struct Block {
  const Call& call;
  L first, count, thread;
  std::vector<Lanes> lanes;
  std::vector<S> values[INPUTS], bars[INPUTS];
  const Array* arrays[INPUTS + 2][ROLES] = {};

  explicit Block(const Call& c, L thread) : call(c), thread(thread), lanes(c.arrays) {
    for (L i = 0; i < c.arrays; ++i) arrays[c.array[i].id][c.array[i].role] = c.array + i;
    for (int i = 0; i < INPUTS; ++i)
      if (arrays[i][VALUE]) {
        values[i].resize(arrays[i][VALUE]->rows);
        bars[i].resize(arrays[i][VALUE]->rows);
      }
  }
  bool has(int input) const { return arrays[input][VALUE]; }
  const Lanes& of(const Array* a) const { return lanes[a - call.array]; }

  void place(L start) {
    first = start;
    count = call.lanes - start < W ? call.lanes - start : W;
    for (L i = 0; i < call.arrays; ++i) {
      const Array& a = call.array[i];
      Lanes& here = lanes[i];
      for (int l = 0; l < W; ++l) {
        L lane = start + (l < count ? l : count - 1), at = 0;
        for (L d = call.ndim; d-- > 1;) {
          at += lane % call.sizes[d] * a.axes[d];
          lane /= call.sizes[d];
        }
        here.at[l] = at + lane * a.axes[0];
      }
      bool same = true, next = true;
      for (int l = 1; l < W; ++l) {
        same &= here.at[l] == here.at[0];
        next &= here.at[l] == here.at[0] + l;
      }
      here.step = same ? 0 : next ? 1 : -1;
    }
  }
  V read(const R* p, const Lanes& at) const {
    if (at.step == 0) return all(p[at.at[0]]);
    if (at.step == 1) return load(p + at.at[0]);
    V x;
    for (int l = 0; l < W; ++l) x[l] = p[at.at[l]];
    return x;
  }
  void gather() {
    for (int i = 0; i < INPUTS; ++i) {
      const Array *v = arrays[i][VALUE], *t = arrays[i][TANGENT];
      if (!v) continue;
      for (L r = 0; r < v->rows; ++r) {
        S& x = values[i][r];
        x = number(0);
        x.v[0] = read(v->data + r * v->row, of(v));
        if (t)
          for (int k = 1; k < D && k <= call.tangents; ++k)
            x.v[k] = read(t->data + (k - 1) * t->lead + r * t->row, of(t));
      }
    }
  }
  void write(R* p, const Lanes& at, V x) const {
    if (at.step == 1 && count == W) return store(p + at.at[0], x);
    for (L l = 0; l < count; ++l) p[at.at[l]] = x[l];
  }
  void clear_bars() {
    for (auto& rows : bars)
      for (S& x : rows) x = number(0);
  }
  void put(const Array* a, L lead, L row, V x) const {
    if (a->role == GRADIENT || a->role == MOVED_GRADIENT)
      return write(a->data + lead * a->lead + row * a->row, of(a), x);
    double sum = 0;
    for (L l = 0; l < count; ++l) sum += x[l];
    ((double*)a->data)[thread * a->part + lead * a->lead + row * a->row] += sum;
  }
  void scatter(L copy) const {
    for (int i = 0; i < INPUTS; ++i)
      for (int role : {GRADIENT, TOTAL, MOVED_GRADIENT, MOVED_TOTAL}) {
        const Array* a = arrays[i][role];
        if (!a) continue;
        const bool moved = role == MOVED_GRADIENT || role == MOVED_TOTAL;
        for (L r = 0; r < a->rows; ++r) {
          if (!moved) put(a, copy, r, bars[i][r].v[0]);
          for (int k = 1; moved && k < D && k <= call.tangents; ++k)
            put(a, k - 1, r, bars[i][r].v[k]);
        }
      }
  }
};

// zero where a program has no such field
INLINE S given(const Block& b, int input, L row, R absent = 0) {
  return b.has(input) ? b.values[input][row] : number(absent);
}
