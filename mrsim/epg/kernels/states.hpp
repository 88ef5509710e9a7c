// One order of a knot, forward and backward: relax, turn about the pulse's axis.
//
// With η half of ζ (see table.py), in the frame of the pulse P + Q stays and (P - Q, η)
// turns by the flip angle:
//   A = M (P + Q), D = M (P - Q), H = HH D + hh η, η' = dd D + zz η, P' = A + H, Q' = A - H
// with M half the decay and turn of the interval before. A tangent ẋ of the states goes
// the same way, and gains where it moves
//   a decay e^x of states s:  e^x (ṡ + ẋ s)
//   the flip angle θ:         θ˙ η' to Ḣ and -θ˙ H to η̇'
// so that it costs few products more than the value. Where a kernel knows the exponents
// (OWN, one pool), M and U hold a decay and, as tangents, those of its exponent;
// otherwise they are matrices of numbers with tangents.
#pragma once
#include "lanes.hpp"

constexpr int NF = FREE, N = POOLS, NB = POOLS - FREE;
constexpr bool FADES = MOTION != 0;

#if PARTS == 2
struct X { S re, im; };
INLINE X operator+(const X& a, const X& b) { return {a.re + b.re, a.im + b.im}; }
INLINE X operator-(const X& a, const X& b) { return {a.re - b.re, a.im - b.im}; }
INLINE X operator*(const X& a, const X& b) {
  return {a.re * b.re - a.im * b.im, a.re * b.im + a.im * b.re};
}
INLINE X operator*(const S& a, const X& b) { return {a * b.re, a * b.im}; }
INLINE X pulled(const X& a, const X& y) {
  return {pulled(a.re, y.re) + pulled(a.im, y.im), pulled(a.re, y.im) - pulled(a.im, y.re)};
}
INLINE X pulled(const S& a, const X& y) { return {pulled(a, y.re), pulled(a, y.im)}; }
INLINE S dotted(const X& x, const X& y) { return pulled(x.re, y.re) + pulled(x.im, y.im); }
template <int sign> INLINE X mirrored(const X& x) { return {x.re, -x.im}; }
INLINE X nothing() { return {number(0), number(0)}; }
INLINE S& last(X& x) { return x.im; }
INLINE const S& last(const X& x) { return x.im; }
template <class G, class... A> INLINE void parts(G g, A&... x) { g(x.re...), g(x.im...); }
#else
struct X { S re; };
INLINE X operator+(const X& a, const X& b) { return {a.re + b.re}; }
INLINE X operator-(const X& a, const X& b) { return {a.re - b.re}; }
INLINE X operator*(const X& a, const X& b) { return {a.re * b.re}; }
INLINE X operator*(const S& a, const X& b) { return {a * b.re}; }
INLINE X pulled(const X& a, const X& y) { return {pulled(a.re, y.re)}; }
INLINE X pulled(const S& a, const X& y) { return {pulled(a, y.re)}; }
INLINE S dotted(const X& x, const X& y) { return pulled(x.re, y.re); }
template <int sign> INLINE X mirrored(const X& x) { return {sign > 0 ? x.re : -x.re}; }
INLINE X nothing() { return {number(0)}; }
INLINE S& last(X& x) { return x.re; }
INLINE const S& last(const X& x) { return x.re; }
template <class G, class... A> INLINE void parts(G g, A&... x) { g(x.re...); }
#endif
INLINE void operator+=(X& a, const X& b) { a = a + b; }
#define PART(...) [&](__VA_ARGS__) __attribute__((always_inline))

struct F { X x[NF]; };
struct Z { X x[N]; };
struct Kept { F a, b; Z z; };  // one order
struct Seen { const F &a, &b; const Z &z; };  // the same, where it lies before a knot
struct Made { F &a, &b; Z &z; };              // and after it, which may be there too
struct Fade { X p, q, z; };    // what diffusion and flow leave of one order

struct Coefs {
  V HH, dd, hh, zz, hh0, zz0;  // hh0, zz0: of order 0, whose η is relaxed before
  S w, pass;                   // θ˙ (no value); what an inversion or spoiler makes of η
  X M[NF * NF];
  S U[N * N], grown[N];
  S bound[NB + 1], order[NB + 1], cross[NB + 1];
};

INLINE void clear(Coefs& c) {
  c.HH = c.dd = c.hh = c.zz = c.hh0 = c.zz0 = V{};
  c.w = c.pass = number(0);
  for (X& x : c.M) x = nothing();
  for (S& x : c.U) x = number(0);
  for (S& x : c.grown) x = number(0);
  if constexpr (BOUND > 0)
    for (int i = 0; i <= NB; ++i) c.bound[i] = c.order[i] = c.cross[i] = number(0);
}

