// The coefficients of each knot, which all its orders share, and their adjoint.
#pragma once
#include "pulses.hpp"
#include "waits.hpp"

constexpr L AHEAD = 16;  // pulses whose sines are found at once

struct Knots : Waits {
  std::vector<Coefs> coefs;
  std::vector<V> cosines, sines;  // of flips, by knot; without a way back, of the next
  std::vector<S> turns_re, turns_im;  // of frames
  L start = 0;  // of the stretch that is kept

  Knots(const Call& c, L thread) : Waits(c, thread), coefs(1) {
    for (auto* x : {&cosines, &sines}) x->resize(BACK ? c.knots : AHEAD);
    for (auto* x : {&turns_re, &turns_im}) x->resize(PARTS == 2 && !OWN ? c.knots : 0);
  }
  const L* knot(L j) const { return call.knot + j * KNOT; }
  const Fade* fades_of(const L* k) const {
    return FADES ? fades.data() + call.tops[k[WAIT]] : nullptr;
  }
  S phase(L row) const { return row < 0 ? number(0) : given(block, PHASE, row); }
  // e^{i angle}, turned by quarters
  static void turned(const S& angle, L quarters, S& re, S& im) {
    S s, c;
    sine(angle, s, c);
    re = quarters == 0 ? c : quarters == 1 ? -s : quarters == 2 ? -c : s;
    im = quarters == 0 ? s : quarters == 1 ? c : quarters == 2 ? -s : -c;
  }
  static S unturned(const S& re, const S& im, const S& re_bar, const S& im_bar) {
    return pulled(re, im_bar) - pulled(im, re_bar);
  }
  S flip(const L* k) const {
    const S& x = block.values[FLIP][k[ROW]];
    return block.has(B1) ? x * block.values[B1][0] : x;
  }
  L efficiency_row(const L* k) const {
    return k[ROW] % (L)block.values[EFFICIENCY].size();
  }
  // of some knots, whose sines are independent and so overlap in the processor
  void find_sines(L from, L to) {
    for (L j = from; j < to; ++j)
      if (knot(j)[KIND] == 1) sine(angle_of(knot(j)), sines[place_of(j)], cosines[place_of(j)]);
  }
  static L place_of(L j) { return BACK ? j : j % AHEAD; }
  V angle_of(const L* k) const {
    if constexpr (BACK || D > 1) return flip(k).v[0];
    const V x = block.row(FLIP, k[ROW]);
    return block.has(B1) ? x * block.values[B1][0].v[0] : x;
  }
  INLINE void find_coefs(L j, Coefs& c) {
    const L* k = knot(j);
    for (int i = 0; i < N * N; ++i) c.U[i] = kinds.relax[k[WAIT] * N * N + i];
    for (int i = 0; i < N; ++i)
      c.grown[i] = k[REGROW] ? kinds.grown[k[WAIT] * N + i] : number(0);
    if constexpr (BOUND > 0) {
      constexpr int half = BOUND == 2 ? NB / 2 : NB;
      for (int i = 0; i < half; ++i) {
        c.bound[i] = block.values[SATURATED][j * half + i];
        if constexpr (BOUND == 2) {
          c.order[i] = block.values[ORDERED][j * half + i];
          c.cross[i] = block.values[CROSSED][j * half + i];
        }
      }
    }
    if (k[KIND] != 1) {
      c.pass = k[KIND] != 2           ? number(1)
               : block.has(EFFICIENCY) ? -block.values[EFFICIENCY][efficiency_row(k)]
                                       : number(-1);
      return;
    }
    if constexpr (D > 1) c.w = flip(k);
    const V cosine = cosines[place_of(j)], sin = sines[place_of(j)];
    find_turn(k, c);
    const V half = OWN && PARTS == 1 ? c.M[0].re.v[0] : all(1);
    const V U = OWN ? c.U[0].v[0] : all(1);
    c.HH = cosine * half;
    c.dd = -sin * half;
    c.hh0 = sin;
    c.zz0 = cosine;
    c.hh = sin * U;
    c.zz = cosine * U;
  }
  // half the decay of the interval, and its turn
  void find_turn(const L* k, Coefs& c) {
    const S* carry = kinds.carry.data() + k[WAIT] * NF * NF;
    const R half = R(0.5) * k[SIGN];
#if PARTS == 1
    for (int i = 0; i < NF * NF; ++i) c.M[i].re = half * carry[i];
#if OWN
    c.M[0].re = carry[0];  // its tangents are an exponent's
    c.M[0].re.v[0] = half * carry[0].v[0];
#endif
#else
    S angle = kinds.angle[k[WAIT]] + phase(k[BEFORE]) - phase(k[FRAME]), re, im;
    turned(angle, k[TURNS], re, im);
#if OWN
    const V size = half * carry[0].v[0];
    c.M[0] = {carry[0], angle};
    c.M[0].re.v[0] = size * re.v[0];
    c.M[0].im.v[0] = size * im.v[0];
#else
    const L j = (k - call.knot) / KNOT;
    turns_re[j] = re, turns_im[j] = im;
    const S* carry_im = kinds.carry_im.data() + k[WAIT] * NF * NF;
    for (int i = 0; i < NF * NF; ++i) {
      const S x = half * carry[i];
      c.M[i] = {re * x, im * x};
      if constexpr (SHIFTED) {
        const S y = half * carry_im[i];
        c.M[i] += X{-(im * y), re * y};
      }
    }
#endif
#endif
  }
  void unfind_coefs(L j, Coefs& b) {
    const L* k = knot(j);
    if constexpr (BOUND > 0) {
      constexpr int half = BOUND == 2 ? NB / 2 : NB;
      for (int i = 0; i < half; ++i) {
        block.bars[SATURATED][j * half + i] += b.bound[i];
        if constexpr (BOUND == 2) {
          block.bars[ORDERED][j * half + i] += b.order[i];
          block.bars[CROSSED][j * half + i] += b.cross[i];
        }
      }
    }
    if (k[KIND] == 1)
      unfind_pulse(j, b);
    else if (k[KIND] == 2 && block.has(EFFICIENCY))
      block.bars[EFFICIENCY][efficiency_row(k)] -= b.pass;
    if constexpr (OWN) b.U[0].v[0] = b.U[0].v[0] * coefs[j - start].U[0].v[0];
    for (int i = 0; i < N * N; ++i) bars.relax[k[WAIT] * N * N + i] += b.U[i];
    for (int i = 0; i < N && k[REGROW]; ++i)
      bars.grown[k[WAIT] * N + i] += b.grown[i];
  }
  void unfind_pulse(L j, Coefs& b) {
    const L* k = knot(j);
    const Coefs& c = coefs[j - start];
    const V &cosine = cosines[j], &sin = sines[j];
    const V half = OWN && PARTS == 1 ? c.M[0].re.v[0] : all(1);
    const V U = OWN ? c.U[0].v[0] : all(1);
    const V c_bar = b.zz0 + U * b.zz + half * b.HH;
    const V s_bar = b.hh0 + U * b.hh - half * b.dd;
    if constexpr (OWN) b.U[0].v[0] += sin * b.hh + cosine * b.zz;
    if constexpr (OWN && PARTS == 1) b.M[0].re.v[0] += cosine * b.HH - sin * b.dd;
    b.w.v[0] = cosine * s_bar - sin * c_bar;
    if (block.has(B1)) {
      block.bars[FLIP][k[ROW]] += pulled(block.values[B1][0], b.w);
      block.bars[B1][0] += pulled(block.values[FLIP][k[ROW]], b.w);
    } else {
      block.bars[FLIP][k[ROW]] += b.w;
    }
    unfind_turn(k, c, b);
  }
  void unfind_turn(const L* k, const Coefs& c, Coefs& b) {
    S* carry = bars.carry.data() + k[WAIT] * NF * NF;
#if PARTS == 1
#if OWN
    b.M[0].re.v[0] = b.M[0].re.v[0] * c.M[0].re.v[0];
    carry[0] += b.M[0].re;
#else
    for (int i = 0; i < NF * NF; ++i) carry[i] += (R(0.5) * k[SIGN]) * b.M[i].re;
#endif
#else
#if OWN
    const V &re = c.M[0].re.v[0], &im = c.M[0].im.v[0];
    S size = b.M[0].re, angle = b.M[0].im;
    size.v[0] = re * b.M[0].re.v[0] + im * b.M[0].im.v[0];
    angle.v[0] = re * b.M[0].im.v[0] - im * b.M[0].re.v[0];
    carry[0] += size;
#else
    const L j = (k - call.knot) / KNOT;
    const R half = R(0.5) * k[SIGN];
    const S *was = kinds.carry.data() + k[WAIT] * NF * NF;
    const S *was_im = kinds.carry_im.data() + k[WAIT] * NF * NF;
    S* carry_im = bars.carry_im.data() + k[WAIT] * NF * NF;
    const S &re = turns_re[j], &im = turns_im[j];
    S re_bar = number(0), im_bar = number(0);
    for (int i = 0; i < NF * NF; ++i) {
      const S x = half * b.M[i].re, y = half * b.M[i].im;
      carry[i] += pulled(re, x) + pulled(im, y);
      re_bar += pulled(was[i], x);
      im_bar += pulled(was[i], y);
      if constexpr (SHIFTED) {
        carry_im[i] += pulled(re, y) - pulled(im, x);
        re_bar += pulled(was_im[i], y);
        im_bar -= pulled(was_im[i], x);
      }
    }
    const S angle = unturned(re, im, re_bar, im_bar);
#endif
    bars.angle[k[WAIT]] += angle;
    if (block.has(PHASE)) {
      if (k[BEFORE] >= 0) block.bars[PHASE][k[BEFORE]] += angle;
      if (k[FRAME] >= 0) block.bars[PHASE][k[FRAME]] -= angle;
    }
#endif
  }
};
