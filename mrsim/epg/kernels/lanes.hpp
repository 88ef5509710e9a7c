// Vectors of lanes, one spin each, and numbers on them that carry tangents.
//
// A number S is a value and TANGENTS derivatives; products follow the product rule, and
// `pulled` is the transpose of a product, so that the adjoint of a pass on S is the
// reverse mode of its forward mode.
#pragma once
#include <cmath>
#include <cstdint>
#include <cstring>
#include <utility>

#ifdef DOUBLE
typedef double R;
typedef int64_t Whole;
#else
typedef float R;
typedef int32_t Whole;
#endif
#if defined(__AVX512F__)
constexpr int BYTES = 64;
#elif defined(__AVX__)
constexpr int BYTES = 32;
#else
constexpr int BYTES = 16;
#endif
typedef R V __attribute__((vector_size(BYTES)));
typedef Whole I __attribute__((vector_size(BYTES)));
constexpr int W = BYTES / sizeof(R);
constexpr int D = 1 + TANGENTS;
#define INLINE inline __attribute__((always_inline))

INLINE V all(R x) { return V{} + x; }
INLINE V load(const R* p) { V x; std::memcpy(&x, p, sizeof x); return x; }
INLINE void store(R* p, V x) { std::memcpy(p, &x, sizeof x); }
INLINE V chosen(I m, V a, V b) { return (V)(((I)a & m) | ((I)b & ~m)); }
// lanes of two vectors in turn, W / 2 of each
template <int from, int... l>
INLINE V woven(V a, V b, std::integer_sequence<int, l...>) {
  return V{(l & 1 ? b[from + l / 2] : a[from + l / 2])...};
}
template <int from> INLINE V woven(V a, V b) {
  return woven<from>(a, b, std::make_integer_sequence<int, W>());
}
// every other lane of two vectors
template <int from, int... l>
INLINE V picked(V a, V b, std::integer_sequence<int, l...>) {
  return V{(2 * l < W ? a[(2 * l + from) % W] : b[(2 * l + from) % W])...};
}
template <int from> INLINE V picked(V a, V b) {
  return picked<from>(a, b, std::make_integer_sequence<int, W>());
}
INLINE bool any(I m) {
  Whole some = 0;
  for (int l = 0; l < W; ++l) some |= m[l];
  return some != 0;
}

// constants in parts whose products with q are exact
#ifdef DOUBLE
constexpr R MAGIC = 6755399441055744.0, FAR_AWAY = 1e6;
constexpr R PI_2[3] = {1.57079632673412561417, 6.07710050630396597660e-11, 2.02226624879595063154e-21};
constexpr R LN_2[2] = {6.93147180369123816490e-01, 1.90821492927058770002e-10};
constexpr R EXP_LOW = -708.0, EXP_HIGH = 709.0;
constexpr int MANTISSA = 52;
#else
constexpr R MAGIC = 12582912.0f, FAR_AWAY = 1e4f;
constexpr R PI_2[3] = {1.5703125f, 4.837512969970703125e-4f, 7.54978995489188216e-8f};
constexpr R LN_2[2] = {0.693359375f, -2.12194440e-4f};
constexpr R EXP_LOW = -87.0f, EXP_HIGH = 88.0f;
constexpr int MANTISSA = 23;
#endif

