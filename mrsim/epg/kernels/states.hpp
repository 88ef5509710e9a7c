// One order of a knot, forward and backward: relax, turn about the pulse's axis.
//
// In the frame of the pulse P + Q stays and (P - Q, ζ) turns by the flip angle:
//   A = M (P + Q), D = M (P - Q), H = HH D + hh ζ, ζ' = dd D + zz ζ, P' = A + H, Q' = A - H
// with M half the decay and turn of the interval before. For one pool the decay is
// folded into HH, dd, hh and zz as far as may be.
#pragma once
#include "lanes.hpp"

constexpr int NF = FREE, N = POOLS, NB = POOLS - FREE;
constexpr bool COMPLEX = PARTS == 2, ONE = POOLS == 1, FOLDED = ONE && !COMPLEX;
constexpr bool FADES = MOTION != 0;
constexpr int FROM_D = FOLDED ? DECAY | ROTATION : ROTATION;  // what HH and dd follow
constexpr int FROM_Z = (ONE ? REGROWTH : 0) | ROTATION | OTHER;  // ... hh and zz

struct Re { S re; };
struct Cx { S re, im; };
#if PARTS == 2
typedef Cx X;
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
template <int bits> INLINE X times(const X& a, const X& b) {
  return {times<bits>(a.re, b.re) - times<bits>(a.im, b.im),
          times<bits>(a.im, b.re) + times<bits>(a.re, b.im)};
}
template <int bits> INLINE X times(const S& a, const X& b) {
  return {times<bits>(a, b.re), times<bits>(a, b.im)};
}
template <int bits> INLINE X pulled(const X& a, const X& y) {
  return {pulled<bits>(a.re, y.re) + pulled<bits>(a.im, y.im),
          pulled<bits>(a.re, y.im) - pulled<bits>(a.im, y.re)};
}
template <int bits> INLINE X pulled(const S& a, const X& y) {
  return {pulled<bits>(a, y.re), pulled<bits>(a, y.im)};
}
template <int bits> INLINE void gather(X& sum, const X& x, const X& y) {
  gather<bits>(sum.re, x.re, y.re), gather<bits>(sum.re, x.im, y.im);
  gather<bits>(sum.im, x.re, y.im), gather<bits>(sum.im, -x.im, y.re);
}
template <int bits> INLINE void gather(S& sum, const X& x, const X& y) {
  gather<bits>(sum, x.re, y.re), gather<bits>(sum, x.im, y.im);
}
template <int sign> INLINE X mirrored(const X& x) { return {x.re, -x.im}; }
INLINE X nothing() { return {number(0), number(0)}; }
INLINE S& last(X& x) { return x.im; }
#else
typedef Re X;
INLINE X operator+(const X& a, const X& b) { return {a.re + b.re}; }
INLINE X operator-(const X& a, const X& b) { return {a.re - b.re}; }
INLINE X operator*(const X& a, const X& b) { return {a.re * b.re}; }
INLINE X operator*(const S& a, const X& b) { return {a * b.re}; }
INLINE X pulled(const X& a, const X& y) { return {pulled(a.re, y.re)}; }
INLINE X pulled(const S& a, const X& y) { return {pulled(a, y.re)}; }
INLINE S dotted(const X& x, const X& y) { return pulled(x.re, y.re); }
template <int bits> INLINE X times(const X& a, const X& b) { return {times<bits>(a.re, b.re)}; }
template <int bits> INLINE X times(const S& a, const X& b) { return {times<bits>(a, b.re)}; }
template <int bits> INLINE X pulled(const X& a, const X& y) { return {pulled<bits>(a.re, y.re)}; }
template <int bits> INLINE X pulled(const S& a, const X& y) { return {pulled<bits>(a, y.re)}; }
template <int bits> INLINE void gather(X& sum, const X& x, const X& y) {
  gather<bits>(sum.re, x.re, y.re);
}
template <int bits> INLINE void gather(S& sum, const X& x, const X& y) {
  gather<bits>(sum, x.re, y.re);
}
template <int sign> INLINE X mirrored(const X& x) { return {sign > 0 ? x.re : -x.re}; }
INLINE X nothing() { return {number(0)}; }
INLINE S& last(X& x) { return x.re; }
#endif
INLINE void operator+=(X& a, const X& b) { a = a + b; }

