// Causal self-attention on the CPU: blocks of scores that stay in the cache, products by oneDNN's microkernels,
// everything between them in fp32 whatever the dtype in memory. Grouped heads read their group's keys in place.
//
//   S = s Q Kᵀ (causal)      P = exp(S − L)      O = P V               L_i = log Σ_j exp(S_ij)
//   dV = Pᵀ dO               dS = P ⊙ (dO Vᵀ − D)      D_i = Σ_e dO_ie O_ie
//   dQ = s dS K              dK = s dSᵀ Q
//
// The forward keeps a running maximum and sum per query (Dao et al., FlashAttention); the backward makes the scores
// again from L, transposed, because that is the form in which four of its five products read them.
#include "kernel.h"

#include <ATen/native/CPUBlas.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/empty_like.h>
#include <torch/csrc/autograd/custom_function.h>

#include <cmath>
#include <limits>
#include <vector>

namespace shearling {
namespace {

using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

// Queries and keys of a block: scores of 128 x 128 floats stay in the first two caches.
constexpr int64_t BLOCK = 128;
// Floats that a maximum is taken over side by side.
constexpr int64_t LANES = 16;

struct Shape {
  int64_t rows, tokens, heads, groups, dim;

  int64_t blocks() const { return divup(tokens, BLOCK); }
  int64_t size(int64_t block) const { return std::min(BLOCK, tokens - block * BLOCK); }
  // First element of a head's vector at token 0 in `[rows, tokens, count, dim]`, and the way to the next token.
  int64_t start(int64_t row, int64_t head, int64_t count) const { return (row * tokens * count + head) * dim; }
};

// C (+)= A B in fp32, all row-major.
void product(int64_t m, int64_t n, int64_t k, const float* a, int64_t lda, const float* b, int64_t ldb, float* c,
             int64_t ldc, bool add) {
  at::native::cpublas::brgemm(m, n, k, lda, ldb, ldc, add, a, b, c, false);
}

// Whether this CPU has the microkernels: they throw where it does not.
bool has_microkernels() {
  static const bool has = [] {
    std::vector<float> a(LANES * LANES, 1.0f), c(LANES * LANES);
    try {
      product(LANES, LANES, LANES, a.data(), LANES, a.data(), LANES, c.data(), LANES, false);
      return c[0] == static_cast<float>(LANES);
    } catch (const std::exception&) {
      return false;
    }
  }();
  return has;
}

// All tokens of one head times `scale`: `[tokens, dim]`.
template <class T>
SHEARLING_INLINE void pack_rows(const T* from, int64_t stride, int64_t tokens, int64_t dim, float scale, float* to) {
  for (int64_t t = 0; t < tokens; ++t) {
    for (int64_t e = 0; e < dim; ++e) to[t * dim + e] = load(from[t * stride + e]) * scale;
  }
}

// `[tokens, dim]` to blocks of `[dim, BLOCK]`; what lies beyond the last token is zero.
SHEARLING_INLINE void pack_transposed(const float* rows, int64_t tokens, int64_t dim, float* to) {
  for (int64_t first = 0; first < tokens; first += BLOCK, to += dim * BLOCK) {
    const int64_t count = std::min(BLOCK, tokens - first);
    for (int64_t e = 0; e < dim; ++e) {
      float* line = to + e * BLOCK;
      for (int64_t t = 0; t < count; ++t) line[t] = rows[(first + t) * dim + e];
      for (int64_t t = count; t < BLOCK; ++t) line[t] = 0.0f;
    }
  }
}

SHEARLING_INLINE float largest(const float* values, int64_t count) {
  float lanes[LANES];
  for (int64_t j = 0; j < LANES; ++j) lanes[j] = -std::numeric_limits<float>::infinity();
  int64_t i = 0;
  for (; i + LANES <= count; i += LANES) {
    for (int64_t j = 0; j < LANES; ++j) lanes[j] = values[i + j] > lanes[j] ? values[i + j] : lanes[j];
  }
  for (int64_t j = 0; i < count; ++i, ++j) lanes[j] = values[i] > lanes[j] ? values[i] : lanes[j];
  float most = lanes[0];
  for (int64_t j = 1; j < LANES; ++j) most = lanes[j] > most ? lanes[j] : most;
  return most;
}

// Scores of one query to what it adds: exponentials of the first `open` keys, zero beyond. Returns their sum.
SHEARLING_INLINE float exponentials(float* scores, int64_t open, int64_t keys, float maximum) {
  float sum = 0.0f;
  for (int64_t j = 0; j < open; ++j) {
    const float p = exponential(scores[j] - maximum);
    scores[j] = p;
    sum += p;
  }
  for (int64_t j = open; j < keys; ++j) scores[j] = 0.0f;
  return sum;
}

template <class T>
struct AttentionForward {
  const T* query;
  const T* key;
  const T* value;
  T* out;
  float* log_sum;  // [rows, heads, tokens]
  Shape shape;

