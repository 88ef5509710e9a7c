// Where the states of each knot lie in memory.
//
// A walk that does not come back works in place, as the table says. One that comes back
// needs the states before every knot: there each knot reads one slab of memory and writes
// the next, so that to keep them costs no store. A slab holds what the knot before it
// wrote and what the one after it reads, close together.
#pragma once
#include <numeric>

#include "inputs.hpp"

constexpr L KEPT_BYTES = 1 << 22;  // more than that is recomputed instead (measured)

struct Side {  // where P, Q and ζ of a knot's first order lie, and the steps to the next
  L a, b, z, up_f, up_z;
};

struct Range {  // the numbers low, low + unit … high
  L low = 0, high = -1, unit = 0;
  void add(L x) {
    if (high < low) low = high = x;
    unit = std::gcd(unit, x - low);
    low = std::min(low, x), high = std::max(high, x);
  }
  L each() const { return std::max<L>(unit, 1); }
  L size() const { return high < low ? 0 : (high - low) / each() + 1; }
  L at(L x) const { return (x - low) / each(); }
};

struct Slab {
  Range f, z;
  L first_f = 0, first_z = 0;
  void add(const L* k) {
    for (L i : {L(0), L(1), k[COUNT] - 1}) {
      if (i < 0 || i >= k[COUNT]) continue;
      const L order = k[FIRST] + i * k[STEP];
      z.add(order);
      if (k[KIND] == 1) f.add(k[BASE] + order), f.add(k[BASE] - order);
    }
  }
  L place(L x) const { return first_f + f.at(x); }
  L order(L x) const { return first_z + z.at(x); }
  L bytes() const { return f.size() * sizeof(F) + z.size() * sizeof(Z); }
  Side side(const L* k) const {
    Side s{};
    if (!k[COUNT]) return s;
    s.z = order(k[FIRST]), s.up_z = k[STEP] / z.each();
    if (k[KIND] != 1) return s;
    s.a = place(k[BASE] + k[FIRST]), s.b = place(k[BASE] - k[FIRST]);
    s.up_f = k[STEP] / f.each();
    return s;
  }
};

struct Layout {
  const Call& call;
  L places, orders;  // how many

  const L* knot(L j) const { return call.knot + j * KNOT; }
  L place_of(L r) const { return call.reading[r * LOOK + PLACE]; }
#if !BACK
  explicit Layout(const Call& c) : call(c), places(c.places), orders(c.orders) {}
  Side from(L j) const {
    const L* k = knot(j);
    return {k[BASE] + k[FIRST], k[BASE] - k[FIRST], k[FIRST], k[STEP], k[STEP]};
  }
  Side to(L j) const { return from(j); }
  const L* clears() const { return call.clears; }
  L reading(L r) const { return place_of(r); }
  L first_order() const { return 0; }
#else
  std::vector<Side> sources, targets;  // of each knot
  std::vector<L> cleared, read_at;     // where what is cleared and read lies
  std::vector<L> cuts{0};              // the stretches whose states are kept at a time
  std::vector<Slab> starts, ends;      // of each stretch
  L longest = 1;                       // of them, in knots

  explicit Layout(const Call& c)
      : call(c), places(0), orders(0), sources(c.knots), targets(c.knots), read_at(c.readings) {
    const std::vector<Slab> slabs = needs();
    Slab here = slabs[0];
    starts.push_back(here);
    grow(here);
    put_clears(here, 0, 0, c.knots ? knot(0)[CLEAR] : 0);
    L kept = here.bytes();
    for (L j = 0; j < c.knots; ++j) {
      const L* k = knot(j);
      Slab next = slabs[j + 1];
      const L more = next.bytes() + sizeof(Coefs);
      if (kept + more > KEPT_BYTES && j > cuts.back()) {
        ends.push_back(here), cuts.push_back(j);
        here.first_f = here.first_z = 0;
        starts.push_back(here);
        kept = here.bytes();
      }
      kept += more;
      sources[j] = here.side(k);
      put_clears(here, k[CLEAR], k[CLEARS_F], k[CLEARS_Z]);
      next.first_f = here.first_f + here.f.size();
      next.first_z = here.first_z + here.z.size();
      targets[j] = next.side(k);
      for (L r = k[FIRST_READING]; r < k[FIRST_READING] + k[READINGS]; ++r)
        if (place_of(r) >= 0) read_at[r] = next.place(place_of(r));
      grow(next);
      longest = std::max(longest, j + 1 - cuts.back());
      here = next;
    }
    ends.push_back(here), cuts.push_back(c.knots);
  }
  const Side& from(L j) const { return sources[j]; }
  const Side& to(L j) const { return targets[j]; }
  const L* clears() const { return cleared.data(); }
  L reading(L r) const { return read_at[r]; }
  L first_order() const { return starts[0].order(0); }

 private:
  void grow(const Slab& s) {
    places = std::max(places, s.first_f + s.f.size());
    orders = std::max(orders, s.first_z + s.z.size());
  }
  // what is written into each slab, or read from it
  std::vector<Slab> needs() const {
    std::vector<Slab> slabs(call.knots + 1);
    slabs[0].z.add(0);
    for (L i = 0; call.knots && i < knot(0)[CLEAR]; ++i) slabs[0].z.add(call.clears[i]);
    for (L j = 0; j < call.knots; ++j) {
      const L *k = knot(j), *clear = call.clears + k[CLEAR];
      slabs[j].add(k), slabs[j + 1].add(k);
      for (L i = 0; i < k[CLEARS_F]; ++i) slabs[j].f.add(clear[i]);
      for (L i = 0; i < k[CLEARS_Z]; ++i) slabs[j].z.add(clear[k[CLEARS_F] + i]);
      for (L r = k[FIRST_READING]; r < k[FIRST_READING] + k[READINGS]; ++r)
        if (place_of(r) >= 0) slabs[j + 1].f.add(place_of(r));
    }
    return slabs;
  }
  void put_clears(const Slab& s, L at, L count_f, L count_z) {
    const L* clear = call.clears + at;
    for (L i = 0; i < count_f; ++i) cleared.push_back(s.place(clear[i]));
    for (L i = count_f; i < count_f + count_z; ++i) cleared.push_back(s.order(clear[i]));
  }
#endif
};