// sin and cos by Cody & Waite's reduction to |r| <= pi/4 and Taylor-like polynomials
static INLINE void sine(V x, V& s, V& c) {
  const V shifted = x * R(0.6366197723675814) + MAGIC, q = shifted - MAGIC;
  const I n = (I)shifted;
  V r = x - q * PI_2[0];
  r = r - q * PI_2[1];
  r = r - q * PI_2[2];
  const V z = r * r;
#ifdef DOUBLE
  V a = all(1.58969099521155010221e-10);
  a = a * z - 2.50507602534068634195e-08; a = a * z + 2.75573137070700676789e-06;
  a = a * z - 1.98412698298579493134e-04; a = a * z + 8.33333333332248946124e-03;
  a = a * z - 1.66666666666666324348e-01;
  V b = all(-1.13596475577881948265e-11);
  b = b * z + 2.08757232129817482790e-09; b = b * z - 2.75573143513906633035e-07;
  b = b * z + 2.48015872894767294178e-05; b = b * z - 1.38888888888741095749e-03;
  b = b * z + 4.16666666666666019037e-02;
#else
  V a = all(-1.9515295891e-4f);
  a = a * z + 8.3321608736e-3f; a = a * z - 1.6666654611e-1f;
  V b = all(2.443315711809948e-5f);
  b = b * z - 1.388731625493765e-3f; b = b * z + 4.166664568298827e-2f;
#endif
  const V sr = r + r * (z * a), cr = 1 - z * R(0.5) + z * (z * b);
  const I odd = -(n & 1), minus_s = (n & 2) << (8 * sizeof(R) - 2);
  const I minus_c = ((n + 1) & 2) << (8 * sizeof(R) - 2);
  s = (V)((I)chosen(odd, cr, sr) ^ minus_s);
  c = (V)((I)chosen(odd, sr, cr) ^ minus_c);
  const I large = ~((x < FAR_AWAY) & (x > -FAR_AWAY));
  if (__builtin_expect(any(large), 0))
    for (int l = 0; l < W; ++l)
      if (large[l]) { s[l] = std::sin(x[l]); c[l] = std::cos(x[l]); }
}

INLINE V exponential(V x) {
  const V low = chosen(x < EXP_LOW, all(EXP_LOW), x);
  const V y = chosen(low > EXP_HIGH, all(EXP_HIGH), low);
  const V shifted = y * R(1.4426950408889634) + MAGIC, q = shifted - MAGIC;
  V r = y - q * LN_2[0];
  r = r - q * LN_2[1];
#ifdef DOUBLE
  V p = all(1.0 / 6227020800.0);
  p = p * r + 1.0 / 479001600; p = p * r + 1.0 / 39916800; p = p * r + 1.0 / 3628800;
  p = p * r + 1.0 / 362880; p = p * r + 1.0 / 40320; p = p * r + 1.0 / 5040;
  p = p * r + 1.0 / 720; p = p * r + 1.0 / 120; p = p * r + 1.0 / 24;
#else
  V p = all(1.0f / 5040);
  p = p * r + 1.0f / 720; p = p * r + 1.0f / 120; p = p * r + 1.0f / 24;
#endif
  p = p * r + R(1.0 / 6); p = p * r + R(0.5);
  p = 1 + (r + r * r * p);
  const V made = (V)((I)p + ((I)shifted << MANTISSA));
  const V some = chosen(x < EXP_LOW, all(0), made);
  return chosen(x > EXP_HIGH, all(R(INFINITY)), some);
}

INLINE V exponential_less_one(V x) {
  const V y = chosen((x < R(0.35)) & (x > R(-0.35)), x, all(0));
#ifdef DOUBLE
  V p = all(1.0 / 1307674368000.0);
  p = p * y + 1.0 / 87178291200.0; p = p * y + 1.0 / 6227020800.0;
  p = p * y + 1.0 / 479001600; p = p * y + 1.0 / 39916800; p = p * y + 1.0 / 3628800;
  p = p * y + 1.0 / 362880; p = p * y + 1.0 / 40320;
#else
  V p = all(1.0f / 40320);
#endif
  p = p * y + R(1.0 / 5040); p = p * y + R(1.0 / 720); p = p * y + R(1.0 / 120);
  p = p * y + R(1.0 / 24); p = p * y + R(1.0 / 6); p = p * y + R(0.5);
  return chosen((x < R(0.35)) & (x > R(-0.35)), y + y * y * p, exponential(x) - 1);
}

struct S {
  V v[D];
  S() = default;
  template <class... A> INLINE explicit S(V first, A... more) : v{first, more...} {}
  // lane by lane: a copy as a block of bytes would go through memory
  INLINE S(const S& o) { *this = o; }
  INLINE S& operator=(const S& o) {
    v[0] = o.v[0];
    if constexpr (D > 1) v[1] = o.v[1];
    if constexpr (D > 2) v[2] = o.v[2];
    if constexpr (D > 3) v[3] = o.v[3];
    if constexpr (D > 4) v[4] = o.v[4];
    static_assert(D <= 5, "at most four tangents");
    return *this;
  }
};
template <int i> struct At { static constexpr int at = i; };
template <class F, int... i>
INLINE S made_of(F f, std::integer_sequence<int, i...>) { return S(f(At<i>())...); }
template <class F> INLINE S made(F f) {
  return made_of(f, std::make_integer_sequence<int, D>());
}
#define EACH [&](auto i_) __attribute__((always_inline)) -> V
#define i_at (decltype(i_)::at)