  SHEARLING_INLINE void operator()(int64_t begin, int64_t end) const {
    const int64_t dim = shape.dim, tokens = shape.tokens;
    std::vector<float> rows(tokens * dim), keys(shape.blocks() * BLOCK * dim), values(tokens * dim);
    std::vector<float> scores(BLOCK * BLOCK), sums(BLOCK * dim);
    for (int64_t item = begin; item < end; ++item) {
      const int64_t row = item / shape.heads, head = item % shape.heads;
      const int64_t group = head / (shape.heads / shape.groups), stride = shape.groups * dim;
      pack_rows(key + shape.start(row, group, shape.groups), stride, tokens, dim, 1.0f, rows.data());
      pack_transposed(rows.data(), tokens, dim, keys.data());
      pack_rows(value + shape.start(row, group, shape.groups), stride, tokens, dim, 1.0f, values.data());
      const int64_t start = shape.start(row, head, shape.heads);
      const float scale = 1.0f / std::sqrt(static_cast<float>(dim));
      pack_rows(query + start, shape.heads * dim, tokens, dim, scale, rows.data());
      for (int64_t block = 0; block < shape.blocks(); ++block) {
        queries(block, rows.data(), keys.data(), values.data(), scores.data(), sums.data(), out + start,
                log_sum + item * tokens);
      }
    }
  }

  SHEARLING_INLINE void queries(int64_t block, const float* q, const float* keys, const float* values, float* scores,
                                float* sums, T* to, float* logs) const {
    const int64_t dim = shape.dim, first = block * BLOCK, count = shape.size(block);
    float maximum[BLOCK], total[BLOCK];
    for (int64_t i = 0; i < count; ++i) {
      maximum[i] = -std::numeric_limits<float>::infinity();
      total[i] = 0.0f;
    }
    std::memset(sums, 0, sizeof(float) * count * dim);
    for (int64_t other = 0; other <= block; ++other) {
      const int64_t open = shape.size(other);
      product(count, open, dim, q + first * dim, dim, keys + other * dim * BLOCK, BLOCK, scores, BLOCK, false);
      for (int64_t i = 0; i < count; ++i) {
        const int64_t seen = other == block ? i + 1 : open;
        float* line = scores + i * BLOCK;
        const float most = largest(line, seen), now = most > maximum[i] ? most : maximum[i];
        const float shrink = exponential(maximum[i] - now);
        total[i] = total[i] * shrink + exponentials(line, seen, open, now);
        maximum[i] = now;
        if (other > 0) {
          for (int64_t e = 0; e < dim; ++e) sums[i * dim + e] *= shrink;
        }
      }
      product(count, dim, open, scores, BLOCK, values + other * BLOCK * dim, dim, sums, dim, true);
    }
    for (int64_t i = 0; i < count; ++i) {
      T* place = to + (first + i) * shape.heads * dim;
      for (int64_t e = 0; e < dim; ++e) store(place[e], sums[i * dim + e] / total[i]);
      logs[first + i] = maximum[i] + std::log(total[i]);
    }
  }
};
SHEARLING_RUN(AttentionForward<float>)
SHEARLING_RUN(AttentionForward<BFloat16>)

// What the backward of one group holds in fp32.
struct BackwardBuffers {
  std::vector<float> keys, keys_transposed, values, dkeys, dvalues;
  std::vector<float> queries, queries_transposed, gradient, gradient_transposed, dqueries_transposed, through;
  std::vector<float> scores, dscores;

  explicit BackwardBuffers(const Shape& shape)
      : keys(shape.tokens * shape.dim),
        keys_transposed(shape.blocks() * BLOCK * shape.dim),
        values(keys.size()),
        dkeys(keys.size()),
        dvalues(keys.size()),
        queries(keys.size()),
        queries_transposed(keys_transposed.size()),
        gradient(keys.size()),
        gradient_transposed(keys_transposed.size()),
        dqueries_transposed(keys_transposed.size()),
        through(shape.tokens),
        scores(BLOCK * BLOCK),
        dscores(BLOCK * BLOCK) {}
};

// Over groups of all rows: the heads of a group add to the same keys, one after the other.
template <class T>
struct AttentionBackward {
  const T* query;
  const T* key;
  const T* value;
  const T* out;
  const float* log_sum;
  const T* gradient;
  T* dquery;
  T* dkey;
  T* dvalue;
  Shape shape;