// η after the interval. FOLDED: but for U, which is in hh and zz.
template <bool zero, bool folded> INLINE Z relaxed(const Coefs& c, const Z& z) {
  Z y = z;
#if OWN
  parts(PART(S& to, const S& from) { along<REGROWTH>(c.U[0], from.v[0], to); }, y.x[0], z.x[0]);
  if constexpr (!folded)
    parts(PART(S& to) { to = c.U[0].v[0] * to; }, y.x[0]);
#else
  for (int i = 0; i < N; ++i) {
    y.x[i] = c.U[i * N] * z.x[0];
    for (int j = 1; j < N; ++j) y.x[i] += c.U[i * N + j] * z.x[j];
  }
#endif
  if constexpr (zero)
    for (int i = 0; i < N; ++i) last(y.x[i]) += c.grown[i];
  return y;
}

template <bool zero, bool folded>
INLINE Z unrelaxed(const Coefs& c, Coefs& sum, const Z& z, const Z& bar) {
  Z made;
  if constexpr (zero)
    for (int i = 0; i < N; ++i) sum.grown[i] += last(bar.x[i]);
#if OWN
  parts(PART(S& to, const S& from, S bar) {
    if constexpr (!folded) {
      S y = from;
      along<REGROWTH>(c.U[0], from.v[0], y);
      sum.U[0].v[0] += summed(y, bar);
      bar = c.U[0].v[0] * bar;
    }
    gather<REGROWTH>(sum.U[0], from.v[0], bar);
    to = bar;
    unalong<REGROWTH>(c.U[0], bar, to.v[0]);
  }, made.x[0], z.x[0], bar.x[0]);
#else
  for (int j = 0; j < N; ++j) made.x[j] = nothing();
  for (int i = 0; i < N; ++i)
    for (int j = 0; j < N; ++j) {
      sum.U[i * N + j] += dotted(z.x[j], bar.x[i]);
      made.x[j] += pulled(c.U[i * N + j], bar.x[i]);
    }
#endif
  return made;
}

// bound pools in y, saturated, into z
INLINE void saturate(const Coefs& c, const Z& y, Z& z) {
  constexpr int half = BOUND == 2 ? NB / 2 : NB;
  for (int i = 0; i < half; ++i) {
    const X& b = y.x[NF + i];
    if constexpr (BOUND == 0) z.x[NF + i] = b;
    if constexpr (BOUND == 1) z.x[NF + i] = c.bound[i] * b;
    if constexpr (BOUND == 2) {
      const X& o = y.x[NF + half + i];
      z.x[NF + i] = c.bound[i] * b + c.cross[i] * o;
      z.x[NF + half + i] = c.cross[i] * b + c.order[i] * o;
    }
  }
}

INLINE void unsaturate(const Coefs& c, Coefs& sum, const Z& y, const Z& bar, Z& out) {
  constexpr int half = BOUND == 2 ? NB / 2 : NB;
  for (int i = 0; i < half; ++i) {
    const X& g = bar.x[NF + i];
    if constexpr (BOUND == 0) out.x[NF + i] = g;
    if constexpr (BOUND == 1) {
      sum.bound[i] += dotted(y.x[NF + i], g);
      out.x[NF + i] = pulled(c.bound[i], g);
    }
    if constexpr (BOUND == 2) {
      const X &b = y.x[NF + i], &o = y.x[NF + half + i], &h = bar.x[NF + half + i];
      sum.bound[i] += dotted(b, g);
      sum.cross[i] += dotted(o, g) + dotted(b, h);
      sum.order[i] += dotted(o, h);
      out.x[NF + i] = pulled(c.bound[i], g) + pulled(c.cross[i], h);
      out.x[NF + half + i] = pulled(c.cross[i], g) + pulled(c.order[i], h);
    }
  }
}

