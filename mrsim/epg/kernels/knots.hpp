// The coefficients of each knot, which all its orders share, and their adjoint.
#pragma once
#include "waits.hpp"

struct Knots : Waits {
  std::vector<Coefs> coefs;
  std::vector<S> cosines, sines, turns_re, turns_im;  // of flips and frames, by knot
  L start = 0;  // of the stretch that is kept

  Knots(const Call& c, L thread) : Waits(c, thread), coefs(1) {
    for (auto* x : {&cosines, &sines, &turns_re, &turns_im}) x->resize(c.knots);
  }
  const L* knot(L j) const { return call.knot + j * KNOT; }
  const Fade* fades_of(const L* k) const {
    return FADES ? fades.data() + call.tops[k[WAIT]] : nullptr;
  }
  Coefs& coefs_of(L j) { return coefs[BACK ? (j - start) % (L)coefs.size() : 0]; }
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
  void find_coefs(L j) {
    const L* k = knot(j);
    Coefs& c = coefs_of(j);
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
      const bool inverts = k[KIND] == 2;
      c.zz0 = !inverts                 ? number(1)
              : block.has(EFFICIENCY) ? -block.values[EFFICIENCY][efficiency_row(k)]
                                      : number(-1);
      c.zz = ONE ? c.zz0 * c.U[0] : c.zz0;
      return;
    }
    S &cosine = cosines[j], &sin = sines[j];
    sine(flip(k), sin, cosine);
    const S* carry = kinds.carry.data() + k[WAIT] * NF * NF;
    const R half = R(0.5) * k[SIGN];
#if PARTS == 2
    const S* carry_im = kinds.carry_im.data() + k[WAIT] * NF * NF;
    S &re = turns_re[j], &im = turns_im[j];
    turned(kinds.angle[k[WAIT]] + phase(k[BEFORE]) - phase(k[FRAME]), k[TURNS], re, im);
    for (int i = 0; i < NF * NF; ++i) {
      const S x = half * carry[i];
      c.M[i] = {re * x, im * x};
      if constexpr (SHIFTED) {
        const S y = half * carry_im[i];
        c.M[i] += X{-(im * y), re * y};
      }
    }
#else
    for (int i = 0; i < NF * NF; ++i) c.M[i].re = half * carry[i];
#endif
    c.HH = cosine;
    c.dd = R(-2) * sin;
    if constexpr (FOLDED) {
      c.HH = cosine * c.M[0].re;
      c.dd = c.dd * c.M[0].re;
    }
    c.hh0 = R(0.5) * sin;
    c.zz0 = cosine;
    c.hh = ONE ? c.hh0 * c.U[0] : c.hh0;
    c.zz = ONE ? c.zz0 * c.U[0] : c.zz0;
  }
  void unfind_coefs(L j, Coefs& b) {
    const L* k = knot(j);
    const Coefs& c = coefs_of(j);
    S hh0 = b.hh0 + (ONE ? pulled(c.U[0], b.hh) : b.hh);
    S zz0 = b.zz0 + (ONE ? pulled(c.U[0], b.zz) : b.zz);
    if constexpr (ONE) b.U[0] += pulled(c.zz0, b.zz);
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
    if (k[KIND] == 1) {
      if constexpr (ONE) b.U[0] += pulled(c.hh0, b.hh);
      unfind_pulse(j, b, hh0, zz0);
    } else if (k[KIND] == 2 && block.has(EFFICIENCY)) {
      block.bars[EFFICIENCY][efficiency_row(k)] -= zz0;
    }
    for (int i = 0; i < N * N; ++i) bars.relax[k[WAIT] * N * N + i] += b.U[i];
    for (int i = 0; i < N && k[REGROW]; ++i)
      bars.grown[k[WAIT] * N + i] += b.grown[i];
  }
  void unfind_pulse(L j, Coefs& b, const S& hh0, const S& zz0) {
    const L* k = knot(j);
    const Coefs& c = coefs_of(j);
    const S &cosine = cosines[j], &sin = sines[j];
    S c_bar = zz0, s_bar = R(0.5) * hh0;
    if constexpr (FOLDED) {
      const S &half = c.M[0].re, twice = R(-2) * b.dd;
      c_bar += pulled(half, b.HH);
      s_bar += pulled(half, twice);
      b.M[0].re += pulled(cosine, b.HH) + pulled(sin, twice);
    } else {
      c_bar += b.HH;
      s_bar += R(-2) * b.dd;
    }
    const S turn = pulled(cosine, s_bar) - pulled(sin, c_bar);
    if (block.has(B1)) {
      block.bars[FLIP][k[ROW]] += pulled(block.values[B1][0], turn);
      block.bars[B1][0] += pulled(block.values[FLIP][k[ROW]], turn);
    } else {
      block.bars[FLIP][k[ROW]] += turn;
    }
    S* carry = bars.carry.data() + k[WAIT] * NF * NF;
    const R half = R(0.5) * k[SIGN];
#if PARTS == 2
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
    bars.angle[k[WAIT]] += angle;
    if (block.has(PHASE)) {
      if (k[BEFORE] >= 0) block.bars[PHASE][k[BEFORE]] += angle;
      if (k[FRAME] >= 0) block.bars[PHASE][k[FRAME]] -= angle;
    }
#else
    for (int i = 0; i < NF * NF; ++i) carry[i] += half * b.M[i].re;
#endif
  }
};