struct F { X x[NF]; };
struct Z { X x[N]; };
struct Kept { F a, b; Z z; };  // one order before a knot, for the way back
struct Fade { X p, q, z; };    // what diffusion and flow leave of one order

struct Coefs {
  S HH, dd, hh, zz, hh0, zz0;  // hh0, zz0: of order 0, whose ζ is relaxed before
  X M[NF * NF];
  S U[N * N], grown[N];
  S bound[NB + 1], order[NB + 1], cross[NB + 1];
};

INLINE void clear(Coefs& c) {
  c.HH = c.dd = c.hh = c.zz = c.hh0 = c.zz0 = number(0);
  for (X& x : c.M) x = nothing();
  for (S& x : c.U) x = number(0);
  for (S& x : c.grown) x = number(0);
  for (int i = 0; i <= NB; ++i) c.bound[i] = c.order[i] = c.cross[i] = number(0);
}

template <bool zero> INLINE Z relaxed(const Coefs& c, const Z& z) {
  Z y;
  if constexpr (ONE && !zero) return z;
  for (int i = 0; i < N; ++i) {
    y.x[i] = times<REGROWTH>(c.U[i * N], z.x[0]);
    for (int j = 1; j < N; ++j) y.x[i] += times<REGROWTH>(c.U[i * N + j], z.x[j]);
    if constexpr (zero) last(y.x[i]) += c.grown[i];
  }
  return y;
}

