// Attention of one new token to the keys and values in a cache: softmax(q K^T / sqrt(E)) V for the G queries of each
// group, without copies of the cache.
//
// Like every step of decoding it is bound by reading: each key and each value comes from memory once, for all queries
// of its group. Scores of the whole context are kept, S floats a query, so the softmax is the plain one.
#include "device/kernels.h"
#include "kernel.h"

#include <ATen/ops/empty.h>

#include <cmath>

namespace shearling {
namespace {

// Keys that stay in the nearest cache while all queries of a group read them.
constexpr int64_t BLOCK = 32;

// Over the groups of all rows, B K of them.
template <class T>
struct CachedAttention {
  const float* query;  // [B K, G, E]
  const T* key;        // [B, K, S, E]; rows of E lie one after the other
  const T* value;      // likewise
  float* scores;       // [B K, G, S]
  float* mixed;        // [B K, G, E]
  T* out;              // [B K, G, E]
  int64_t groups, each, tokens, dim;
  int64_t key_row, key_group, value_row, value_group;  // strides
  float scale;         // 1 / sqrt(E)

  SHEARLING_INLINE void operator()(int64_t begin, int64_t end) const {
    for (int64_t group = begin; group < end; ++group) attend(group);
  }

  SHEARLING_INLINE void attend(int64_t group) const {
    const int64_t row = group / groups, in_row = group % groups;
    const T* keys = key + row * key_row + in_row * key_group;
    const T* values = value + row * value_row + in_row * value_group;
    const float* queries = query + group * each * dim;
    float* weights = scores + group * each * tokens;
    float* sums = mixed + group * each * dim;
    for (int64_t start = 0; start < tokens; start += BLOCK) {
      const int64_t stop = start + BLOCK < tokens ? start + BLOCK : tokens;
      for (int64_t g = 0; g < each; ++g) {
        for (int64_t s = start; s < stop; ++s) weights[g * tokens + s] = scale * dot(queries + g * dim, keys + s * dim);
      }
    }
    for (int64_t g = 0; g < each; ++g) softmax(weights + g * tokens);
    for (int64_t i = 0; i < each * dim; ++i) sums[i] = 0.0f;
    for (int64_t start = 0; start < tokens; start += BLOCK) {
      const int64_t stop = start + BLOCK < tokens ? start + BLOCK : tokens;
      for (int64_t g = 0; g < each; ++g) mix(weights + g * tokens, values, start, stop, sums + g * dim);
    }
    T* place = out + group * each * dim;
    for (int64_t i = 0; i < each * dim; ++i) store(place[i], sums[i]);
  }

  SHEARLING_INLINE float dot(const float* q, const T* k) const {
    float sum = 0.0f;
    for (int64_t i = 0; i < dim; ++i) sum += q[i] * load(k[i]);
    return sum;
  }

  // In place. A NaN among the scores makes the sum and so all weights NaN.
  SHEARLING_INLINE void softmax(float* weights) const {
    float largest = weights[0];
    for (int64_t s = 0; s < tokens; ++s) largest = weights[s] > largest ? weights[s] : largest;
    float sum = 0.0f;
    for (int64_t s = 0; s < tokens; ++s) {
      weights[s] = exponential(weights[s] - largest);
      sum += weights[s];
    }
    const float inverse = 1.0f / sum;
    for (int64_t s = 0; s < tokens; ++s) weights[s] *= inverse;
  }

