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
typedef R Word __attribute__((vector_size(BYTES)));  // what the processor works on at once
typedef Whole I __attribute__((vector_size(BYTES)));
constexpr int HALF = BYTES / sizeof(R), D = 1 + TANGENTS;
#define INLINE inline __attribute__((always_inline))
#define LIGHT (OWN && PARTS == 1 && TANGENTS == 0)  // three numbers an order

INLINE Word word(R x) { return Word{} + x; }
INLINE Word load(const R* p) { Word x; std::memcpy(&x, p, sizeof x); return x; }
INLINE void store(R* p, Word x) { std::memcpy(p, &x, sizeof x); }
INLINE Word chosen(I m, Word a, Word b) { return (Word)(((I)a & m) | ((I)b & ~m)); }
// lanes of two words in turn, HALF / 2 of each
template <int from, int... l>
INLINE Word woven(Word a, Word b, std::integer_sequence<int, l...>) {
  return Word{(l & 1 ? b[from + l / 2] : a[from + l / 2])...};
}
template <int from> INLINE Word woven(Word a, Word b) {
  return woven<from>(a, b, std::make_integer_sequence<int, HALF>());
}
// every other lane of two words
template <int from, int... l>
INLINE Word picked(Word a, Word b, std::integer_sequence<int, l...>) {
  return Word{(2 * l < HALF ? a[(2 * l + from) % HALF] : b[(2 * l + from) % HALF])...};
}
template <int from> INLINE Word picked(Word a, Word b) {
  return picked<from>(a, b, std::make_integer_sequence<int, HALF>());
}
INLINE void store_pairs(R* p, Word re, Word im) {
  store(p, woven<0>(re, im)), store(p + HALF, woven<HALF / 2>(re, im));
}
INLINE void load_pairs(const R* p, Word& re, Word& im) {
  const Word x = load(p), y = load(p + HALF);
  re = picked<0>(x, y), im = picked<1>(x, y);
}
INLINE bool any(I m) {
  Whole some = 0;
  for (int l = 0; l < HALF; ++l) some |= m[l];
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
INLINE void near_sine(Word x, Word& s, Word& c) {
  const Word shifted = x * R(0.6366197723675814) + MAGIC, q = shifted - MAGIC;
  const I n = (I)shifted;
  Word r = x - q * PI_2[0];
  r = r - q * PI_2[1];
  r = r - q * PI_2[2];
  const Word z = r * r;
#ifdef DOUBLE
  Word a = word(1.58969099521155010221e-10);
  a = a * z - 2.50507602534068634195e-08; a = a * z + 2.75573137070700676789e-06;
  a = a * z - 1.98412698298579493134e-04; a = a * z + 8.33333333332248946124e-03;
  a = a * z - 1.66666666666666324348e-01;
  Word b = word(-1.13596475577881948265e-11);
  b = b * z + 2.08757232129817482790e-09; b = b * z - 2.75573143513906633035e-07;
  b = b * z + 2.48015872894767294178e-05; b = b * z - 1.38888888888741095749e-03;
  b = b * z + 4.16666666666666019037e-02;
#else
  Word a = word(-1.9515295891e-4f);
  a = a * z + 8.3321608736e-3f; a = a * z - 1.6666654611e-1f;
  Word b = word(2.443315711809948e-5f);
  b = b * z - 1.388731625493765e-3f; b = b * z + 4.166664568298827e-2f;
#endif
  const Word sr = r + r * (z * a), cr = 1 + z * (z * b - R(0.5));
  constexpr int top = 8 * sizeof(R) - 1;
  const I odd = n << top, one = {}, sign = (one + 1) << top;
  const I minus_s = (n << (top - 1)) & sign, minus_c = ((n + 1) << (top - 1)) & sign;
  s = (Word)((I)(odd < 0 ? cr : sr) ^ minus_s);
  c = (Word)((I)(odd < 0 ? sr : cr) ^ minus_c);
}
INLINE I far(Word x) { return ~((x < FAR_AWAY) & (x > -FAR_AWAY)); }
INLINE void far_sine(I where, Word x, Word& s, Word& c) {
  for (int l = 0; l < HALF; ++l)
    if (where[l]) { s[l] = std::sin(x[l]); c[l] = std::cos(x[l]); }
}

INLINE Word exponential(Word x) {
  const Word low = chosen(x < EXP_LOW, word(EXP_LOW), x);
  const Word y = chosen(low > EXP_HIGH, word(EXP_HIGH), low);
  const Word shifted = y * R(1.4426950408889634) + MAGIC, q = shifted - MAGIC;
  Word r = y - q * LN_2[0];
  r = r - q * LN_2[1];
#ifdef DOUBLE
  Word p = word(1.0 / 6227020800.0);
  p = p * r + 1.0 / 479001600; p = p * r + 1.0 / 39916800; p = p * r + 1.0 / 3628800;
  p = p * r + 1.0 / 362880; p = p * r + 1.0 / 40320; p = p * r + 1.0 / 5040;
  p = p * r + 1.0 / 720; p = p * r + 1.0 / 120; p = p * r + 1.0 / 24;
#else
  Word p = word(1.0f / 5040);
  p = p * r + 1.0f / 720; p = p * r + 1.0f / 120; p = p * r + 1.0f / 24;
#endif
  p = p * r + R(1.0 / 6); p = p * r + R(0.5);
  p = 1 + (r + r * r * p);
  const Word made = (Word)((I)p + ((I)shifted << MANTISSA));
  const Word some = chosen(x < EXP_LOW, word(0), made);
  return chosen(x > EXP_HIGH, word(R(INFINITY)), some);
}

INLINE Word exponential_less_one(Word x) {
  const Word y = chosen((x < R(0.35)) & (x > R(-0.35)), x, word(0));
#ifdef DOUBLE
  Word p = word(1.0 / 1307674368000.0);
  p = p * y + 1.0 / 87178291200.0; p = p * y + 1.0 / 6227020800.0;
  p = p * y + 1.0 / 479001600; p = p * y + 1.0 / 39916800; p = p * y + 1.0 / 3628800;
  p = p * y + 1.0 / 362880; p = p * y + 1.0 / 40320;
#else
  Word p = word(1.0f / 40320);
#endif
  p = p * y + R(1.0 / 5040); p = p * y + R(1.0 / 720); p = p * y + R(1.0 / 120);
  p = p * y + R(1.0 / 24); p = p * y + R(1.0 / 6); p = p * y + R(0.5);
  return chosen((x < R(0.35)) & (x > R(-0.35)), y + y * y * p, exponential(x) - 1);
}

// The lanes of a block: where a walk's numbers are few and words are short, two words, for
// which a knot is looked up once.
#if LIGHT && !BACK && !defined(__AVX512F__)
struct V {
  Word a, b;
  V() = default;
  INLINE V(Word a, Word b) : a(a), b(b) {}
  INLINE V(const V& o) : a(o.a), b(o.b) {}  // not as a block of bytes
  INLINE V& operator=(const V& o) {
    a = o.a, b = o.b;
    return *this;
  }
};
#define PAIRWISE(op) \
  INLINE V operator op(const V& x, const V& y) { return {x.a op y.a, x.b op y.b}; } \
  INLINE V operator op(const V& x, R y) { return {x.a op y, x.b op y}; } \
  INLINE V operator op(R x, const V& y) { return {x op y.a, x op y.b}; }
PAIRWISE(+) PAIRWISE(-) PAIRWISE(*) PAIRWISE(/)
INLINE V operator-(const V& x) { return {-x.a, -x.b}; }
INLINE void operator+=(V& x, const V& y) { x.a += y.a, x.b += y.b; }
INLINE void operator-=(V& x, const V& y) { x.a -= y.a, x.b -= y.b; }
INLINE V both(const R* p) { return {load(p), load(p + HALF)}; }
INLINE void store(R* p, const V& x) { store(p, x.a), store(p + HALF, x.b); }
INLINE void store_pairs(R* p, const V& re, const V& im) {
  store_pairs(p, re.a, im.a), store_pairs(p + 2 * HALF, re.b, im.b);
}
INLINE void load_pairs(const R* p, V& re, V& im) {
  load_pairs(p, re.a, im.a), load_pairs(p + 2 * HALF, re.b, im.b);
}
INLINE V all(R x) { return {word(x), word(x)}; }
INLINE void sine(const V& x, V& s, V& c) {
  near_sine(x.a, s.a, c.a), near_sine(x.b, s.b, c.b);
  const I a = far(x.a), b = far(x.b);
  if (__builtin_expect(any(a | b), 0)) far_sine(a, x.a, s.a, c.a), far_sine(b, x.b, s.b, c.b);
}
INLINE V exponential(const V& x) { return {exponential(x.a), exponential(x.b)}; }
INLINE V exponential_less_one(const V& x) {
  return {exponential_less_one(x.a), exponential_less_one(x.b)};
}
#else
typedef Word V;
INLINE V both(const R* p) { return load(p); }
INLINE V all(R x) { return word(x); }
INLINE void sine(V x, V& s, V& c) {
  near_sine(x, s, c);
  const I a = far(x);
  if (__builtin_expect(any(a), 0)) far_sine(a, x, s, c);
}
#endif
constexpr int W = sizeof(V) / sizeof(R);
INLINE R& lane(V& x, int l) { return ((R*)&x)[l]; }

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
