// The walk over a table (see table.py) for blocks of lanes, forward and backward.
#include <algorithm>
#include <atomic>
#include <memory>
#include <new>
#include <thread>

#include "readings.hpp"

constexpr int UNROLLED = OWN && D == 1 && !BACK ? 2 : 1;  // orders of one turn of a loop
constexpr L KEPT_BYTES = 1 << 22;  // more than that is recomputed instead (measured)

struct Walk : Readings {
  std::vector<Z> orders, order_bars;
  std::vector<Kept> kept;
  std::vector<L> cuts;
  std::vector<std::vector<F>> place_marks;
  std::vector<std::vector<Z>> order_marks;

  Walk(const Call& c, L thread) : Readings(c, thread) {
    Z no_order;
    for (X& x : no_order.x) x = nothing();
    orders.assign(c.orders, no_order);
#if BACK
    order_bars.assign(c.orders, no_order);
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

  // ------------------------------------------------------------------------ one knot
  template <int ENTER, int LEAVE, bool pulses, bool zero, bool keep>
  INLINE void there_at(const Coefs& c, const L* k, const Fade* fade, L i, L order) {
    F &a = places[k[BASE] + order], &b = places[k[BASE] - order];
    Z& z = orders[order];
    Kept* now = keep ? &kept[k[STORE] - knot(start)[STORE] + i] : nullptr;
    if constexpr (keep && pulses && LIGHT) {
      Kept x{a, b, z};  // a compiler cannot tell that what is kept lies elsewhere
      *now = x;
      pulse<ENTER, LEAVE, zero>(c, fade + order, x.a, x.b, x.z);
      a = x.a, z = x.z;
      if constexpr (!zero) b = x.b;
    } else {
      if constexpr (keep) *now = {a, b, z};
      if constexpr (pulses) pulse<ENTER, LEAVE, zero>(c, fade + order, a, b, z);
      else pass<zero>(c, fade + order, z);
    }
  }
  template <int ENTER, int LEAVE, bool pulses, bool zero>
  INLINE void back_at(const Coefs& c, Coefs& sum, const L* k, const Fade* fade, Fade* fade_sum,
                      L i, L order) {
    F &a = place_bars[k[BASE] + order], &b = place_bars[k[BASE] - order];
    Z& z = order_bars[order];
    const Kept& raw = kept[k[STORE] - knot(start)[STORE] + i];
    if constexpr (pulses)
      unpulse<ENTER, LEAVE, zero>(c, sum, fade + order, fade_sum + order, raw, a, b, z);
    else
      unpass<zero>(c, sum, fade + order, fade_sum + order, raw, a, b, z);
  }
  template <int ENTER, int LEAVE, bool pulses, bool keep>
  __attribute__((flatten)) void forward(L j) {
    const L* k = knot(j);
    Coefs c;
    find_coefs(j, c);
    if constexpr (keep) coefs[j - start] = c;
    const Fade* fade = fades_of(k);
    const L count = k[COUNT], first = k[FIRST], stride = k[STEP];
    L i = 0;
    if (count && !first) there_at<ENTER, LEAVE, pulses, true, keep>(c, k, fade, i++, 0);
#pragma GCC unroll UNROLLED
    for (; i < count; ++i)
      there_at<ENTER, LEAVE, pulses, false, keep>(c, k, fade, i, first + i * stride);
  }
  template <int ENTER, int LEAVE, bool pulses>
  __attribute__((flatten)) void backward(L j) {
    const L* k = knot(j);
    const Coefs c = coefs[j - start];
    const Fade* fade = fades_of(k);
    Fade* sums = FADES ? fade_bars.data() + call.tops[k[WAIT]] : nullptr;
    const L count = k[COUNT], first = k[FIRST], stride = k[STEP];
    Coefs sum;
    clear(sum);
    // the last one first, as what was kept is read from its end
    for (L i = count; i-- > (count && !first);)
      back_at<ENTER, LEAVE, pulses, false>(c, sum, k, fade, sums, i, first + i * stride);
    if (count && !first) back_at<ENTER, LEAVE, pulses, true>(c, sum, k, fade, sums, 0, 0);
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
      if ((j - from) % AHEAD == 0) find_sines(j, std::min(j + AHEAD, to));
      wipe(places, orders, call.clears + k[CLEAR], k[CLEARS_F], k[CLEARS_Z]);
      step(j, way);
      for (L r = 0; r < k[READINGS]; ++r) look(k[FIRST_READING] + r);
    }
  }
#if BACK
  // the way back keeps the states of one stretch at a time, in the caches
  std::vector<L> stretches() const {
    std::vector<L> found{0};
    for (L j = 0; j < call.knots; ++j) {
      const L end = knot(j)[STORE] + knot(j)[COUNT], begin = knot(found.back())[STORE];
      if ((end - begin) * (L)sizeof(Kept) + (j - found.back()) * (L)sizeof(Coefs) > KEPT_BYTES &&
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

static void one(Walk& walk, L block) {
  walk.block.place(block * W);
#if BACK
  walk.there_and_back(0);
  walk.more_copies();
#else
  walk.begin();
  walk.there(0, walk.call.knots, Walk::PASS);
#endif
}

// The blocks of a thread: where it adds over them its share, so that every run adds in
// the same order; else the next ones left, so that no thread waits for a slow one.
static bool some(const Call& call, L thread, std::atomic<L>& next) {
  const L blocks = (call.lanes + W - 1) / W;
  const L step = BACK ? (blocks + call.threads - 1) / call.threads
                      : std::max<L>(1, blocks / (32 * call.threads));
  try {
    const auto walk = std::make_unique<Walk>(call, thread);
    for (L from = BACK ? thread * step : next.fetch_add(step); from < blocks;
         from = BACK ? blocks : next.fetch_add(step))
      for (L b = from; b < std::min(from + step, blocks); ++b) one(*walk, b);
    return true;
  } catch (const std::bad_alloc&) {
    return false;
  }
}

extern "C" int walk(const Call* call) {
  std::vector<std::thread> threads;
  std::vector<char> done(call->threads, 0);
  std::atomic<L> next{0};
  L started = 1;
  try {
    for (; started < call->threads; ++started)
      threads.emplace_back([&, t = started] { done[t] = some(*call, t, next); });
  } catch (...) {  // no more threads: their share is done here
  }
  for (L t = started; t < call->threads; ++t) done[t] = some(*call, t, next);
  done[0] = some(*call, 0, next);
  for (auto& t : threads) t.join();
  for (char d : done)
    if (!d) return 1;
  return 0;
}
