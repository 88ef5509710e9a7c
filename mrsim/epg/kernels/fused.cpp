// The walk over a table (see table.py) for blocks of lanes, forward and backward.
#include <algorithm>
#include <new>
#include <thread>

#include "inputs.hpp"

constexpr L SECOND_CACHE = 1 << 20;

struct Kinds {  // what relaxation and precession do over the intervals and to readings
  std::vector<S> relax, grown, angle, carry, carry_im, read, read_im, read_angle, start;
};

struct Walk {
  const Call& call;
  Block block;
  Kinds kinds, bars;
  std::vector<F> places, place_bars;
  std::vector<Z> orders, order_bars;
  std::vector<Fade> fades, fade_bars;
  std::vector<Coefs> coefs;
  std::vector<S> cosines, sines, turns_re, turns_im;  // of flips and frames, by knot
  std::vector<Kept> kept;
  std::vector<F> seen;  // by the readings
  std::vector<L> cuts;
  std::vector<std::vector<F>> place_marks;
  std::vector<std::vector<Z>> order_marks;
  L start = 0;  // of the stretch that is kept

  Walk(const Call& c, L thread) : call(c), block(c, thread) {
    F no_place;
    Z no_order;
    for (X& x : no_place.x) x = nothing();
    for (X& x : no_order.x) x = nothing();
    places.assign(c.places, no_place);
    orders.assign(c.orders, no_order);
    for (auto* x : {&cosines, &sines, &turns_re, &turns_im}) x->resize(c.knots);
    for (Kinds* k : {&kinds, &bars}) size(*k);
    if (FADES) fades.resize(c.tops[c.intervals]);
    coefs.resize(1);
#if BACK
    if (FADES) fade_bars.resize(fades.size());
    place_bars.assign(c.places, no_place);
    order_bars.assign(c.orders, no_order);
    seen.assign(c.readings, no_place);
    cuts = stretches();
    L most = 0, longest = 1;
    for (size_t s = 1; s < cuts.size() && c.knots; ++s) {
      const L end = cuts[s] < c.knots ? knot(cuts[s])[STORE] : c.stored;
      most = std::max(most, end - knot(cuts[s - 1])[STORE]);
      longest = std::max(longest, cuts[s] - cuts[s - 1]);
    }
    kept.resize(most);
    coefs.resize(longest);
    place_marks.resize(cuts.size());
    order_marks.resize(cuts.size());
#endif
  }
  void size(Kinds& k) const {
    const L waits = call.intervals, reads = call.kinds - waits;
    k.relax.resize(waits * N * N);
    k.grown.resize(waits * N);
    for (auto* x : {&k.carry, &k.carry_im}) x->resize(waits * NF * NF);
    k.angle.resize(waits);
    for (auto* x : {&k.read, &k.read_im}) x->resize(reads * NF);
    k.read_angle.resize(reads);
    k.start.resize(N);
  }

