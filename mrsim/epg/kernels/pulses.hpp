// What a pulse makes of one order, and its adjoint.
#pragma once
#include "states.hpp"

#if OWN && PARTS == 1
// One pool in real numbers: the decay is folded into the rotation, and each tangent goes
// from memory to memory before the next, so that no more than a value stays in registers.
template <bool zero> struct One {  // what a pulse is given and makes of a value
  V s, d, y, z, H, made;
  template <int i, int ENTER>
  INLINE void go(const Coefs& c, const S& a, const S& b, const S& in, V& s, V& d, V& y) {
    const V q = ENTER > 0 ? b.v[i] : -b.v[i];
    s = a.v[i] + q, d = a.v[i] - q, y = in.v[i];
    if constexpr (moves<DECAY>(i)) {
      s += c.M[0].re.v[i] * this->s;
      d += c.M[0].re.v[i] * this->d;
    }
    if constexpr (moves<REGROWTH>(i)) y += c.U[0].v[i] * z;
    if constexpr (i == 0) z = y;
    if constexpr (zero) y = c.U[0].v[0] * y + c.grown[0].v[i];
    if constexpr (i == 0) this->s = s, this->d = d, this->y = y;
  }
};
template <int ENTER, int LEAVE, bool zero>
INLINE void pulse(const Coefs& c, const Fade*, const Seen& now, const Made& made) {
  const S &p = now.a.x[0].re, &q = now.b.x[0].re, &before = now.z.x[0].re;
  S &a = made.a.x[0].re, &b = made.b.x[0].re, &z = made.z.x[0].re;
  const V &hh = zero ? c.hh0 : c.hh, &zz = zero ? c.zz0 : c.zz, &M = c.M[0].re.v[0];
  One<zero> one;
  each(AT {
    constexpr int i = i_at;
    V s, d, y;
    one.template go<i, ENTER>(c, p, q, before, s, d, y);
    V H = c.HH * d + hh * y, n = c.dd * d + zz * y;
    if constexpr (i == 0) one.H = H, one.made = n;
    if constexpr (moves<ROTATION>(i)) {
      H += c.w.v[i] * one.made;
      n -= c.w.v[i] * one.H;
    }
    z.v[i] = n;
    const V P = M * s + H, Q = LEAVE > 0 ? M * s - H : H - M * s;
    if constexpr (!zero) b.v[i] = Q;
    a.v[i] = P;
  });
}
template <int ENTER, int LEAVE, bool zero>
INLINE void unpulse(const Coefs& c, Coefs& sum, const Fade*, Fade*, const Seen& k, F& fa,
                    F& fb, Z& fz) {
  S &a = fa.x[0].re, &b = fb.x[0].re, &z = fz.x[0].re;
  const S &p = k.a.x[0].re, &q = k.b.x[0].re, &before = k.z.x[0].re;
  const V &hh = zero ? c.hh0 : c.hh, &zz = zero ? c.zz0 : c.zz, &M = c.M[0].re.v[0];
  V &hh_sum = zero ? sum.hh0 : sum.hh, &zz_sum = zero ? sum.zz0 : sum.zz;
  One<zero> one;
  V H_bar{}, n_bar{}, s_bar{}, d_bar{}, z_bar{};  // of the value, by the tangents
  V s0, d0, y0;
  one.template go<0, ENTER>(c, p, q, before, s0, d0, y0);
  const V H0 = c.HH * d0 + hh * y0, n0 = c.dd * d0 + zz * y0;
  const auto back = [&](auto i_) __attribute__((always_inline)) {
    constexpr int i = i_at;
    V s = s0, d = d0, y = y0;
    if constexpr (i > 0) one.template go<i, ENTER>(c, p, q, before, s, d, y);
    const V P = a.v[i], Q = zero ? V{} : LEAVE > 0 ? b.v[i] : -b.v[i];
    const V A = P + Q;
    V H = P - Q, n = z.v[i];
    if constexpr (moves<ROTATION>(i)) {
      sum.w.v[i] += n0 * H - H0 * n;
      n_bar += c.w.v[i] * H;
      H_bar -= c.w.v[i] * n;
    }
    if constexpr (i == 0 && some<ROTATION>()) H += H_bar, n += n_bar;
    sum.HH += d * H;
    sum.dd += d * n;
    hh_sum += y * H;
    zz_sum += y * n;
    sum.M[0].re.v[0] += s * A;
    V t = M * A, u = c.HH * H + c.dd * n, x = hh * H + zz * n;
    if constexpr (moves<DECAY>(i)) {
      sum.M[0].re.v[i] += s0 * t + d0 * u;
      s_bar += c.M[0].re.v[i] * t;
      d_bar += c.M[0].re.v[i] * u;
    }
    if constexpr (zero) {
      sum.grown[0].v[i] += x;
      V from = before.v[i];
      if constexpr (moves<REGROWTH>(i)) from += c.U[0].v[i] * one.z;
      sum.U[0].v[0] += from * x;
      x = c.U[0].v[0] * x;
    }
    if constexpr (moves<REGROWTH>(i)) {
      sum.U[0].v[i] += one.z * x;
      z_bar += c.U[0].v[i] * x;
    }
    if constexpr (i == 0 && some<DECAY>()) t += s_bar, u += d_bar;
    if constexpr (i == 0 && some<REGROWTH>()) x += z_bar;
    z.v[i] = x;
    const V qb = ENTER > 0 ? t - u : u - t;
    a.v[i] = zero ? (t + u) + qb : t + u;
    if constexpr (!zero) b.v[i] = qb;
  };
  each(AT { if constexpr (i_at > 0) back(i_); });
  back(At<0>());
}
#else
constexpr bool FOLDED = OWN;