  SHEARLING_INLINE void operator()(int64_t begin, int64_t end) const {
    BackwardBuffers buffers(shape);
    for (int64_t item = begin; item < end; ++item) group_of(item / shape.groups, item % shape.groups, buffers);
  }

  SHEARLING_INLINE void group_of(int64_t row, int64_t group, BackwardBuffers& b) const {
    const int64_t dim = shape.dim, tokens = shape.tokens, stride = shape.groups * dim;
    const int64_t start = shape.start(row, group, shape.groups), heads = shape.heads / shape.groups;
    pack_rows(key + start, stride, tokens, dim, 1.0f, b.keys.data());
    pack_transposed(b.keys.data(), tokens, dim, b.keys_transposed.data());
    pack_rows(value + start, stride, tokens, dim, 1.0f, b.values.data());
    std::fill(b.dkeys.begin(), b.dkeys.end(), 0.0f);
    std::fill(b.dvalues.begin(), b.dvalues.end(), 0.0f);
    for (int64_t head = group * heads; head < (group + 1) * heads; ++head) head_of(row, head, b);
    for (int64_t t = 0; t < tokens; ++t) {
      for (int64_t e = 0; e < dim; ++e) {
        store(dkey[start + t * stride + e], b.dkeys[t * dim + e]);
        store(dvalue[start + t * stride + e], b.dvalues[t * dim + e]);
      }
    }
  }

  SHEARLING_INLINE void head_of(int64_t row, int64_t head, BackwardBuffers& b) const {
    const int64_t dim = shape.dim, tokens = shape.tokens, stride = shape.heads * dim;
    const int64_t start = shape.start(row, head, shape.heads);
    const float scale = 1.0f / std::sqrt(static_cast<float>(dim));
    const float* logs = log_sum + (row * shape.heads + head) * tokens;
    pack_rows(query + start, stride, tokens, dim, scale, b.queries.data());
    pack_transposed(b.queries.data(), tokens, dim, b.queries_transposed.data());
    pack_rows(gradient + start, stride, tokens, dim, 1.0f, b.gradient.data());
    pack_transposed(b.gradient.data(), tokens, dim, b.gradient_transposed.data());
    for (int64_t t = 0; t < tokens; ++t) {
      float sum = 0.0f;
      for (int64_t e = 0; e < dim; ++e) sum += b.gradient[t * dim + e] * load(out[start + t * stride + e]);
      b.through[t] = sum;
    }
    std::fill(b.dqueries_transposed.begin(), b.dqueries_transposed.end(), 0.0f);
    for (int64_t keys = 0; keys < shape.blocks(); ++keys) {
      for (int64_t queries = keys; queries < shape.blocks(); ++queries) blocks_of(keys, queries, logs, b);
    }
    for (int64_t t = 0; t < tokens; ++t) {
      const float* block = b.dqueries_transposed.data() + t / BLOCK * dim * BLOCK + t % BLOCK;
      for (int64_t e = 0; e < dim; ++e) store(dquery[start + t * stride + e], block[e * BLOCK] * scale);
    }
  }

