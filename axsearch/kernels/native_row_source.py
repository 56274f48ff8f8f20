"""The C++ of the CPU kernels that works on one row of scores, as text."""

from __future__ import annotations

# One row of scores is 1 to 128 KB and stays in the core's own cache while it is processed:
#   1. mask, and look for NaN                            one pass
#   2. maxima of 4k interleaved groups of scores; any t that k of the maxima reach is a lower
#      bound of the k-th largest score                   one pass
#   3. compact the scores from t on with their keys      one pass; about 1.1k of them are left
#   4. bisect to the k-th largest among those; ties go to the lowest key
#   5. softmax of k weights; gather k rows of values
# Rows of fewer than 8k or 128 keys are bisected directly. Bisecting runs over the order of floats
# as integers, so that it ends after at most 32 steps whatever the scores are.
ROW_SOURCE = r"""
#include <cmath>
#include <cstdint>
#include <cstring>
#include <vector>
#if defined(__AVX512F__)
#include <immintrin.h>
#endif

namespace {

constexpr int64_t LANES = 16;  // where registers are narrower the compiler splits a Vec
typedef float Vec __attribute__((vector_size(64)));
typedef int32_t Ints __attribute__((vector_size(64)));
constexpr float INF = INFINITY;

inline Vec load(const float* p) {
  Vec v;
  std::memcpy(&v, p, sizeof v);
  return v;
}
inline void store(float* p, Vec v) { std::memcpy(p, &v, sizeof v); }
inline Vec splat(float x) { return x - Vec{}; }
inline Vec larger(Vec a, Vec b) { return a > b ? a : b; }
inline float sum_of(Vec v) {
  float s = 0;
  for (int64_t i = 0; i < LANES; i++) s += v[i];
  return s;
}

// e^x for x <= 0, within 2 ulp; 0 below -87; NaN stays NaN. Cephes' polynomial of degree 5.
inline Vec exponential(Vec x) {
  const Vec y = x < -87.f ? splat(-87.f) : x;
  const Vec shifted = y * 1.44269504f + 12582912.f;  // 1.5 * 2^23: rounds to an integer
  const Vec n = shifted - 12582912.f;
  const Vec r = y - n * 0.693359375f - n * -2.12194440e-4f;
  Vec p = splat(1.9875691500e-4f);
  p = p * r + 1.3981999507e-3f;
  p = p * r + 8.3334519073e-3f;
  p = p * r + 4.1665795894e-2f;
  p = p * r + 1.6666665459e-1f;
  p = p * r + 5.0000001201e-1f;
  p = p * r * r + r + 1.f;
  const Vec e = (Vec)((Ints)p + ((Ints)shifted << 23));
  return x < -87.f ? Vec{} : e;
}

// Integers in the order of the floats.
inline int64_t rank_of(float x) {
  int32_t i;
  std::memcpy(&i, &x, sizeof i);
  return i ^ ((i >> 31) & 0x7fffffff);
}
inline float of_rank(int64_t rank) {
  int32_t i = static_cast<int32_t>(rank);
  i ^= (i >> 31) & 0x7fffffff;
  float x;
  std::memcpy(&x, &i, sizeof x);
  return x;
}

inline int64_t count_from(const float* s, int64_t n, float t) {
  int64_t i = 0, count = 0;
#if defined(__AVX512F__)
  const __m512 bound = _mm512_set1_ps(t);
  int64_t a = 0, b = 0, c = 0, d = 0;  // four chains, since popcount takes three cycles
  for (; i + 64 <= n; i += 64) {
    a += __builtin_popcount(_mm512_cmp_ps_mask(_mm512_loadu_ps(s + i), bound, _CMP_GE_OQ));
    b += __builtin_popcount(_mm512_cmp_ps_mask(_mm512_loadu_ps(s + i + 16), bound, _CMP_GE_OQ));
    c += __builtin_popcount(_mm512_cmp_ps_mask(_mm512_loadu_ps(s + i + 32), bound, _CMP_GE_OQ));
    d += __builtin_popcount(_mm512_cmp_ps_mask(_mm512_loadu_ps(s + i + 48), bound, _CMP_GE_OQ));
  }
  count = a + b + c + d;
#endif
  for (; i < n; i++) count += s[i] >= t;
  return count;
}

struct Range {
  float low, high;
};

inline Range range_of(const float* s, int64_t n) {
  Vec most = splat(-INF), least = splat(INF);
  int64_t i = 0;
  for (; i + LANES <= n; i += LANES) {
    const Vec v = load(s + i);
    most = larger(most, v);
    least = v < least ? v : least;
  }
  Range r{INF, -INF};
  for (int64_t j = 0; j < LANES; j++) {
    r.low = least[j] < r.low ? least[j] : r.low;
    r.high = most[j] > r.high ? most[j] : r.high;
  }
  for (; i < n; i++) {
    r.low = s[i] < r.low ? s[i] : r.low;
    r.high = s[i] > r.high ? s[i] : r.high;
  }
  return r;
}

// A t that from k to `enough` of the scores reach; where ties leave none, the largest t that at
// least k reach. At least k scores reach range.low.
float threshold(const float* s, int64_t n, int64_t k, int64_t enough, Range range) {
  int64_t low = rank_of(range.low), high = rank_of(range.high) + 1;
  while (high - low > 1) {
    const int64_t middle = low + (high - low) / 2;
    const int64_t count = count_from(s, n, of_rank(middle));
    if (count < k) {
      high = middle;
    } else {
      low = middle;
      if (count <= enough) break;
    }
  }
  return of_rank(low);
}

// Copy the scores from t on, and their keys (their places where `keys` is null), in order.
int64_t compact(const float* s, const int32_t* keys, int64_t n, float t, float* to,
                int32_t* keys_to) {
  int64_t m = 0, i = 0;
#if defined(__AVX512F__)
  const __m512 bound = _mm512_set1_ps(t);
  const __m512i lane = _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
  for (; i + LANES <= n; i += LANES) {
    const __m512 v = _mm512_loadu_ps(s + i);
    const __m512i at = keys ? _mm512_loadu_si512(keys + i)
                            : _mm512_add_epi32(lane, _mm512_set1_epi32(static_cast<int>(i)));
    const __mmask16 stay = _mm512_cmp_ps_mask(v, bound, _CMP_GE_OQ);
    _mm512_storeu_ps(to + m, _mm512_maskz_compress_ps(stay, v));
    _mm512_storeu_si512(keys_to + m, _mm512_maskz_compress_epi32(stay, at));
    m += __builtin_popcount(stay);
  }
#endif
  for (; i < n; i++) {
    to[m] = s[i];  // written always and kept sometimes: no branch to predict
    keys_to[m] = keys ? keys[i] : static_cast<int32_t>(i);
    m += s[i] >= t;
  }
  return m;
}

struct Scratch {
  std::vector<float> maxima, some, best, weights;
  std::vector<int32_t> some_keys, best_keys;
  Scratch(int64_t n, int64_t k)
      : maxima(4 * k + 64), some(n + LANES), best(n + LANES), weights(k + LANES),
        some_keys(n + LANES), best_keys(n + LANES) {}
};

// The k largest of n > k scores into best and best_keys; returns the largest.
float select(const float* s, int64_t n, int64_t k, Scratch& w) {
  Range range;
  float t;
  const int64_t groups = (4 * k + 63) / 64 * 64;
  if (n >= 2 * groups) {
    const int64_t full = n / groups * groups;
    float* maxima = w.maxima.data();
    for (int64_t j = 0; j < groups; j += 64) {
      Vec a = load(s + j), b = load(s + j + 16), c = load(s + j + 32), d = load(s + j + 48);
      for (int64_t i = j + groups; i < full; i += groups) {
        a = larger(a, load(s + i));
        b = larger(b, load(s + i + 16));
        c = larger(c, load(s + i + 32));
        d = larger(d, load(s + i + 48));
      }
      store(maxima + j, a);
      store(maxima + j + 16, b);
      store(maxima + j + 32, c);
      store(maxima + j + 48, d);
    }
    for (int64_t i = full; i < n; i++)
      maxima[i - full] = s[i] > maxima[i - full] ? s[i] : maxima[i - full];
    range = range_of(maxima, groups);
    t = threshold(maxima, groups, k, k + k / 8, range);
  } else {
    range = range_of(s, n);
    t = threshold(s, n, k, k, range);
  }
  int64_t m = compact(s, nullptr, n, t, w.some.data(), w.some_keys.data());
  range.low = t;
  if (m > k) t = threshold(w.some.data(), m, k, k, range);
  m = compact(w.some.data(), w.some_keys.data(), m, t, w.best.data(), w.best_keys.data());
  if (m > k) {  // ties at t: the lowest keys stay
    int64_t ties = k, to = 0;
    for (int64_t i = 0; i < m; i++) ties -= w.best[i] > t;
    for (int64_t i = 0; i < m; i++) {
      if (w.best[i] == t && ties-- <= 0) continue;
      w.best[to] = w.best[i];
      w.best_keys[to++] = w.best_keys[i];
    }
  }
  return range.high;
}

inline bool apply_mask(float* s, int64_t n, const void* mask, int64_t kind, int64_t offset,
                       int64_t step) {
  Ints strange = {};
  if (kind == 1) {
    const uint8_t* allowed = static_cast<const uint8_t*>(mask) + offset;
    if (step == 1) {
      for (int64_t i = 0; i < n; i++) s[i] = allowed[i] ? s[i] : -INF;
    } else {
      for (int64_t i = 0; i < n; i++) s[i] = allowed[i * step] ? s[i] : -INF;
    }
  } else if (kind == 2) {
    const float* bias = static_cast<const float*>(mask) + offset;
    for (int64_t i = 0; i < n; i++) s[i] += bias[i * step];
  }
  int64_t i = 0;
  for (; i + LANES <= n; i += LANES) {
    const Vec v = load(s + i);
    strange |= v != v;
  }
  bool found = false;
  for (int64_t j = 0; j < LANES; j++) found |= strange[j] != 0;
  for (; i < n; i++) found |= s[i] != s[i];
  return found;
}

// Sum of k rows of values, COLUMNS vectors of each.
template <int COLUMNS>
inline void gather(const float* values, int64_t width, const float* weights, const int32_t* keys,
                   int64_t k, float factor, float* out) {
  Vec even[COLUMNS] = {}, odd[COLUMNS] = {};  // two chains, since an addition takes four cycles
  int64_t j = 0;
  for (; j + 2 <= k; j += 2) {
    const float *p = values + keys[j] * width, *q = values + keys[j + 1] * width;
    for (int c = 0; c < COLUMNS; c++) {
      even[c] += weights[j] * load(p + c * LANES);
      odd[c] += weights[j + 1] * load(q + c * LANES);
    }
  }
  if (j < k)
    for (int c = 0; c < COLUMNS; c++)
      even[c] += weights[j] * load(values + keys[j] * width + c * LANES);
  for (int c = 0; c < COLUMNS; c++) store(out + c * LANES, (even[c] + odd[c]) * factor);
}

inline float dot(const float* a, const float* b, int64_t n) {
  Vec sum = {};
  int64_t i = 0;
  for (; i + LANES <= n; i += LANES) sum += load(a + i) * load(b + i);
  float s = sum_of(sum);
  for (; i < n; i++) s += a[i] * b[i];
  return s;
}

inline void add_scaled(float* to, float factor, const float* x, int64_t n) {
  int64_t i = 0;
  for (; i + LANES <= n; i += LANES) store(to + i, load(to + i) + factor * load(x + i));
  for (; i < n; i++) to[i] += factor * x[i];
}

// weights = e^(kept - peak); returns their sum.
inline float exponentials(const float* kept, int64_t k, float peak, float* weights) {
  Vec sum = {};
  for (int64_t i = 0; i < k; i += LANES) {
    Vec x = splat(-INF);
    if (i + LANES <= k) x = load(kept + i);
    else std::memcpy(&x, kept + i, (k - i) * sizeof(float));
    const Vec e = exponential(x - peak);
    store(weights + i, e);
    sum += e;
  }
  return sum_of(sum);
}

}  // namespace
"""