#if OWN && PARTS == 2
INLINE X times(const X& m, const X& f) {
  const V &re = m.re.v[0], &im = m.im.v[0];
  return {re * f.re - im * f.im, re * f.im + im * f.re};
}
INLINE F carried(const Coefs& c, const F& f) {
  X y = f.x[0];
  const V &re = f.x[0].re.v[0], &im = f.x[0].im.v[0];
  along<DECAY>(c.M[0].re, re, y.re), along<DECAY>(c.M[0].im, -im, y.re);
  along<DECAY>(c.M[0].re, im, y.im), along<DECAY>(c.M[0].im, re, y.im);
  return {times(c.M[0], y)};
}
INLINE F uncarried(const Coefs& c, Coefs& sum, const F& f, const F& bar) {
  X y = f.x[0];
  const V &re = f.x[0].re.v[0], &im = f.x[0].im.v[0];
  along<DECAY>(c.M[0].re, re, y.re), along<DECAY>(c.M[0].im, -im, y.re);
  along<DECAY>(c.M[0].re, im, y.im), along<DECAY>(c.M[0].im, re, y.im);
  const X& b = bar.x[0];
  X &m = sum.M[0];
  m.re.v[0] += summed(y.re, b.re) + summed(y.im, b.im);
  m.im.v[0] += summed(y.re, b.im) - summed(y.im, b.re);
  const X t = times({c.M[0].re, -c.M[0].im}, b);
  X made = t;
  gather<DECAY>(m.re, re, t.re), gather<DECAY>(m.re, im, t.im);
  gather<DECAY>(m.im, -im, t.re), gather<DECAY>(m.im, re, t.im);
  unalong<DECAY>(c.M[0].re, t.re, made.re.v[0]), unalong<DECAY>(c.M[0].im, t.im, made.re.v[0]);
  unalong<DECAY>(c.M[0].re, t.im, made.im.v[0]), unalong<DECAY>(-c.M[0].im, t.re, made.im.v[0]);
  return {made};
}
#elif !OWN
INLINE F carried(const Coefs& c, const F& f) {
  F y;
  for (int i = 0; i < NF; ++i) {
    y.x[i] = c.M[i * NF] * f.x[0];
    for (int j = 1; j < NF; ++j) y.x[i] += c.M[i * NF + j] * f.x[j];
  }
  return y;
}
INLINE F uncarried(const Coefs& c, Coefs& sum, const F& f, const F& bar) {
  F made;
  for (int j = 0; j < NF; ++j) made.x[j] = nothing();
  for (int i = 0; i < NF; ++i)
    for (int j = 0; j < NF; ++j) {
      sum.M[i * NF + j] += pulled(f.x[j], bar.x[i]);
      made.x[j] += pulled(c.M[i * NF + j], bar.x[i]);
    }
  return made;
}
#endif

INLINE Kept faded(const Fade* fade, const Seen& k) {
  if constexpr (!FADES) return {k.a, k.b, k.z};
  Kept y;
  for (int i = 0; i < NF; ++i) y.a.x[i] = fade->p * k.a.x[i];
  for (int i = 0; i < NF; ++i) y.b.x[i] = fade->q * k.b.x[i];
  for (int i = 0; i < N; ++i) y.z.x[i] = fade->z * k.z.x[i];
  return y;
}

// the adjoints before a knot, from those of what is left of the states
template <bool zero>
INLINE void unfaded(const Fade* fade, Fade* sum, const Seen& k, Kept& bar, F& a, F& b, Z& z) {
  for (int i = 0; FADES && i < NF; ++i) {
    sum->p += pulled(k.a.x[i], bar.a.x[i]);
    sum->q += pulled(k.b.x[i], bar.b.x[i]);
    bar.a.x[i] = pulled(fade->p, bar.a.x[i]);
    bar.b.x[i] = pulled(fade->q, bar.b.x[i]);
  }
  for (int i = 0; FADES && i < N; ++i) {
    sum->z += pulled(k.z.x[i], bar.z.x[i]);
    bar.z.x[i] = pulled(fade->z, bar.z.x[i]);
  }
  z = bar.z;
  a = bar.a;
  if constexpr (!zero) b = bar.b;
  else
    for (int i = 0; i < NF; ++i) a.x[i] += bar.b.x[i];  // P_0 and Q_0 lie together
}

// an inversion or a spoiler
template <bool zero>
INLINE void pass(const Coefs& c, const Fade* fade, const Z& now, Z& made) {
  Z y = now;
  for (int i = 0; FADES && i < N; ++i) y.x[i] = fade->z * now.x[i];
  y = relaxed<zero, false>(c, y);
  for (int i = 0; i < NF; ++i) made.x[i] = c.pass * y.x[i];
  saturate(c, y, made);
}

template <bool zero>
INLINE void unpass(const Coefs& c, Coefs& sum, const Fade* fade, Fade* fade_sum, const Seen& raw,
                   F& a, F& b, Z& z) {
  const Kept k = faded(fade, raw);
  Kept bar{a, b, z};
  const Z y = relaxed<zero, false>(c, k.z);
  Z yb;
  for (int i = 0; i < NF; ++i) {
    sum.pass += dotted(y.x[i], bar.z.x[i]);
    yb.x[i] = pulled(c.pass, bar.z.x[i]);
  }
  unsaturate(c, sum, y, bar.z, yb);
  bar.z = unrelaxed<zero, false>(c, sum, k.z, yb);
  for (int i = 0; i < NF; ++i) bar.a.x[i] = bar.b.x[i] = nothing();
  unfaded<zero>(fade, fade_sum, raw, bar, a, b, z);
}
