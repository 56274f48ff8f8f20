"""The C++ of the CPU kernels, as text: an exported model carries it in its one Python file."""

from __future__ import annotations

from axsearch.kernels.native_row_source import ROW_SOURCE

# The two functions that Python calls. The compiler receives one text, with the work on a row first.
SOURCE = (
    ROW_SOURCE
    + r"""
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
)
