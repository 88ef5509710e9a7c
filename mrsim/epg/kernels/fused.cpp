// The walk over a table (see table.py) for blocks of lanes, forward and backward.
#include <algorithm>
#include <atomic>
#include <memory>
#include <new>
#include <thread>

#include "readings.hpp"

constexpr int UNROLLED = OWN && D == 1 ? 2 : 1;  // orders of one turn of a loop

struct Walk : Readings {
#if BACK
  struct Mark { std::vector<F> f; std::vector<Z> z; };
  std::vector<Mark> marks;  // what each stretch starts from
  const std::vector<L>& cuts = layout.cuts;
#endif

  Walk(const Call& c, L thread) : Readings(c, thread) {
#if BACK
    coefs.resize(layout.longest);
    marks.resize(cuts.size());
#endif
  }

  // ------------------------------------------------------------------------ one knot
  template <int ENTER, int LEAVE, bool pulses, bool zero>
  INLINE void there_at(const Coefs& c, const Fade* fade, const Side& from, const Side& to, L i) {
    const Seen now{places[from.a + i * from.up_f], places[from.b - i * from.up_f],
                   orders[from.z + i * from.up_z]};
    const Made made{places[to.a + i * to.up_f], places[to.b - i * to.up_f],
                    orders[to.z + i * to.up_z]};
    if constexpr (pulses) pulse<ENTER, LEAVE, zero>(c, fade, now, made);
    else pass<zero>(c, fade, now.z, made.z);
  }
  template <int ENTER, int LEAVE, bool pulses> __attribute__((flatten)) void forward(L j) {
    const L* k = knot(j);
    Coefs c;
    find_coefs(j, c);
    if (BACK) coefs[j - start] = c;
    const Side from = layout.from(j), to = layout.to(j);
    const L count = k[COUNT], first = k[FIRST], stride = k[STEP];
    const Fade* fade = fades_of(k) + first;
    L i = 0;
    if (count && !first) there_at<ENTER, LEAVE, pulses, true>(c, fade, from, to, i++);
#pragma GCC unroll UNROLLED
    for (; i < count; ++i)
      there_at<ENTER, LEAVE, pulses, false>(c, fade + i * stride, from, to, i);
  }
#if BACK
  template <int ENTER, int LEAVE, bool pulses, bool zero>
  INLINE void back_at(const Coefs& c, Coefs& sum, const Side& from, const L* k, const Fade* fade,
                      Fade* fade_sum, L i, L order) {
    const Seen raw{places[from.a + i * from.up_f], places[from.b - i * from.up_f],
                   orders[from.z + i * from.up_z]};
    F &a = place_bars[k[BASE] + order], &b = place_bars[k[BASE] - order];
    Z& z = order_bars[order];
    if constexpr (pulses)
      unpulse<ENTER, LEAVE, zero>(c, sum, fade + order, fade_sum + order, raw, a, b, z);
    else
      unpass<zero>(c, sum, fade + order, fade_sum + order, raw, a, b, z);
  }
  template <int ENTER, int LEAVE, bool pulses> __attribute__((flatten)) void backward(L j) {
    const L* k = knot(j);
    const Coefs c = coefs[j - start];
    const Side from = layout.from(j);
    const Fade* fade = fades_of(k);
    Fade* sums = FADES ? fade_bars.data() + call.tops[k[WAIT]] : nullptr;
    const L count = k[COUNT], first = k[FIRST], stride = k[STEP];
    Coefs sum;
    clear(sum);
    // the last one first, as what was kept is read from its end
    for (L i = count; i-- > (count && !first);)
      back_at<ENTER, LEAVE, pulses, false>(c, sum, from, k, fade, sums, i, first + i * stride);
    if (count && !first) back_at<ENTER, LEAVE, pulses, true>(c, sum, from, k, fade, sums, 0, 0);
    unfind_coefs(j, sum);
  }
#endif
  template <int ENTER, int LEAVE, bool pulses> void go(L j, bool returns) {
#if BACK
    if (returns) return backward<ENTER, LEAVE, pulses>(j);
#endif
    forward<ENTER, LEAVE, pulses>(j);
  }
  void step(L j, bool returns) {
    const L* k = knot(j);
    if (k[KIND] != 1) return go<1, 1, false>(j, returns);
#if PARTS == 1
    if (k[ENTERS] < 0 && k[LEAVES] < 0) return go<-1, -1, true>(j, returns);
    if (k[ENTERS] < 0) return go<-1, 1, true>(j, returns);
    if (k[LEAVES] < 0) return go<1, -1, true>(j, returns);
#endif
    go<1, 1, true>(j, returns);
  }
  static void wipe(std::vector<F>& f, std::vector<Z>& z, const L* at, L count_f, L count_z) {
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
    wipe(places, orders, layout.clears(), 0, call.knots ? knot(0)[CLEAR] : 0);
    Z& z = orders[layout.first_order()];
    for (int i = 0; i < N; ++i) {
      z.x[i] = nothing();
      last(z.x[i]) = kinds.start[i];
    }
    const L early = call.knots ? knot(0)[FIRST_READING] : call.readings;
    for (L r = 0; r < early; ++r) look(r);
  }
  void there(L from, L to) {
    start = from;
    for (L j = from; j < to; ++j) {
      const L* k = knot(j);
      if ((j - from) % AHEAD == 0) find_sines(j, std::min(j + AHEAD, to));
      wipe(places, orders, layout.clears() + k[CLEAR], k[CLEARS_F], k[CLEARS_Z]);
      step(j, false);
      for (L r = 0; r < k[READINGS]; ++r) look(k[FIRST_READING] + r);
    }
  }
#if BACK
  // the way back keeps the states of one stretch at a time, in the caches
  void there_and_back(L copy) {
    const L last_one = (L)cuts.size() - 2;
    begin();
    for (L s = 0; s < last_one; ++s) {
      const Slab &first = layout.starts[s], &end = layout.ends[s];
      marks[s].f.assign(places.begin(), places.begin() + first.f.size());
      marks[s].z.assign(orders.begin(), orders.begin() + first.z.size());
      there(cuts[s], cuts[s + 1]);
      std::copy_n(places.begin() + end.first_f, end.f.size(), places.begin());
      std::copy_n(orders.begin() + end.first_z, end.z.size(), orders.begin());
    }
    reset();
    for (L s = last_one; s >= 0; --s) {
      if (s < last_one) {
        std::copy(marks[s].f.begin(), marks[s].f.end(), places.begin());
        std::copy(marks[s].z.begin(), marks[s].z.end(), orders.begin());
      }
      there(cuts[s], cuts[s + 1]);
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
      step(j, true);
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
  walk.there(0, walk.call.knots);
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
