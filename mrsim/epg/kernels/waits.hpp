// What the intervals between knots do to the states, kind by kind, and its adjoint.
#pragma once
#include "inputs.hpp"

struct Kinds {  // what relaxation and precession do over the intervals and to readings
  std::vector<S> relax, grown, angle, carry, carry_im, read, read_im, read_angle, start;
};

struct Waits {
  const Call& call;
  Block block;
  Kinds kinds, bars;
  std::vector<Fade> fades, fade_bars;

  Waits(const Call& c, L thread) : call(c), block(c, thread) {
    for (Kinds* k : {&kinds, &bars}) size(*k);
    if (FADES) fades.resize(c.tops[c.intervals]);
    if (FADES && BACK) fade_bars.resize(fades.size());
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
#if OWN
  // of relax and carry the value is a decay, the tangents are those of its exponent
  void find_kinds() {
    const S one = inverse(block.values[T1][0]), two = inverse(block.values[T2][0]);
    const S precession = R(2 * M_PI) * given(block, DF, 0);
    for (S& x : kinds.carry) x = number(1);  // what does not last leaves all as it is
    for (S& x : kinds.relax) x = number(1);
    for (S& x : kinds.grown) x = number(0);
    for (S& x : kinds.angle) x = number(0);
    for (S& x : kinds.read) x = number(1);
    for (S& x : kinds.read_angle) x = number(0);
    for (L k = 0; k < call.kinds; ++k) {
      if (!lasts(k)) continue;
      const S t = time_of(k), x = -(t * two);
      const bool reads = k >= call.intervals;
      const L j = k - call.intervals;
      (reads ? kinds.read_angle[j] : kinds.angle[k]) = t * precession;
      if (reads) {
        kinds.read[j] = exponential(x);
        continue;
      }
      kinds.carry[k] = x;
      kinds.carry[k].v[0] = exponential(x.v[0]);
      const S y = -(t * one);
      kinds.relax[k] = y;
      const V E = kinds.relax[k].v[0] = exponential(y.v[0]);
      kinds.grown[k] = lifted(y, exponential_less_one(y.v[0]), E);
    }
    kinds.start[0] = number(-1);
  }
  void unfind_kinds() {
    const S one = inverse(block.values[T1][0]), two = inverse(block.values[T2][0]);
    const S precession = R(2 * M_PI) * given(block, DF, 0);
    S one_bar = number(0), two_bar = number(0), df_bar = number(0);
    for (L k = 0; k < call.kinds; ++k) {
      if (!lasts(k)) continue;
      const bool reads = k >= call.intervals;
      const L j = k - call.intervals;
      const S t = time_of(k);
      const S x_bar = reads ? pulled(kinds.read[j], bars.read[j]) : bars.carry[k];
      const S &turn = reads ? bars.read_angle[j] : bars.angle[k];
      two_bar -= pulled(t, x_bar);
      df_bar += pulled(t, turn);
      S t_bar = pulled(precession, turn) - pulled(two, x_bar);
      if (!reads) {
        const V E = kinds.relax[k].v[0];
        const S slope = lifted(kinds.relax[k], E, E);
        const S y_bar = bars.relax[k] + pulled(slope, bars.grown[k]);
        one_bar -= pulled(t, y_bar);
        t_bar -= pulled(one, y_bar);
      }
      for (L r = call.waits[k]; r < call.waits[k + 1]; ++r)
        block.bars[DURATION][call.rows[r]] += t_bar;
    }
    block.bars[T1][0] += -pulled(one * one, one_bar);
    block.bars[T2][0] += -pulled(two * two, two_bar);
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
    for (auto* x : {&kinds.grown, &kinds.start})  // the states hold half of ζ
      for (S& y : *x) y = R(0.5) * y;
  }
  void unfind_kinds() {
    for (auto* x : {&bars.grown, &bars.start})
      for (S& y : *x) y = R(0.5) * y;
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
  static X wave(const S& loss, [[maybe_unused]] const S& turn) {
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
};
