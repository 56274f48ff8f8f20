"""The C++ of the CPU kernels, as text: an exported model carries it in its one Python file."""

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
SOURCE = r"""
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

extern "C" {

struct Tile {
  float* scores;  // heads x queries x keys; the mask is applied in place
  int64_t heads, queries, keys, first_head, first_query, total_queries, heads_per_batch;
  int64_t causal, k, hard, threads;
  const void* mask;  // kind 0: none; 1: bool, true may attend; 2: float, added
  int64_t mask_kind, mask_batch, mask_head, mask_query, mask_key;
  const float* value;  // all heads x value_keys x width
  int64_t value_keys, width;
  float* out;  // null: only select
  int64_t out_batch, out_head, out_query;
  const uint8_t* dropped;  // heads x queries x k of this tile, or null
  float keep_factor;
  float* kept;     // all heads x total_queries x k, or null
  int32_t* index;  // likewise; the complement of a key whose weight was dropped
};

void axsearch_topk(const Tile* tile) {
  const Tile& t = *tile;
  const int64_t rows = t.heads * t.queries, k = t.k;
#pragma omp parallel num_threads(t.threads)
  {
    Scratch w(t.keys > k ? t.keys : k, k);
#pragma omp for schedule(static)
    for (int64_t r = 0; r < rows; r++) {
      const int64_t head = t.first_head + r / t.queries, query = t.first_query + r % t.queries;
      const int64_t batch = head / t.heads_per_batch, in_batch = head % t.heads_per_batch;
      float* s = t.scores + r * t.keys;
      const int64_t n = t.causal && query + 1 < t.keys ? query + 1 : t.keys;
      const int64_t offset =
          batch * t.mask_batch + in_batch * t.mask_head + query * t.mask_query;
      const bool strange = apply_mask(s, n, t.mask, t.mask_kind, offset, t.mask_key);
      float peak;
      if (strange) {
        peak = NAN;
        for (int64_t i = 0; i < k; i++) w.best[i] = NAN, w.best_keys[i] = static_cast<int32_t>(i);
      } else if (n <= k) {  // causal rows: all their keys, then forbidden ones
        peak = n ? range_of(s, n).high : -INF;
        for (int64_t i = 0; i < k; i++) {
          w.best[i] = i < n ? s[i] : -INF;
          w.best_keys[i] = static_cast<int32_t>(i);
        }
      } else {
        peak = select(s, n, k, w);
      }
      int32_t* keys = w.best_keys.data();
      float* weights = w.weights.data();
      if (t.out) {
        float total = 0;
        if (peak == -INF) {  // no key is allowed
          std::memset(weights, 0, k * sizeof(float));
        } else {
          total = exponentials(w.best.data(), k, peak, weights);
          if (t.hard) {
            Vec sum = {};
            int64_t i = 0;
            for (; i + LANES <= n; i += LANES) sum += exponential(load(s + i) - peak);
            Vec last = splat(-INF);
            std::memcpy(&last, s + i, (n - i) * sizeof(float));
            total = sum_of(sum + exponential(last - peak));
          }
        }
        if (t.dropped)
          for (int64_t i = 0; i < k; i++)
            weights[i] *= t.dropped[r * k + i] ? 0.f : t.keep_factor;
        const float factor = total == 0 ? 0.f : 1 / total;
        const float* values = t.value + head * t.value_keys * t.width;
        float* out = t.out + batch * t.out_batch + in_batch * t.out_head + query * t.out_query;
        int64_t c = 0;
        for (; c + 4 * LANES <= t.width; c += 4 * LANES)
          gather<4>(values + c, t.width, weights, keys, k, factor, out + c);
        for (; c + LANES <= t.width; c += LANES)
          gather<1>(values + c, t.width, weights, keys, k, factor, out + c);
        for (; c < t.width; c++) {
          float sum = 0;
          for (int64_t i = 0; i < k; i++) sum += weights[i] * values[keys[i] * t.width + c];
          out[c] = sum * factor;
        }
      }
      if (t.kept) {
        const int64_t at = (head * t.total_queries + query) * k;
        std::memcpy(t.kept + at, w.best.data(), k * sizeof(float));
        for (int64_t i = 0; i < k; i++)
          t.index[at + i] = t.dropped && t.dropped[r * k + i] ? ~keys[i] : keys[i];
      }
    }
  }
}

struct Backward {
  const float *query, *key, *value, *grad_out;  // heads x queries or keys x width
  const float* kept;                            // heads x queries x k
  const int32_t* index;
  float *grad_query, *grad_key, *grad_value;  // zeros
  int64_t heads, queries, keys, width, value_width, k, threads;
  float scale, keep_factor;
};

// The gradient of renormalised top-k attention; a head's keys belong to one thread.
void axsearch_topk_backward(const Backward* backward) {
  const Backward& b = *backward;
  const int64_t k = b.k;
#pragma omp parallel num_threads(b.threads)
  {
    std::vector<float> weights(k + LANES), grads(k);
#pragma omp for schedule(dynamic)
    for (int64_t head = 0; head < b.heads; head++) {
      const float *key = b.key + head * b.keys * b.width,
                  *value = b.value + head * b.keys * b.value_width;
      float *grad_key = b.grad_key + head * b.keys * b.width,
            *grad_value = b.grad_value + head * b.keys * b.value_width;
      for (int64_t row = head * b.queries; row < (head + 1) * b.queries; row++) {
        const float *query = b.query + row * b.width, *grad_out = b.grad_out + row * b.value_width,
                    *kept = b.kept + row * k;
        const int32_t* index = b.index + row * k;
        float peak = -INF;
        bool strange = false;
        for (int64_t i = 0; i < k; i++) {
          peak = kept[i] > peak ? kept[i] : peak;
          strange |= kept[i] != kept[i];
        }
        if (strange) peak = NAN;
        if (peak == -INF) continue;
        const float factor = 1 / exponentials(kept, k, peak, weights.data());
        float inner = 0;
        for (int64_t i = 0; i < k; i++) {
          weights[i] *= factor;
          grads[i] = 0;
          if (index[i] < 0) continue;
          const int64_t at = index[i] * b.value_width;
          grads[i] = b.keep_factor * dot(grad_out, value + at, b.value_width);
          inner += weights[i] * grads[i];
          add_scaled(grad_value + at, b.keep_factor * weights[i], grad_out, b.value_width);
        }
        float* grad_query = b.grad_query + row * b.width;
        for (int64_t i = 0; i < k; i++) {
          const int64_t at = (index[i] < 0 ? ~index[i] : index[i]) * b.width;
          const float grad = b.scale * weights[i] * (grads[i] - inner);
          add_scaled(grad_query, grad, key + at, b.width);
          add_scaled(grad_key + at, grad, query, b.width);
        }
      }
    }
  }
}

}  // extern "C"
"""