  // ------------------------------------------------------------------ kinds of waits
  S time_of(L kind) const {
    S t = number(0);
    for (L r = call.waits[kind]; r < call.waits[kind + 1]; ++r)
      t += block.values[DURATION][call.rows[r]];
    return t;
  }
  bool lasts(L kind) const { return call.waits[kind + 1] > call.waits[kind]; }
  S size_of() const { return given(block, M0, 0, 1); }
#if OWN
  void find_kinds() {
    const S one = inverse(block.values[T1][0]), two = inverse(block.values[T2][0]);
    const S size = R(2) * size_of(), precession = R(2 * M_PI) * given(block, DF, 0);
    for (S& x : kinds.carry) x = number(1);  // what does not last leaves all as it is
    for (S& x : kinds.relax) x = number(1);
    for (S& x : kinds.grown) x = number(0);
    for (S& x : kinds.angle) x = number(0);
    for (L k = 0; k < call.kinds; ++k) {
      if (!lasts(k)) continue;
      const S t = time_of(k), decay = exponential(-(t * two));
      const bool reads = k >= call.intervals;
      const L j = k - call.intervals;
      (reads ? kinds.read[j] : kinds.carry[k]) = decay;
      (reads ? kinds.read_angle[j] : kinds.angle[k]) = t * precession;
      if (reads) continue;
      const S x = -(t * one);
      kinds.relax[k] = exponential(x);
      kinds.grown[k] = size * lifted(x, exponential_less_one(x.v[0]), kinds.relax[k].v[0]);
    }
    kinds.start[0] = -size;
  }
  void unfind_kinds() {
    const S one = inverse(block.values[T1][0]), two = inverse(block.values[T2][0]);
    const S size = R(2) * size_of(), precession = R(2 * M_PI) * given(block, DF, 0);
    S one_bar = number(0), two_bar = number(0), df_bar = number(0);
    S size_bar = -bars.start[0];
    for (L k = 0; k < call.kinds; ++k) {
      if (!lasts(k)) continue;
      const bool reads = k >= call.intervals;
      const L j = k - call.intervals;
      const S t = time_of(k), &decay = reads ? kinds.read[j] : kinds.carry[k];
      const S two_x = pulled(decay, reads ? bars.read[j] : bars.carry[k]);
      const S &turn = reads ? bars.read_angle[j] : bars.angle[k];
      two_bar -= pulled(t, two_x);
      df_bar += pulled(t, turn);
      S t_bar = pulled(precession, turn) - pulled(two, two_x);
      if (!reads) {
        const S& E = kinds.relax[k];
        const S x = -(t * one), lost = lifted(x, exponential_less_one(x.v[0]), E.v[0]);
        size_bar += pulled(lost, bars.grown[k]);
        const S x_bar = pulled(E, bars.relax[k] + pulled(size, bars.grown[k]));
        one_bar -= pulled(t, x_bar);
        t_bar -= pulled(one, x_bar);
      }
      for (L r = call.waits[k]; r < call.waits[k + 1]; ++r)
        block.bars[DURATION][call.rows[r]] += t_bar;
    }
    block.bars[T1][0] += -pulled(one * one, one_bar);
    block.bars[T2][0] += -pulled(two * two, two_bar);
    if (block.has(M0)) block.bars[M0][0] += R(2) * size_bar;
    if (block.has(DF)) block.bars[DF][0] += R(2 * M_PI) * df_bar;
  }
#else
  template <class G> void each_kind(Kinds& k, G g) {
    g(k.relax, RELAX), g(k.carry, CARRY), g(k.carry_im, CARRY_IM), g(k.grown, GROWN);
    g(k.angle, ANGLE), g(k.read, READ), g(k.read_im, READ_IM);
    g(k.read_angle, READ_ANGLE), g(k.start, START);
  }
  void find_kinds() {
    each_kind(kinds, [&](std::vector<S>& x, int input) {
      for (size_t i = 0; i < x.size(); ++i) x[i] = given(block, input, i);
    });
  }
  void unfind_kinds() {
    each_kind(bars, [&](std::vector<S>& x, int input) {
      if (block.has(input))
        for (size_t i = 0; i < x.size(); ++i) block.bars[input][i] += x[i];
    });
  }
#endif

  // ------------------------------------------------------------- diffusion and flow
  template <class G> void each_fade(G g) {
    if constexpr (FADES)
      for (L k = 0; k < call.intervals; ++k) {
        const L top = (call.tops[k + 1] - call.tops[k] - 1) / 2;
        for (L m = 0; m <= top; ++m) g(k, call.tops[k] + m, R(m));
      }
  }
  S exponent(int input, L row, R m, R even, R odd) {
    if (!block.has(input)) return number(0);
    const S* c = block.values[input].data() + row;
    return even * c[0] + odd * m * c[1];
  }
  static X wave(const S& loss, const S& turn) {
    const S size = exponential(-loss);
#if PARTS == 2
    S s, c;
    sine(turn, s, c);
    return {size * c, -(size * s)};
#else
    return {size};
#endif
  }
  void find_fades() {
    each_fade([&](L k, L at, R m) {
      for (R way : {R(1), R(-1), R(0)}) {
        S loss = exponent(LOSS, 3 * k, m, way != 0, way);
        if (block.has(LOSS)) loss += m * m * block.values[LOSS][3 * k + 2];
        const S turn = exponent(TURN, 2 * k, m, way != 0, way != 0 ? way : R(1));
        Fade& f = fades[at];
        (way > 0 ? f.p : way < 0 ? f.q : f.z) = wave(loss, turn);
      }
    });
  }
  void unfind_fades() {
    each_fade([&](L k, L at, R m) {
      for (R way : {R(1), R(-1), R(0)}) {
        const Fade &f = fades[at], &g = fade_bars[at];
        const X &x = way > 0 ? f.p : way < 0 ? f.q : f.z;
        const X &y = way > 0 ? g.p : way < 0 ? g.q : g.z;
        if (block.has(LOSS)) {
          const S loss = -dotted(x, y);
          S* bar = block.bars[LOSS].data() + 3 * k;
          if (way != 0) bar[0] += loss;
          bar[1] += way * m * loss;
          bar[2] += m * m * loss;
        }
#if PARTS == 2
        if (block.has(TURN)) {
          const S turn = pulled(x.im, y.re) - pulled(x.re, y.im);
          S* bar = block.bars[TURN].data() + 2 * k;
          if (way != 0) bar[0] += turn;
          bar[1] += (way != 0 ? way : R(1)) * m * turn;
        }
#endif
      }
    });
  }