template <bool zero>
INLINE void turn(const Coefs& c, const S& d, const S& y, S& H, S& n) {
  H = c.HH * d + (zero ? c.hh0 : c.hh) * y;
  n = c.dd * d + (zero ? c.zz0 : c.zz) * y;
  along<ROTATION>(c.w, n.v[0], H);
  along<ROTATION>(c.w, -H.v[0], n);
}
template <bool zero>
INLINE void unturn(const Coefs& c, Coefs& sum, const S& d, const S& y, S H, S n, S& db, S& yb) {
  const V &hh = zero ? c.hh0 : c.hh, &zz = zero ? c.zz0 : c.zz;
  const V H0 = c.HH * d.v[0] + hh * y.v[0], n0 = c.dd * d.v[0] + zz * y.v[0];
  gather<ROTATION>(sum.w, n0, H), gather<ROTATION>(sum.w, -H0, n);
  const S old = n;
  unalong<ROTATION>(c.w, H, n.v[0]);
  unalong<ROTATION>(-c.w, old, H.v[0]);
  sum.HH += summed(d, H), sum.dd += summed(d, n);
  (zero ? sum.hh0 : sum.hh) += summed(y, H);
  (zero ? sum.zz0 : sum.zz) += summed(y, n);
  db = c.HH * H + c.dd * n;
  yb = hh * H + zz * n;
}
template <int ENTER, int LEAVE, bool zero>
INLINE void pulse(const Coefs& c, const Fade* fade, const Seen& now, const Made& made) {
  const Kept k = faded(fade, now);
  const Z y = relaxed<zero, FOLDED && !zero>(c, k.z);
  const F p = carried(c, k.a), q = carried(c, k.b);
  for (int i = 0; i < NF; ++i) {
    const X u = mirrored<ENTER>(q.x[i]), A = p.x[i] + u, d = p.x[i] - u;
    X H;
    parts(PART(const S& d, const S& y, S& H, S& n) { turn<zero>(c, d, y, H, n); },
          d, y.x[i], H, made.z.x[i]);
    if constexpr (!zero) made.b.x[i] = mirrored<LEAVE>(A - H);
    made.a.x[i] = A + H;
  }
  saturate(c, y, made.z);
}
template <int ENTER, int LEAVE, bool zero>
INLINE void unpulse(const Coefs& c, Coefs& sum, const Fade* fade, Fade* fade_sum,
                    const Seen& raw, F& a, F& b, Z& z) {
  const Kept k = faded(fade, raw);
  Kept bar{a, b, z};
  const Z y = relaxed<zero, FOLDED && !zero>(c, k.z);
  const F p = carried(c, k.a), q = carried(c, k.b);
  F pb, qb;
  Z yb;
  for (int i = 0; i < NF; ++i) {
    const X d = p.x[i] - mirrored<ENTER>(q.x[i]);
    const X P = bar.a.x[i], Q = zero ? nothing() : mirrored<LEAVE>(bar.b.x[i]);
    const X A = P + Q, H = P - Q;
    X db;
    parts(PART(const S& d, const S& y, const S& H, const S& n, S& db, S& yb) {
      unturn<zero>(c, sum, d, y, H, n, db, yb);
    }, d, y.x[i], H, bar.z.x[i], db, yb.x[i]);
    pb.x[i] = A + db;
    qb.x[i] = mirrored<ENTER>(A - db);
  }
  unsaturate(c, sum, y, bar.z, yb);
  bar.z = unrelaxed<zero, FOLDED && !zero>(c, sum, k.z, yb);
  bar.a = uncarried(c, sum, k.a, pb);
  bar.b = uncarried(c, sum, k.b, qb);
  unfaded<zero>(fade, fade_sum, raw, bar, a, b, z);
}
#endif