template <bool zero> INLINE Z unrelaxed(const Coefs& c, Coefs& sum, const Z& z, Z& bar) {
  Z made;
  if constexpr (ONE && !zero) return bar;
  for (int j = 0; j < N; ++j) made.x[j] = nothing();
  for (int i = 0; i < N; ++i) {
    if constexpr (zero) sum.grown[i] += last(bar.x[i]);
    for (int j = 0; j < N; ++j) {
      gather<REGROWTH>(sum.U[i * N + j], z.x[j], bar.x[i]);
      made.x[j] += pulled<REGROWTH>(c.U[i * N + j], bar.x[i]);
    }
  }
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

INLINE F carried(const Coefs& c, const F& f) {
  F y;
  for (int i = 0; i < NF; ++i) {
    y.x[i] = times<DECAY>(c.M[i * NF], f.x[0]);
    for (int j = 1; j < NF; ++j) y.x[i] += times<DECAY>(c.M[i * NF + j], f.x[j]);
  }
  return y;
}

INLINE F uncarried(const Coefs& c, Coefs& sum, const F& f, const F& bar) {
  F made;
  for (int j = 0; j < NF; ++j) made.x[j] = nothing();
  for (int i = 0; i < NF; ++i)
    for (int j = 0; j < NF; ++j) {
      gather<DECAY>(sum.M[i * NF + j], f.x[j], bar.x[i]);
      made.x[j] += pulled<DECAY>(c.M[i * NF + j], bar.x[i]);
    }
  return made;
}

INLINE Kept faded(const Fade* fade, const Kept& k) {
  if constexpr (!FADES) return k;
  Kept y;
  for (int i = 0; i < NF; ++i) y.a.x[i] = fade->p * k.a.x[i];
  for (int i = 0; i < NF; ++i) y.b.x[i] = fade->q * k.b.x[i];
  for (int i = 0; i < N; ++i) y.z.x[i] = fade->z * k.z.x[i];
  return y;
}

INLINE void unfaded(const Fade* fade, Fade* sum, const Kept& k, Kept& bar) {
  if constexpr (!FADES) return;
  for (int i = 0; i < NF; ++i) {
    sum->p += pulled(k.a.x[i], bar.a.x[i]);
    sum->q += pulled(k.b.x[i], bar.b.x[i]);
    bar.a.x[i] = pulled(fade->p, bar.a.x[i]);
    bar.b.x[i] = pulled(fade->q, bar.b.x[i]);
  }
  for (int i = 0; i < N; ++i) {
    sum->z += pulled(k.z.x[i], bar.z.x[i]);
    bar.z.x[i] = pulled(fade->z, bar.z.x[i]);
  }
}

// what a pulse makes of one order: a is P's place and b Q's, the same for order 0
template <int ENTER, int LEAVE, bool zero>
INLINE void pulse(const Coefs& c, const Kept& k, F& a, F& b, Z& z) {
  const Z y = relaxed<zero>(c, k.z);
  const S &hh = zero ? c.hh0 : c.hh, &zz = zero ? c.zz0 : c.zz;
  F p, q, A;
  if constexpr (FOLDED) {
    p = k.a;
    q.x[0] = mirrored<ENTER>(k.b.x[0]);
    A.x[0] = times<DECAY>(c.M[0], p.x[0] + q.x[0]);
  } else {
    p = carried(c, k.a);
    q = carried(c, k.b);
  }
  for (int i = 0; i < NF; ++i) {
    if constexpr (!FOLDED) {
      q.x[i] = mirrored<ENTER>(q.x[i]);
      A.x[i] = p.x[i] + q.x[i];
    }
    const X d = p.x[i] - q.x[i];
    const X H = times<FROM_D>(c.HH, d) + times<FROM_Z>(hh, y.x[i]);
    z.x[i] = times<FROM_D>(c.dd, d) + times<FROM_Z>(zz, y.x[i]);
    if constexpr (!zero) b.x[i] = mirrored<LEAVE>(A.x[i] - H);
    a.x[i] = A.x[i] + H;
  }
  saturate(c, y, z);
}

// its adjoint: bar holds the adjoints after it, and gets those before it
template <int ENTER, int LEAVE, bool zero>
INLINE void unpulse(const Coefs& c, Coefs& sum, const Kept& k, Kept& bar) {
  const Z y = relaxed<zero>(c, k.z);
  const S &hh = zero ? c.hh0 : c.hh, &zz = zero ? c.zz0 : c.zz;
  S &hh_sum = zero ? sum.hh0 : sum.hh, &zz_sum = zero ? sum.zz0 : sum.zz;
  F p = k.a, q = k.b, pb, qb;
  if constexpr (!FOLDED) {
    p = carried(c, k.a);
    q = carried(c, k.b);
  }
  Z yb;
  for (int i = 0; i < NF; ++i) {
    const X u = mirrored<ENTER>(q.x[i]), d = p.x[i] - u, zb = bar.z.x[i];
    const X P = bar.a.x[i], Q = zero ? nothing() : mirrored<LEAVE>(bar.b.x[i]);
    const X A = P + Q, H = P - Q;
    gather<FROM_D>(sum.HH, d, H);
    gather<FROM_Z>(hh_sum, y.x[i], H);
    gather<FROM_D>(sum.dd, d, zb);
    gather<FROM_Z>(zz_sum, y.x[i], zb);
    yb.x[i] = pulled<FROM_Z>(hh, H) + pulled<FROM_Z>(zz, zb);
    const X db = pulled<FROM_D>(c.HH, H) + pulled<FROM_D>(c.dd, zb);
    if constexpr (FOLDED) {
      gather<DECAY>(sum.M[0], p.x[0] + u, A);
      const X t = pulled<DECAY>(c.M[0], A);
      pb.x[i] = t + db;
      qb.x[i] = mirrored<ENTER>(t - db);
    } else {
      pb.x[i] = A + db;
      qb.x[i] = mirrored<ENTER>(A - db);
    }
  }
  unsaturate(c, sum, y, bar.z, yb);
  bar.z = unrelaxed<zero>(c, sum, k.z, yb);
  if constexpr (FOLDED) {
    bar.a = pb;
    bar.b = qb;
  } else {
    bar.a = uncarried(c, sum, k.a, pb);
    bar.b = uncarried(c, sum, k.b, qb);
  }
}

// an inversion or a spoiler
template <bool zero> INLINE void pass(const Coefs& c, const Kept& k, Z& z) {
  const Z y = relaxed<zero>(c, k.z);
  const S& zz = zero ? c.zz0 : c.zz;
  for (int i = 0; i < NF; ++i) z.x[i] = zz * y.x[i];
  saturate(c, y, z);
}

template <bool zero> INLINE void unpass(const Coefs& c, Coefs& sum, const Kept& k, Kept& bar) {
  const Z y = relaxed<zero>(c, k.z);
  Z yb;
  for (int i = 0; i < NF; ++i) {
    (zero ? sum.zz0 : sum.zz) += dotted(y.x[i], bar.z.x[i]);
    yb.x[i] = pulled(zero ? c.zz0 : c.zz, bar.z.x[i]);
  }
  unsaturate(c, sum, y, bar.z, yb);
  bar.z = unrelaxed<zero>(c, sum, k.z, yb);
  for (int i = 0; i < NF; ++i) bar.a.x[i] = bar.b.x[i] = nothing();
}