  // -------------------------------------------------------------------- coefficients
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

  // ------------------------------------------------------------------------ one knot
  template <int ENTER, int LEAVE, bool pulses, bool zero, bool keep>
  INLINE void there_at(const Coefs& c, const L* k, const Fade* fade, L i, L order) {
    F &a = places[k[BASE] + order], &b = places[k[BASE] - order];
    Z& z = orders[order];
    const Kept raw{a, b, z}, now = faded(fade + order, raw);
    if constexpr (keep) kept[k[STORE] - knot(start)[STORE] + i] = raw;
    if constexpr (pulses) pulse<ENTER, LEAVE, zero>(c, now, a, b, z);
    else pass<zero>(c, now, z);
  }
  template <int ENTER, int LEAVE, bool pulses, bool zero>
  INLINE void back_at(const Coefs& c, Coefs& sum, const L* k, const Fade* fade, Fade* fade_sum,
                      L i, L order) {
    F &a = place_bars[k[BASE] + order], &b = place_bars[k[BASE] - order];
    Z& z = order_bars[order];
    const Kept &raw = kept[k[STORE] - knot(start)[STORE] + i], now = faded(fade + order, raw);
    Kept bar{a, b, z};
    if constexpr (pulses) unpulse<ENTER, LEAVE, zero>(c, sum, now, bar);
    else unpass<zero>(c, sum, now, bar);
    unfaded(fade + order, fade_sum + order, raw, bar);
    z = bar.z;
    a = bar.a;
    if constexpr (!zero) b = bar.b;
    else
      for (int p = 0; p < NF; ++p) a.x[p] += bar.b.x[p];
  }
  template <int ENTER, int LEAVE, bool pulses, bool keep> void forward(L j) {
    const L* k = knot(j);
    const Coefs c = coefs_of(j);
    const Fade* fade = fades_of(k);
    const L count = k[COUNT], first = k[FIRST], stride = k[STEP];
    L i = 0;
    if (count && !first) there_at<ENTER, LEAVE, pulses, true, keep>(c, k, fade, i++, 0);
    for (; i < count; ++i)
      there_at<ENTER, LEAVE, pulses, false, keep>(c, k, fade, i, first + i * stride);
  }
  template <int ENTER, int LEAVE, bool pulses> void backward(L j) {
    const L* k = knot(j);
    const Coefs c = coefs_of(j);
    const Fade* fade = fades_of(k);
    Fade* sums = FADES ? fade_bars.data() + call.tops[k[WAIT]] : nullptr;
    const L count = k[COUNT], first = k[FIRST], stride = k[STEP];
    Coefs sum;
    clear(sum);
    L i = 0;
    if (count && !first) back_at<ENTER, LEAVE, pulses, true>(c, sum, k, fade, sums, i++, 0);
    for (; i < count; ++i)
      back_at<ENTER, LEAVE, pulses, false>(c, sum, k, fade, sums, i, first + i * stride);
    unfind_coefs(j, sum);
  }
  enum Way { PASS, KEEP, RETURN };
  template <int ENTER, int LEAVE, bool pulses> void go(L j, Way way) {
    if constexpr (BACK) {
      if (way == KEEP) return forward<ENTER, LEAVE, pulses, true>(j);
      if (way == RETURN) return backward<ENTER, LEAVE, pulses>(j);
    }
    forward<ENTER, LEAVE, pulses, false>(j);
  }
  void step(L j, Way way) {
    const L* k = knot(j);
    if (way != RETURN) find_coefs(j);
    if (k[KIND] != 1) return go<1, 1, false>(j, way);
#if PARTS == 1
    if (k[ENTERS] < 0 && k[LEAVES] < 0) return go<-1, -1, true>(j, way);
    if (k[ENTERS] < 0) return go<-1, 1, true>(j, way);
    if (k[LEAVES] < 0) return go<1, -1, true>(j, way);
#endif
    go<1, 1, true>(j, way);
  }
  void wipe(std::vector<F>& f, std::vector<Z>& z, const L* at, L count_f, L count_z) {
    for (L i = 0; i < count_f; ++i)
      for (X& x : f[at[i]].x) x = nothing();
    for (L i = 0; i < count_z; ++i)
      for (X& x : z[at[count_f + i]].x) x = nothing();
  }

