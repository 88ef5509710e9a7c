// The readings: the signal from F at their places, and the adjoint of that.
#pragma once
#include "knots.hpp"
#include "layout.hpp"

constexpr L SOON = 4;  // readings: while they are found, memory of the next comes

struct Readings : Knots {
  const Layout layout{call};
  std::vector<F> places, place_bars;
  std::vector<Z> orders, order_bars;
  std::vector<F> seen;  // by the readings

  Readings(const Call& c, L thread) : Knots(c, thread) {
    F no_place;
    Z no_order;
    for (X& x : no_place.x) x = nothing();
    for (X& x : no_order.x) x = nothing();
    places.assign(layout.places, no_place);
    orders.assign(layout.orders, no_order);
    place_bars.assign(BACK ? c.places : 0, no_place);
    order_bars.assign(BACK ? c.orders : 0, no_order);
    seen.assign(BACK ? c.readings : 0, no_place);
  }

  void weight(const L* r, S& re, S& im) const {
    const L kind = r[READ_WAIT] - call.intervals;
    const S demod = given(block, DEMOD, r[READ_ROW]);
    turned(kinds.read_angle[kind] + phase(r[READ_FRAME]) - demod, r[READ_TURN], re, im);
  }
  // what the kinds of waits make of F, before phases
  X arriving(const L* r, const F& f) const {
    const L kind = r[READ_WAIT] - call.intervals;
    const S* read = kinds.read.data() + kind * NF;
    X x = read[0] * f.x[0];
    for (int i = 1; i < NF; ++i) x += read[i] * f.x[i];
#if PARTS == 2
    if constexpr (SHIFTED) {
      const S* more = kinds.read_im.data() + kind * NF;
      for (int i = 0; i < NF; ++i) x += X{-(more[i] * f.x[i].im), more[i] * f.x[i].re};
    }
#endif
    return x;
  }
  // the signal of M0 = 1
  void signal(const L* r, const X& x, S& re, S& im) const {
#if PARTS == 2
    S c, s;
    weight(r, c, s);
    re = c * x.re - s * x.im;
    im = s * x.re + c * x.im;
#else
    const L q = (r[READ_TURN] + r[PART]) & 3;
    (q & 1 ? im : re) = q & 2 ? -x.re : x.re;
    (q & 1 ? re : im) = number(0);
#endif
  }
  // A store that waits for memory holds up all those after it, to states in the caches;
  // what is read row by row lies on pages that no processor foresees.
  // Inline: compilers leave out calls that do nothing but fetch.
  template <int id> INLINE void expect(L j, L copy) const {
    const Array *value = block.arrays[id][VALUE], *moved = block.arrays[id][TANGENT];
    if (value) block.expect<id == SIGNAL>(value, copy, j);
    for (L k = 0; moved && k < call.tangents + call.late; ++k)
      block.expect<id == SIGNAL>(moved, call.ways[k], j);
  }
  void look(L j) {
    const L* r = call.reading + j * LOOK;
    if (D > 1 && !BACK && j + SOON < call.readings) expect<SIGNAL>(j + SOON, 0);
    S re = number(0), im = number(0);
    if (r[PLACE] >= 0) {
      const F& f = places[layout.reading(j)];
      if (BACK) seen[j] = f;
      signal(r, arriving(r, f), re, im);
    }
    const Array *value = block.arrays[SIGNAL][VALUE], *moved = block.arrays[SIGNAL][TANGENT];
    for (L k = call.tangents; moved && k < call.tangents + call.late; ++k) {
      const V size = block.tangent(M0, k);
      block.write(moved, call.ways[k], j, size * re.v[0], size * im.v[0]);
    }
    if (block.has(M0)) {
      const S& size = block.values[M0][0];
      re = size * re;
      im = size * im;
    }
    if (value) block.write(value, 0, j, re.v[0], im.v[0]);
    for (int k = 1; moved && k < D && k <= call.tangents; ++k)
      block.write(moved, call.ways[k - 1], j, re.v[k], im.v[k]);
  }
  void unlook(L j, L copy) {
    const L* r = call.reading + j * LOOK;
    if (j >= SOON) expect<COTANGENT>(j - SOON, copy);
    if (r[PLACE] < 0) return;
    const L kind = r[READ_WAIT] - call.intervals;
    const S* read = kinds.read.data() + kind * NF;
    const Array *value = block.arrays[COTANGENT][VALUE], *moved = block.arrays[COTANGENT][TANGENT];
    S re = number(0), im = number(0);
    if (value) block.read(value, copy, j, re.v[0], im.v[0]);
    for (int k = 1; k < D && k <= call.tangents; ++k)
      block.read(moved, call.ways[k - 1], j, re.v[k], im.v[k]);
    const F& f = seen[j];
    F& bar = place_bars[r[PLACE]];
    const X x = arriving(r, f);
    if (block.has(M0)) {
      S a, b;
      signal(r, x, a, b);
      block.bars[M0][0] += pulled(a, re) + pulled(b, im);
      re = pulled(block.values[M0][0], re);
      im = pulled(block.values[M0][0], im);
    }
    for (L k = call.tangents; k < call.tangents + call.late; ++k) {
      const V size = block.tangent(M0, k);
      V a, b;
      block.read(moved, call.ways[k], j, a, b);
      re.v[0] += size * a;
      im.v[0] += size * b;
    }
#if PARTS == 2
    S c, s;
    weight(r, c, s);
    const X y{pulled(c, re) + pulled(s, im), pulled(c, im) - pulled(s, re)};
    const S c_bar = pulled(x.re, re) + pulled(x.im, im);
    const S s_bar = pulled(x.re, im) - pulled(x.im, re);
    const S angle = unturned(c, s, c_bar, s_bar);
    bars.read_angle[kind] += angle;
    if (block.has(PHASE) && r[READ_FRAME] >= 0) block.bars[PHASE][r[READ_FRAME]] += angle;
    if (block.has(DEMOD)) block.bars[DEMOD][r[READ_ROW]] -= angle;
    if constexpr (SHIFTED) {
      const S* more = kinds.read_im.data() + kind * NF;
      for (int i = 0; i < NF; ++i) {
        bars.read_im[kind * NF + i] += pulled(f.x[i].re, y.im) - pulled(f.x[i].im, y.re);
        bar.x[i] += X{pulled(more[i], y.im), -pulled(more[i], y.re)};
      }
    }
#else
    const L q = (r[READ_TURN] + r[PART]) & 3;
    const S& one = q & 1 ? im : re;
    const X y{q & 2 ? -one : one};
#endif
    for (int i = 0; i < NF; ++i) {
      bars.read[kind * NF + i] += dotted(f.x[i], y);
      bar.x[i] += pulled(read[i], y);
    }
  }
};