INLINE S number(R x) { return made(EACH { return i_at ? V{} : all(x); }); }
INLINE S operator+(const S& a, const S& b) { return made(EACH { return a.v[i_at] + b.v[i_at]; }); }
INLINE S operator-(const S& a, const S& b) { return made(EACH { return a.v[i_at] - b.v[i_at]; }); }
INLINE S operator-(const S& a) { return made(EACH { return -a.v[i_at]; }); }
INLINE S operator*(R k, const S& a) { return made(EACH { return k * a.v[i_at]; }); }
INLINE S operator*(const S& a, const S& b) {
  return made(EACH {
    return i_at ? a.v[0] * b.v[i_at] + a.v[i_at] * b.v[0] : a.v[0] * b.v[0];
  });
}
INLINE void operator+=(S& a, const S& b) { a = a + b; }
INLINE void operator-=(S& a, const S& b) { a = a - b; }
INLINE V summed(const S& a, const S& b) {
  V x = a.v[0] * b.v[0];
  if constexpr (D > 1) x += a.v[1] * b.v[1];
  if constexpr (D > 2) x += a.v[2] * b.v[2];
  if constexpr (D > 3) x += a.v[3] * b.v[3];
  if constexpr (D > 4) x += a.v[4] * b.v[4];
  return x;
}
INLINE S operator*(V k, const S& a) { return made(EACH { return k * a.v[i_at]; }); }
// Only some tangents move a coefficient: those with its bit in MASK.
enum Bits { DECAY = 1, REGROWTH = 2, ROTATION = 4, OTHER = 8 };
constexpr int MASK[] = {0, MASKS};
template <int bits> constexpr bool moves(int i) { return i && (MASK[i] & bits); }
template <int bits> constexpr bool some() {
  for (int i = 1; i < D; ++i)
    if (moves<bits>(i)) return true;
  return false;
}
template <class G, int... i> INLINE void each_of(G g, std::integer_sequence<int, i...>) {
  (g(At<i>()), ...);
}
// g(At<i>()) for the value and its tangents, one after the other
template <class G> INLINE void each(G g) { each_of(g, std::make_integer_sequence<int, D>()); }
#define AT [&](auto i_) __attribute__((always_inline))
// y's tangents gain those of g times a value
template <int bits> INLINE void along(const S& g, V x, S& y) {
  each(AT { if constexpr (moves<bits>(i_at)) y.v[i_at] += g.v[i_at] * x; });
}
// what that adds to the adjoint x of the value, and to that of g
template <int bits> INLINE void unalong(const S& g, const S& bar, V& x) {
  each(AT { if constexpr (moves<bits>(i_at)) x += g.v[i_at] * bar.v[i_at]; });
}
template <int bits> INLINE void gather(S& sum, V x, const S& bar) { along<bits>(bar, x, sum); }
// the transpose of y -> a * y
INLINE S pulled(const S& a, const S& y) {
  const V first = summed(a, y);
  return made(EACH { return i_at ? a.v[0] * y.v[i_at] : first; });
}
// f of a number, from f and its derivative at the value
INLINE S lifted(const S& x, V f, V slope) {
  return made(EACH { return i_at ? slope * x.v[i_at] : f; });
}
INLINE S exponential(const S& x) {
  const V e = exponential(x.v[0]);
  return lifted(x, e, e);
}
INLINE S inverse(const S& x) {
  const V y = 1 / x.v[0];
  return lifted(x, y, -y * y);
}
INLINE void sine(const S& x, S& s, S& c) {
  V a, b;
  sine(x.v[0], a, b);
  s = lifted(x, a, b);
  c = lifted(x, b, -a);
}