  SHEARLING_INLINE void blocks_of(int64_t keys, int64_t queries, const float* logs, BackwardBuffers& b) const {
    const int64_t dim = shape.dim, nk = shape.size(keys), nq = shape.size(queries);
    const int64_t k = keys * BLOCK * dim, q = queries * BLOCK * dim;
    float *scores = b.scores.data(), *dscores = b.dscores.data();
    product(nk, nq, dim, b.keys.data() + k, dim, b.queries_transposed.data() + q, BLOCK, scores, BLOCK, false);
    product(nk, nq, dim, b.values.data() + k, dim, b.gradient_transposed.data() + q, BLOCK, dscores, BLOCK, false);
    const float *log_sums = logs + queries * BLOCK, *through = b.through.data() + queries * BLOCK;
    for (int64_t j = 0; j < nk; ++j) {
      // Queries before the key do not see it.
      const int64_t unseen = keys == queries ? std::min(j, nq) : 0;
      float *p = scores + j * BLOCK, *d = dscores + j * BLOCK;
      for (int64_t i = 0; i < unseen; ++i) p[i] = d[i] = 0.0f;
      for (int64_t i = unseen; i < nq; ++i) {
        p[i] = exponential(p[i] - log_sums[i]);
        d[i] = p[i] * (d[i] - through[i]);
      }
    }
    product(nk, dim, nq, scores, BLOCK, b.gradient.data() + q, dim, b.dvalues.data() + k, dim, true);
    product(nk, dim, nq, dscores, BLOCK, b.queries.data() + q, dim, b.dkeys.data() + k, dim, true);
    product(dim, nq, nk, b.keys_transposed.data() + k, BLOCK, dscores, BLOCK, b.dqueries_transposed.data() + q, BLOCK,
            true);
  }
};
SHEARLING_RUN(AttentionBackward<float>)
SHEARLING_RUN(AttentionBackward<BFloat16>)

Shape shape_of(const Tensor& query, const Tensor& key) {
  return {query.size(0), query.size(1), query.size(2), key.size(2), query.size(3)};
}

struct Attention : torch::autograd::Function<Attention> {
  static Tensor forward(AutogradContext* context, const Tensor& query_, const Tensor& key_, const Tensor& value_) {
    const Tensor query = query_.contiguous(), key = key_.contiguous(), value = value_.contiguous();
    const Shape shape = shape_of(query, key);
    Tensor out = at::empty_like(query);
    Tensor log_sum = at::empty({shape.rows, shape.heads, shape.tokens}, query.options().dtype(at::kFloat));
    by_kind(query.scalar_type(), [&](auto kind) {
      using T = decltype(kind);
      parallel(shape.rows * shape.heads, 1,
               AttentionForward<T>{query.const_data_ptr<T>(), key.const_data_ptr<T>(), value.const_data_ptr<T>(),
                                   out.mutable_data_ptr<T>(), log_sum.mutable_data_ptr<float>(), shape});
    });
    context->save_for_backward({query, key, value, out, log_sum});
    return out;
  }

  static variable_list backward(AutogradContext* context, variable_list gradients) {
    check_first_order();
    const auto saved = context->get_saved_variables();
    const Tensor &query = saved[0], &key = saved[1], &value = saved[2], gradient = gradients[0].contiguous();
    const Shape shape = shape_of(query, key);
    Tensor dquery = at::empty_like(query), dkey = at::empty_like(key), dvalue = at::empty_like(value);
    by_kind(query.scalar_type(), [&](auto kind) {
      using T = decltype(kind);
      parallel(shape.rows * shape.groups, 1,
               AttentionBackward<T>{query.const_data_ptr<T>(), key.const_data_ptr<T>(), value.const_data_ptr<T>(),
                                    saved[3].const_data_ptr<T>(), saved[4].const_data_ptr<float>(),
                                    gradient.const_data_ptr<T>(), dquery.mutable_data_ptr<T>(),
                                    dkey.mutable_data_ptr<T>(), dvalue.mutable_data_ptr<T>(), shape});
    });
    return {dquery, dkey, dvalue};
  }
};

Tensor attention(const Tensor& query, const Tensor& key, const Tensor& value) {
  for (const auto& [tensor, name] : {std::pair{&query, "the queries"}, {&key, "the keys"}, {&value, "the values"}}) {
    check_cpu_storage(*tensor, name);
    TORCH_CHECK(tensor->dim() == 4, name, " are ", tensor->sizes(), ", not [rows, tokens, heads, head_dim]");
    TORCH_CHECK(tensor->scalar_type() == query.scalar_type(), name, " are ", tensor->scalar_type(),
                ", the queries ", query.scalar_type());
  }
  TORCH_CHECK(key.sizes() == value.sizes(), "the keys are ", key.sizes(), ", the values ", value.sizes());
  TORCH_CHECK(query.size(0) == key.size(0) && query.size(1) == key.size(1) && query.size(3) == key.size(3) &&
                  key.size(2) > 0 && query.size(2) % key.size(2) == 0,
              "queries ", query.sizes(), " do not go with keys ", key.sizes());
  return Attention::apply(query, key, value);
}

}  // namespace
}  // namespace shearling

using shearling::Tensor;

extern "C" int shearling_attention_is_fast() { return shearling::has_microkernels(); }

extern "C" int shearling_attention(Tensor* query, Tensor* key, Tensor* value, Tensor** out, char** error) {
  return shearling::guarded(error, [&] { shearling::give(out, shearling::attention(*query, *key, *value)); });
}