  // -------------------------------------------------------------------- the readings
  void weight(const L* r, S& re, S& im) const {
    const L kind = r[READ_WAIT] - call.intervals;
    const S demod = given(block, DEMOD, r[READ_ROW]);
    turned(kinds.read_angle[kind] + phase(r[READ_FRAME]) - demod, r[READ_TURN], re, im);
  }
  void look(L j) {
    const L* r = call.reading + j * LOOK;
    S re = number(0), im = number(0);
    if (r[PLACE] >= 0) {
      const F& f = places[r[PLACE]];
      if (BACK) seen[j] = f;
      const S* read = kinds.read.data() + (r[READ_WAIT] - call.intervals) * NF;
      X x = read[0] * f.x[0];
      for (int i = 1; i < NF; ++i) x += read[i] * f.x[i];
#if PARTS == 2
      if constexpr (SHIFTED) {
        const S* more = kinds.read_im.data() + (r[READ_WAIT] - call.intervals) * NF;
        for (int i = 0; i < NF; ++i) x += X{-(more[i] * f.x[i].im), more[i] * f.x[i].re};
      }
      S c, s;
      weight(r, c, s);
      re = c * x.re - s * x.im;
      im = s * x.re + c * x.im;
#else
      const L q = (r[READ_TURN] + r[PART]) & 3;
      (q & 1 ? im : re) = q & 2 ? -x.re : x.re;
#endif
    }
    for (int k = 0; k < D && k <= call.tangents; ++k) {
      const Array* out = block.arrays[SIGNAL][k ? TANGENT : VALUE];
      if (!out) continue;
      const Lanes& at = block.of(out);
      R* p = out->data + (k ? k - 1 : 0) * out->lead + j * out->row;
      if (at.at[W - 1] == at.at[0] + 2 * (W - 1) && out->part == 1) {
        R both[2 * W];
        for (int l = 0; l < W; ++l) { both[2 * l] = re.v[k][l]; both[2 * l + 1] = im.v[k][l]; }
        std::memcpy(p + at.at[0], both, sizeof both);
      } else {
        block.write(p, at, re.v[k]);
        block.write(p + out->part, at, im.v[k]);
      }
    }
  }
  // the derivative of a pass with tangents is the tangents of its signal alone
  S cotangent(L copy, L part, L j) const {
    const Array* a = block.arrays[COTANGENT][VALUE];
    S y = number(0);
    for (int k = D > 1; k < D && k <= call.tangents; ++k) {
      const L lead = D > 1 ? k - 1 : copy;
      y.v[k] = block.read(a->data + lead * a->lead + part * a->part + j * a->row, block.of(a));
    }
    return y;
  }
  void unlook(L j, L copy) {
    const L* r = call.reading + j * LOOK;
    if (r[PLACE] < 0) return;
    const L kind = r[READ_WAIT] - call.intervals;
    const S* read = kinds.read.data() + kind * NF;
    const S re = cotangent(copy, 0, j), im = cotangent(copy, 1, j);
    const F& f = seen[j];
    F& bar = place_bars[r[PLACE]];
#if PARTS == 2
    S c, s;
    weight(r, c, s);
    const X y{pulled(c, re) + pulled(s, im), pulled(c, im) - pulled(s, re)};
    X x = nothing();
    const S* more = kinds.read_im.data() + kind * NF;
    for (int i = 0; i < NF; ++i) {
      x += read[i] * f.x[i];
      bars.read[kind * NF + i] += dotted(f.x[i], y);
      bar.x[i] += pulled(read[i], y);
      if constexpr (SHIFTED) {
        x += X{-(more[i] * f.x[i].im), more[i] * f.x[i].re};
        bars.read_im[kind * NF + i] += pulled(f.x[i].re, y.im) - pulled(f.x[i].im, y.re);
        bar.x[i] += X{pulled(more[i], y.im), -pulled(more[i], y.re)};
      }
    }
    const S c_bar = pulled(x.re, re) + pulled(x.im, im);
    const S s_bar = pulled(x.re, im) - pulled(x.im, re);
    const S angle = unturned(c, s, c_bar, s_bar);
    bars.read_angle[kind] += angle;
    if (block.has(PHASE) && r[READ_FRAME] >= 0) block.bars[PHASE][r[READ_FRAME]] += angle;
    if (block.has(DEMOD)) block.bars[DEMOD][r[READ_ROW]] -= angle;
#else
    const L q = (r[READ_TURN] + r[PART]) & 3;
    const S& one = q & 1 ? im : re;
    const X y{q & 2 ? -one : one};
    for (int i = 0; i < NF; ++i) {
      bars.read[kind * NF + i] += dotted(f.x[i], y);
      bar.x[i] += pulled(read[i], y);
    }
#endif
  }