  // Four values at a time, so that the sums are read and written a quarter as often.
  SHEARLING_INLINE void mix(const float* weights, const T* values, int64_t start, int64_t stop, float* sums) const {
    int64_t s = start;
    for (; s + 4 <= stop; s += 4) {
      const T *a = values + s * dim, *b = a + dim, *c = b + dim, *d = c + dim;
      const float wa = weights[s], wb = weights[s + 1], wc = weights[s + 2], wd = weights[s + 3];
      for (int64_t i = 0; i < dim; ++i) {
        sums[i] += (wa * load(a[i]) + wb * load(b[i])) + (wc * load(c[i]) + wd * load(d[i]));
      }
    }
    for (; s < stop; ++s) {
      for (int64_t i = 0; i < dim; ++i) sums[i] += weights[s] * load(values[s * dim + i]);
    }
  }
};

using CachedAttentionFloat = CachedAttention<float>;
using CachedAttentionBFloat16 = CachedAttention<BFloat16>;
SHEARLING_RUN(CachedAttentionFloat)
SHEARLING_RUN(CachedAttentionBFloat16)

void check(const Tensor& query, const Tensor& key, const Tensor& value) {
  check_storage(query, "query");
  for (const Tensor& cached : {key, value}) {
    check_storage(cached, "a cache");
    TORCH_CHECK(cached.scalar_type() == query.scalar_type() && cached.device() == query.device(), "a cache of kind ",
                cached.scalar_type(), " on ", cached.device(), " for queries of kind ", query.scalar_type(), " on ",
                query.device());
    TORCH_CHECK(cached.dim() == 4 && cached.sizes() == key.sizes() && cached.numel() > 0, "keys of ", key.sizes(),
                " and values of ", value.sizes(), ", not both [B, K, S, E]");
    TORCH_CHECK(cached.stride(3) == 1 && cached.stride(2) == cached.size(3), "rows of a cache must lie together");
  }
  TORCH_CHECK(query.dim() == 4 && query.size(0) == key.size(0) && query.size(1) == 1 && query.size(3) == key.size(3) &&
                  query.size(2) > 0 && query.size(2) % key.size(1) == 0,
              "queries of ", query.sizes(), " for keys of ", key.sizes());
}

Tensor cached_attention(const Tensor& query, const Tensor& key, const Tensor& value, const Tensor& last) {
  check(query, key, value);
  TORCH_CHECK(!last.defined() || (last.scalar_type() == at::kLong && last.numel() == 1 && last.device() == query.device()),
              "the last key of a cache is one int64 on its device, not ", last.options());
  TORCH_CHECK(!at::GradMode::is_enabled() || !query.requires_grad(), "attention to a cache has no gradient");
  const int64_t rows = key.size(0), groups = key.size(1), tokens = key.size(2), dim = key.size(3);
  const int64_t each = query.size(2) / groups;
  if (has_device_kernels(query.device())) {
    Tensor out = at::empty(query.sizes(), query.options());
    device::cached_attention(query.contiguous(), key, value, last, out);
    return out;
  }
  TORCH_CHECK(!last.defined(), "the CPU's kernel takes the keys that count, not a number of them");
  const auto wide = at::TensorOptions(at::kFloat);
  const Tensor wide_query = query.to(at::kFloat).contiguous();
  const auto scale = static_cast<float>(1.0 / std::sqrt(static_cast<double>(dim)));
  Tensor scores = at::empty({rows * groups, each, tokens}, wide), mixed = at::empty({rows * groups, each, dim}, wide);
  Tensor out = at::empty(query.sizes(), query.options());
  by_kind(query.scalar_type(), [&](auto kind) {
    using T = decltype(kind);
    parallel(rows * groups, 1,
             CachedAttention<T>{wide_query.const_data_ptr<float>(), key.const_data_ptr<T>(), value.const_data_ptr<T>(),
                                scores.mutable_data_ptr<float>(), mixed.mutable_data_ptr<float>(),
                                out.mutable_data_ptr<T>(), groups, each, tokens, dim, key.stride(0), key.stride(1),
                                value.stride(0), value.stride(1), scale});
  });
  return out;
}

}  // namespace
}  // namespace shearling

using shearling::Tensor;

// Whether a device's kernel takes groups of so many queries and heads of that size.
extern "C" int shearling_takes_cached_attention(int64_t each, int64_t dim) {
  return shearling::device::takes_cached_attention(each, dim);
}

extern "C" int shearling_cached_attention(Tensor* query, Tensor* key, Tensor* value, Tensor* last, Tensor** out,
                                          char** error) {
  return shearling::guarded(error, [&] {
    shearling::give(out, shearling::cached_attention(*query, *key, *value, shearling::optional(last)));
  });
}
