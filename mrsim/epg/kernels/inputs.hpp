// Where the numbers of a block of lanes come from and where their adjoints go.
#pragma once
#include <algorithm>
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
  L copies;  // of the cotangent
  L tangents, late;  // that move states; that are of M0 alone, and scale the signal
  const L *knot, *reading, *clears, *waits, *rows, *tops;
  const L* ways;  // where each of these tangents lies on leading axes
  L arrays;
  const Array* array;
};

struct Lanes {  // of one block: the offsets of its lanes in an array
  L at[W];
  int step;     // from lane to lane; -1: no such number
  bool shared;  // by the lanes of all blocks
};

struct Block {
  const Call& call;
  L first, count, thread;
  bool known = false;  // what all blocks share
  std::vector<Lanes> lanes;
  std::vector<S> values[INPUTS], bars[INPUTS];
  const Array* arrays[INPUTS + 2][ROLES] = {};
  std::vector<L> moving[INPUTS];  // the rows with adjoints; those of other events stay zero

  explicit Block(const Call& c, L thread) : call(c), thread(thread), lanes(c.arrays) {
    for (L i = 0; i < c.arrays; ++i) arrays[c.array[i].id][c.array[i].role] = c.array + i;
    for (int i = 0; i < INPUTS; ++i)
      if (arrays[i][VALUE]) {
        values[i].resize(arrays[i][VALUE]->rows);
        bars[i].resize(arrays[i][VALUE]->rows);
      }
    if (BACK) find_moving();
    for (L i = 0; i < c.arrays; ++i)
      lanes[i].shared = std::all_of(c.array[i].axes, c.array[i].axes + AXES, [](L s) { return !s; });
  }
  void find_moving() {
    std::vector<bool> some[INPUTS];
    for (int i = 0; i < INPUTS; ++i) some[i].assign(bars[i].size(), i != FLIP && i != DURATION);
    for (L j = 0; j < call.knots; ++j) {
      const L* k = call.knot + j * KNOT;
      if (k[KIND] == 1) some[FLIP][k[ROW]] = true;
    }
    for (L r = 0; has(DURATION) && r < call.waits[call.kinds]; ++r)
      some[DURATION][call.rows[r]] = true;
    for (int i = 0; i < INPUTS; ++i)
      for (size_t r = 0; r < some[i].size(); ++r)
        if (some[i][r]) moving[i].push_back(r);
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
      here.step = here.at[1] - here.at[0];
      for (int l = 2; l < W; ++l)
        if (here.at[l] - here.at[l - 1] != here.step) here.step = -1;
    }
  }
  V read(const R* p, const Lanes& at) const {
    if (at.step == 0) return all(p[at.at[0]]);
    if (at.step == 1) return both(p + at.at[0]);
    V x;
    for (int l = 0; l < W; ++l) lane(x, l) = p[at.at[l]];
    return x;
  }
  V row(int input, L r) const {
    const Array* a = arrays[input][VALUE];
    return read(a->data + r * a->row, of(a));
  }
  void gather() {
    for (int i = 0; i < INPUTS; ++i) {
      if (i == FLIP && D == 1 && !BACK) continue;  // read where it is needed
      const Array *v = arrays[i][VALUE], *t = arrays[i][TANGENT];
      if (!v || (known && of(v).shared && (!t || of(t).shared))) continue;
      for (L r = 0; r < v->rows; ++r) {
        S& x = values[i][r];
        x = number(0);
        x.v[0] = read(v->data + r * v->row, of(v));
        if (t)
          for (int k = 1; k < D && k <= call.tangents; ++k)
            x.v[k] = read(t->data + call.ways[k - 1] * t->lead + r * t->row, of(t));
      }
    }
    known = true;
  }
  // a complex number of each lane
  void read(const Array* a, L lead, L row, V& re, V& im) const {
    const R* p = a->data + lead * a->lead + row * a->row;
    const Lanes& at = of(a);
    if (a->part == 1 && at.step == 2 && count == W) {
      load_pairs(p + at.at[0], re, im);
    } else {
      re = read(p, at), im = read(p + a->part, at);
    }
  }
  void write(const Array* a, L lead, L row, V re, V im) const {
    R* p = a->data + lead * a->lead + row * a->row;
    const Lanes& at = of(a);
    if (a->part == 1 && at.step == 2 && count == W) {
      store_pairs(p + at.at[0], re, im);
    } else {
      write(p, at, re), write(p + a->part, at, im);
    }
  }
  // ask for the memory of a complex number before it is read or written
  template <bool written> INLINE void expect(const Array* a, L lead, L row) const {
    const R* p = a->data + lead * a->lead + row * a->row;
    const Lanes& at = of(a);
    __builtin_prefetch(p + at.at[0], written);
    __builtin_prefetch(p + at.at[W - 1] + a->part, written);
  }
  V tangent(int input, L k) const {
    const Array* t = arrays[input][TANGENT];
    return read(t->data + call.ways[k] * t->lead, of(t));
  }
  void write(R* p, const Lanes& at, V x) const {
    if (at.step == 1 && count == W) return store(p + at.at[0], x);
    for (L l = 0; l < count; ++l) p[at.at[l]] = lane(x, l);
  }
  void clear_bars() {
    for (int i = 0; i < INPUTS; ++i)
      for (L r : moving[i]) bars[i][r] = number(0);
  }
  static INLINE double added(V x) {
    typedef R Half __attribute__((vector_size(sizeof(V) / 2)));
    typedef double Wide __attribute__((vector_size(W / 2 * sizeof(double))));
    Half low, high;
    std::memcpy(&low, &x, sizeof low);
    std::memcpy(&high, (const char*)&x + sizeof low, sizeof high);
    const Wide all = __builtin_convertvector(low, Wide) + __builtin_convertvector(high, Wide);
    double sum = 0;
    for (int l = 0; l < W / 2; ++l) sum += all[l];
    return sum;
  }
  INLINE void put(const Array* a, L lead, L row, V x) const {
    if (a->role == GRADIENT || a->role == MOVED_GRADIENT)
      return write(a->data + lead * a->lead + row * a->row, of(a), x);
    if (count < W)
      for (L l = count; l < W; ++l) lane(x, l) = 0;
    const double sum = added(x);
    ((double*)a->data)[thread * a->part + lead * a->lead + row * a->row] += sum;
  }
  void scatter(L copy) const {
    for (int i = 0; i < INPUTS; ++i)
      for (int role : {GRADIENT, TOTAL, MOVED_GRADIENT, MOVED_TOTAL}) {
        const Array* a = arrays[i][role];
        if (!a) continue;
        const bool moved = role == MOVED_GRADIENT || role == MOVED_TOTAL;
        const auto add = [&](L r) {
          if (!moved) put(a, copy, r, bars[i][r].v[0]);
          for (int k = 1; moved && k < D && k <= call.tangents; ++k)
            put(a, call.ways[k - 1], r, bars[i][r].v[k]);
        };
        if (role == TOTAL || role == MOVED_TOTAL)
          for (L r : moving[i]) add(r);
        else
          for (L r = 0; r < a->rows; ++r) add(r);
      }
  }
};

// zero where a program has no such field
INLINE S given(const Block& b, int input, L row, R absent = 0) {
  return b.has(input) ? b.values[input][row] : number(absent);
}