  // --------------------------------------------------------------------- all of them
  void begin() {
    block.gather();
    find_kinds();
    find_fades();
    wipe(places, orders, call.clears, 0, call.knots ? knot(0)[CLEAR] : 0);
    for (int i = 0; i < N; ++i) {
      orders[0].x[i] = nothing();
      last(orders[0].x[i]) = kinds.start[i];
    }
    const L early = call.knots ? knot(0)[FIRST_READING] : call.readings;
    for (L r = 0; r < early; ++r) look(r);
  }
  void there(L from, L to, Way way) {
    for (L j = from; j < to; ++j) {
      const L* k = knot(j);
      wipe(places, orders, call.clears + k[CLEAR], k[CLEARS_F], k[CLEARS_Z]);
      step(j, way);
      for (L r = 0; r < k[READINGS]; ++r) look(k[FIRST_READING] + r);
    }
  }
#if BACK
  // the way back keeps the states of one stretch at a time, in the second cache
  std::vector<L> stretches() const {
    std::vector<L> found{0};
    for (L j = 0; j < call.knots; ++j) {
      const L end = knot(j)[STORE] + knot(j)[COUNT], begin = knot(found.back())[STORE];
      if ((end - begin) * (L)sizeof(Kept) + (j - found.back()) * (L)sizeof(Coefs) > SECOND_CACHE &&
          j > found.back())
        found.push_back(j);
    }
    found.push_back(call.knots);
    return found;
  }
  void there_and_back(L copy) {
    const L last_one = (L)cuts.size() - 2;
    begin();
    for (L s = 0; s < last_one; ++s) {
      place_marks[s] = places, order_marks[s] = orders;
      there(cuts[s], cuts[s + 1], PASS);
    }
    reset();
    for (L s = last_one; s >= 0; --s) {
      if (s < last_one) places = place_marks[s], orders = order_marks[s];
      start = cuts[s];
      there(cuts[s], cuts[s + 1], KEEP);
      back(cuts[s], cuts[s + 1], copy);
    }
    finish(copy);
  }
  void more_copies() {
    for (L copy = 1; copy < call.copies; ++copy)
      if (cuts.size() > 2) {
        there_and_back(copy);
      } else {
        reset();
        back(0, call.knots, copy);
        finish(copy);
      }
  }
  void reset() {
    block.clear_bars();
    for (auto* x : {&bars.relax, &bars.grown, &bars.angle, &bars.carry, &bars.carry_im,
                    &bars.read, &bars.read_im, &bars.read_angle, &bars.start})
      for (S& y : *x) y = number(0);
    for (Fade& f : fade_bars) f = {nothing(), nothing(), nothing()};
    for (F& f : place_bars)
      for (X& x : f.x) x = nothing();
    for (Z& z : order_bars)
      for (X& x : z.x) x = nothing();
  }
  void back(L from, L to, L copy) {
    for (L j = to; j-- > from;) {
      const L* k = knot(j);
      for (L r = 0; r < k[READINGS]; ++r) unlook(k[FIRST_READING] + r, copy);
      step(j, RETURN);
      wipe(place_bars, order_bars, call.clears + k[CLEAR], k[CLEARS_F], k[CLEARS_Z]);
    }
  }
  void finish(L copy) {
    for (int i = 0; i < N; ++i) bars.start[i] = last(order_bars[0].x[i]);
    unfind_fades();
    unfind_kinds();
    block.scatter(copy);
  }
#endif
};

static bool some(const Call& call, L thread) {
  try {
    Walk* walk = new Walk(call, thread);
    const L blocks = (call.lanes + W - 1) / W;
    const L from = blocks * thread / call.threads, to = blocks * (thread + 1) / call.threads;
    for (L b = from; b < to; ++b) {
      walk->block.place(b * W);
#if BACK
      walk->there_and_back(0);
      walk->more_copies();
#else
      walk->begin();
      walk->there(0, call.knots, Walk::PASS);
#endif
    }
    delete walk;
    return true;
  } catch (const std::bad_alloc&) {
    return false;
  }
}

extern "C" int walk(const Call* call) {
  std::vector<std::thread> threads;
  std::vector<char> done(call->threads, 0);
  L started = 1;
  try {
    for (; started < call->threads; ++started)
      threads.emplace_back([&, t = started] { done[t] = some(*call, t); });
  } catch (...) {  // no more threads: their share is done here
  }
  for (L t = started; t < call->threads; ++t) done[t] = some(*call, t);
  done[0] = some(*call, 0);
  for (auto& t : threads) t.join();
  for (char d : done)
    if (!d) return 1;
  return 0;
}
extern "C" int lanes() { return W; }
