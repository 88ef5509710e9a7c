"""The lookup and the climb to a peak as one C++ loop over lanes, made when asked for.

It does what `_world.numbers` and `peak.climbs` do, in the same order, for float32 on a
CPU: eight lanes at a time stay in registers and the first cache from the image to the
peak. The terms of ∇²F are written out for the degree.
"""

import ctypes
import functools
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from mrsim import _native
from mrsim.tract import peak
from mrsim.tract.polynomial import degree, terms

_SOURCE = r"""
#include <cmath>
#include <cstdint>
#include <limits>
constexpr int N = @N@, L = @L@, W = 8;
struct Block { float c[N][W], u[3][W], value[W], length[W], done[W]; };

static inline void climb(Block& b) {
  for (int j = 0; j < W; ++j) {
    const float x = b.u[0][j], y = b.u[1][j], z = b.u[2][j];
@POWERS@
@TERMS@
    float gx = (xx * x + xy * y + xz * z) * (1.f / (L - 1));
    float gy = (xy * x + yy * y + yz * z) * (1.f / (L - 1));
    float gz = (xz * x + yz * y + zz * z) * (1.f / (L - 1));
    const float inward = gx * x + gy * y + gz * z;
    gx -= inward * x; gy -= inward * y; gz -= inward * z;
    const float slope = std::sqrt(gx * gx + gy * gy + gz * gz);
    const float scale = 1.f / (slope > 0.f ? slope : 1.f);
    const float ex = gx * scale, ey = gy * scale, ez = gz * scale;
    const float ee = (xx * ex + xy * ey + xz * ez) * ex
      + (xy * ex + yy * ey + yz * ez) * ey + (xz * ex + yz * ey + zz * ez) * ez
      - inward;
    const float ring = 1.f - z * z, s2 = ring < @POLE@f ? 1.f : ring;
    const float extra = slope * z * ez * (s2 - ez * ez) / (s2 * s2);
    const float bend = ring < @POLE@f ? ee : ee - extra;
    const float newton = std::fabs(slope / (bend == 0.f ? 1.f : bend));
    const float most = bend == 0.f ? 0.f : newton;
    const float length = most > @LONGEST@f ? @LONGEST@f : most;
    const float mx = x + length * ex, my = y + length * ey, mz = z + length * ez;
    const float size = 1.f / std::sqrt(mx * mx + my * my + mz * mz);
    const float keep = b.done[j];
    b.u[0][j] = keep > 0.f ? x : mx * size;
    b.u[1][j] = keep > 0.f ? y : my * size;
    b.u[2][j] = keep > 0.f ? z : mz * size;
    b.value[j] = keep > 0.f ? b.value[j] : inward * (1.f / L);
    b.done[j] = keep > 0.f ? keep : (length < @DONE@f ? 1.f : 0.f);
  }
}

static inline bool gather(float* out, const float* values, const bool* support,
                          const int64_t* shape, int64_t first, const float* m,
                          int64_t stride, float x, float y, float z) {
  int64_t low[3], high[3], near = 0;
  float f[3];
  for (int a = 0; a < 3; ++a) {
    const float* r = m + 4 * a * stride;
    const float v = r[0] * x + r[stride] * y + r[2 * stride] * z + r[3 * stride];
    const int64_t n = shape[a];
    if (!(v > -0.5f && v < n - 0.5f)) return false;
    int64_t nearest = (int64_t)(v < 0.f ? std::ceil(v - 0.5f) : std::floor(v + 0.5f));
    nearest = nearest < 0 ? 0 : (nearest >= n ? n - 1 : nearest);
    near = near * n + nearest;
    const float floor = std::floor(v);
    f[a] = v >= 0.f && v <= n - 1 ? v - floor : 0.f;
    low[a] = floor < 0.f ? 0 : (int64_t)floor;
    high[a] = (int64_t)floor + 1 >= n ? n - 1 : (int64_t)floor + 1;
  }
  if (!support[first + near]) return false;
  const float* row[8];
  float w[8];
  for (int i = 0; i < 8; ++i) {
    const int p = i >> 2, q = (i >> 1) & 1, r = i & 1;
    w[i] = (p ? f[0] : 1.f - f[0]) * (q ? f[1] : 1.f - f[1]) * (r ? f[2] : 1.f - f[2]);
    row[i] = values + N * (first + ((p ? high : low)[0] * shape[1]
      + (q ? high : low)[1]) * shape[2] + (r ? high : low)[2]);
  }
  float c[N];
  for (int k = 0; k < N; ++k)
    c[k] = w[0] * row[0][k] + w[1] * row[1][k] + w[2] * row[2][k] + w[3] * row[3][k]
      + w[4] * row[4][k] + w[5] * row[5][k] + w[6] * row[6][k] + w[7] * row[7][k];
  for (int k = 0; k < N; ++k) out[k * W] = c[k];
  return !std::isnan(c[0]);
}

extern "C" void look(int64_t lanes, const float* values, const bool* support,
                     const int64_t* shape, const int64_t* first, const float* inverse,
                     int64_t many, const float* at, float* u, float* value, bool* found,
                     bool* empty, int64_t count) {
  const int64_t stride = many ? lanes : 1;
  for (int64_t start = 0; start < lanes; start += W) {
    Block b = {};
    const int n = lanes - start < W ? lanes - start : W;
    for (int j = 0; j < n; ++j) {
      const int64_t i = start + j;
      empty[i] = !gather(&b.c[0][j], values, support, shape, first ? first[i] : 0,
                         inverse + (many ? i : 0), stride, at[i], at[lanes + i],
                         at[2 * lanes + i]);
      for (int a = 0; a < 3; ++a) b.u[a][j] = u[a * lanes + i];
      b.done[j] = empty[i];
    }
    for (int k = 0; k < count; ++k) climb(b);
    for (int j = 0; j < n; ++j) {
      const int64_t i = start + j;
      for (int a = 0; a < 3; ++a) u[a * lanes + i] = b.u[a][j];
      value[i] = b.value[j];
      found[i] = b.done[j] > 0.f;
    }
  }
}
"""


def look(
    shape: tuple[int, int, int],
    values: Tensor,
    support: Tensor,
    first: Tensor | None,
    inverse: Tensor,
    at: Tensor,
    u: Tensor,
    count: int,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Climb from directions u (3, B) at points (3, B), a number of steps.

    Args:
        shape: of the image.
        values (rows, N): float32 polynomial coefficients.
        support (rows,): whether a voxel holds anything.
        first (B,): row at which a lane's image starts; None for 0.
        inverse (3, 4, B or 1): scanner → voxel.
        at (3, B): scanner positions.
        u (3, B): unit vectors.
        count: steps.

    Returns:
        Directions (3, B), amplitudes (B,), whether the search ended, whether the point
        is outside the image.
    """
    lanes = at.shape[1]
    u = u.clone(memory_format=torch.contiguous_format)
    size = u.new_zeros(lanes)
    found, empty = (torch.zeros_like(size, dtype=torch.bool) for _ in range(2))
    inputs = [values.contiguous(), support.contiguous(), torch.tensor(shape)]
    rest = [inverse.contiguous(), at.contiguous(), u, size, found, empty]
    pointers = [ctypes.c_void_p(x.data_ptr()) for x in (*inputs, *rest)]
    start = None if first is None else first.contiguous()
    pointers.insert(3, ctypes.c_void_p(0 if start is None else start.data_ptr()))
    pointers.insert(5, ctypes.c_int64(inverse.shape[-1] > 1))  # pyright: ignore[reportArgumentType]
    made = _library(degree(values.shape[1]))
    made(ctypes.c_int64(lanes), *pointers, ctypes.c_int64(count))
    return u, size, found, empty


@functools.cache
def _library(L: int) -> Callable[..., Any]:
    """Compile the kernel for a degree."""
    made = _native.library({"look.cpp": _written(L)}, "look.cpp", "-O3")
    if isinstance(made, str):
        raise RuntimeError(
            f"tract: compiled=True needs a working C++ compiler (g++, clang++ or $CXX),"
            f" but {made}; install one, or leave compiled=False"
        )
    return made.look


def _written(L: int) -> str:
    rows, sizes, exponents = terms(L)
    powers, most = [], L - 2
    for v in "xyz":
        for n in range(2, most + 1):
            left = v if n == 2 else f"{v}{n - 1}"
            powers.append(f"    const float {v}{n} = {left} * {v};")
    monomials = []
    for k, (size, each) in enumerate(zip(sizes, exponents, strict=True)):
        parts = [f"{size}f"]
        for v, n in zip("xyz", each, strict=True):
            parts += [v if n == 1 else f"{v}{n}"] * (n > 0)
        monomials.append(f"    const float w{k} = {' * '.join(parts)};")
    names = {"xx": 0, "xy": 1, "xz": 2, "yy": 4, "yz": 5, "zz": 8}
    sums = [
        f"    const float {name} = "
        + " + ".join(f"b.c[{r}][j] * w{k}" for k, r in enumerate(rows[at]))
        + ";"
        for name, at in names.items()
    ]
    filled = {
        "N": str((L + 1) * (L + 2) // 2),
        "L": str(L),
        "POWERS": "\n".join(powers),
        "TERMS": "\n".join(monomials + sums),
        "POLE": repr(peak.POLE),
        "LONGEST": repr(peak.LONGEST),
        "DONE": repr(peak.DONE),
    }
    source = _SOURCE
    for key, text in filled.items():
        source = source.replace(f"@{key}@", text)
    return source
