// Several tokens of the sparse feed-forward (prefill, batches, tokens that are checked at once): an expert is read once
// for all tokens that chose it, and computed for no other.
//
// First h for every pair of an expert and a token: few tokens against rows of weights as in decoding, many of them
// gathered and multiplied by the library. Then the pairs are added to the output, a range of columns at a time, which
// stays in a core's cache; a token meets its experts in their order, whatever the range.
#include "matmul.h"
#include "packed_experts.h"

#include <ATen/Parallel.h>
#include <ATen/ops/empty.h>

namespace shearling {
namespace {

// Pairs of an expert and a token that a thread takes at a time.
constexpr int64_t TASK_PAIRS = 128;
// From so many tokens of an expert on, the library's product pays for the gathering.
constexpr int64_t GATHERED = 24;
// Gathered tokens are filled up to a multiple, so that the library meets few different shapes: it prepares for each.
constexpr int64_t GATHERED_MULTIPLE = 16;
// Columns of the output that a thread takes at a time.
constexpr int64_t TASK_COLUMNS = 256;
// Up to so many tokens the weights count more than the output: each thread reads its share of a row in one run.
constexpr int64_t FEW_TOKENS = 16;
constexpr int64_t LEAST_COLUMNS = 64;

// Two rows of weights with four tokens: out[2 t] of a, out[2 t + 1] of b.
template <class T>
SHEARLING_INLINE void dot2x4(const T* a, const T* b, const float* const* x, int64_t dim, float* out) {
  const float *x0 = x[0], *x1 = x[1], *x2 = x[2], *x3 = x[3];
  float a0 = 0.0f, a1 = 0.0f, a2 = 0.0f, a3 = 0.0f, b0 = 0.0f, b1 = 0.0f, b2 = 0.0f, b3 = 0.0f;
  for (int64_t i = 0; i < dim; ++i) {
    const float u = load(a[i]), v = load(b[i]);
    a0 += u * x0[i];
    a1 += u * x1[i];
    a2 += u * x2[i];
    a3 += u * x3[i];
    b0 += v * x0[i];
    b1 += v * x1[i];
    b2 += v * x2[i];
    b3 += v * x3[i];
  }
  const float sums[8] = {a0, b0, a1, b1, a2, b2, a3, b3};
  for (int i = 0; i < 8; ++i) out[i] = sums[i];
}

// Four rows of weights, `stride` apart, added to four outputs: each weight is loaded once. h[4 t + r].
template <class T>
SHEARLING_INLINE void axpy4x4(const T* w, int64_t stride, const float* h, float* __restrict__ y0,
                              float* __restrict__ y1, float* __restrict__ y2, float* __restrict__ y3, int64_t count) {
  const T *a = w, *b = w + stride, *c = w + 2 * stride, *d = w + 3 * stride;
  for (int64_t i = 0; i < count; ++i) {
    const float p = load(a[i]), q = load(b[i]), r = load(c[i]), s = load(d[i]);
    y0[i] += (h[0] * p + h[1] * q) + (h[2] * r + h[3] * s);
    y1[i] += (h[4] * p + h[5] * q) + (h[6] * r + h[7] * s);
    y2[i] += (h[8] * p + h[9] * q) + (h[10] * r + h[11] * s);
    y3[i] += (h[12] * p + h[13] * q) + (h[14] * r + h[15] * s);
  }
}

// Tokens of an expert that a thread takes: the pairs `begin..end`.
struct Task {
  int64_t expert, begin, end;
};

// The pairs of experts and tokens by expert, and cut into tasks.
struct Pairs {
  std::vector<int64_t> first;   // [N + 1]: pairs of expert e are first[e]..first[e + 1]
  std::vector<int64_t> tokens;  // of each pair
  std::vector<Task> tasks;

  Pairs(const std::vector<char>& runs, int64_t experts) : first(static_cast<size_t>(experts) + 1, 0) {
    const auto rows = static_cast<int64_t>(runs.size()) / experts;
    for (int64_t e = 0; e < experts; ++e) {
      for (int64_t t = 0; t < rows; ++t) {
        if (runs[static_cast<size_t>(t * experts + e)]) tokens.push_back(t);
      }
      const auto end = static_cast<int64_t>(tokens.size());
      for (int64_t at = first[static_cast<size_t>(e)]; at < end; at += TASK_PAIRS) {
        tasks.push_back({e, at, std::min(end, at + TASK_PAIRS)});
      }
      first[static_cast<size_t>(e) + 1] = end;
    }
  }
};

// h of the pairs of few tokens, over pairs of one expert.
template <class T>
struct ActivateFew {
  PackedExperts<T> weights;
  const float* x;         // [tokens, D]
  const int64_t* tokens;  // of each pair
  float* h;               // [pairs, m]
  int64_t expert;

  SHEARLING_INLINE void operator()(int64_t begin, int64_t end) const {
    int64_t pair = begin;
    for (; pair + 4 <= end; pair += 4) four(pair);
    for (; pair < end; ++pair) weights.activate(expert, x + tokens[pair] * weights.dim, h + pair * weights.size);
  }

  SHEARLING_INLINE void four(int64_t pair) const {
    const int64_t size = weights.size, dim = weights.dim;
    const float* rows[4];
    for (int64_t t = 0; t < 4; ++t) rows[t] = x + tokens[pair + t] * dim;
    for (int64_t j = 0; j < size; ++j) {
      float sums[8];
      dot2x4(weights.gate(expert) + j * dim, weights.up(expert) + j * dim, rows, dim, sums);
      for (int64_t t = 0; t < 4; ++t) {
        h[(pair + t) * size + j] = weights.unit(expert, j, sums[2 * t], sums[2 * t + 1]);
      }
    }
  }
};
SHEARLING_RUN(ActivateFew<float>)
SHEARLING_RUN(ActivateFew<BFloat16>)

// h of gathered tokens from their products [tokens, 2m] with gate and up rows, over tokens.
template <class T>
struct ActivateProducts {
  PackedExperts<T> weights;
  const T* products;
  float* h;  // [tokens, m]
  int64_t expert;

  SHEARLING_INLINE void operator()(int64_t begin, int64_t end) const {
    const int64_t size = weights.size;
    for (int64_t t = begin; t < end; ++t) {
      const T *gate = products + t * 2 * size, *up = gate + size;
      for (int64_t j = 0; j < size; ++j) h[t * size + j] = weights.unit(expert, j, load(gate[j]), load(up[j]));
    }
  }
};
SHEARLING_RUN(ActivateProducts<float>)
SHEARLING_RUN(ActivateProducts<BFloat16>)

// h of a task by the library's product.
template <class T>
void activate_gathered(const PackedLayer& layer, const Tensor& x, const int64_t* tokens, const Task& task, float* h) {
  const int64_t count = task.end - task.begin, dim = layer.dim(), size = layer.size();
  const int64_t filled = divup(count, GATHERED_MULTIPLE) * GATHERED_MULTIPLE;
  Tensor gathered = at::empty({filled, dim}, x.options()), products = at::empty({filled, 2 * size}, x.options());
  T* into = gathered.mutable_data_ptr<T>();
  const T* from = x.const_data_ptr<T>();
  for (int64_t i = 0; i < filled; ++i) {
    const int64_t token = tokens[task.begin + std::min(i, count - 1)];
    std::memcpy(into + i * dim, from + token * dim, static_cast<size_t>(dim) * sizeof(T));
  }
  const Tensor rows = layer.experts.select(0, task.expert).narrow(0, 0, 2 * size);
  gemm(gathered, rows.t(), products, false);
  run(ActivateProducts<T>{PackedExperts<T>(layer), products.const_data_ptr<T>(), h + task.begin * size, task.expert},
      0, count);
}

// What the pairs add to the output, over columns.
template <class T>
struct AddPairs {
  PackedExperts<T> weights;
  const float* h;         // [pairs, m]
  const int64_t* first;   // [N + 1]
  const int64_t* tokens;  // of each pair
  int64_t experts, count;
  const float* bias;      // [D], or null
  const T* residual;      // [tokens, D]
  float* sums;            // [tokens, D]
  T* out;                 // [tokens, D]

  SHEARLING_INLINE void operator()(int64_t begin, int64_t end) const {
    const int64_t size = weights.size, dim = weights.dim, width = end - begin;
    for (int64_t t = 0; t < count; ++t) {
      for (int64_t d = begin; d < end; ++d) sums[t * dim + d] = at_or_zero(bias, d);
    }
    for (int64_t e = 0; e < experts; ++e) {
      int64_t pair = first[e];
      for (; pair + 4 <= first[e + 1]; pair += 4) four(e, pair, begin, width);
      for (; pair < first[e + 1]; ++pair) {
        axpy_rows(weights.down(e) + begin, dim, h + pair * size, size, place(pair) + begin, width);
      }
    }
    for (int64_t t = 0; t < count; ++t) {
      for (int64_t i = t * dim + begin; i < t * dim + end; ++i) store(out[i], load(residual[i]) + sums[i]);
    }
  }

  SHEARLING_INLINE float* place(int64_t pair) const { return sums + tokens[pair] * weights.dim; }

  SHEARLING_INLINE void four(int64_t e, int64_t pair, int64_t begin, int64_t width) const {
    const int64_t size = weights.size, dim = weights.dim;
    float* rows[4];
    for (int64_t t = 0; t < 4; ++t) rows[t] = place(pair + t) + begin;
    const T* down = weights.down(e) + begin;
    int64_t j = 0;
    for (; j + 4 <= size; j += 4) {
      float own[16];
      for (int64_t t = 0; t < 4; ++t) {
        for (int64_t r = 0; r < 4; ++r) own[4 * t + r] = h[(pair + t) * size + j + r];
      }
      axpy4x4(down + j * dim, dim, own, rows[0], rows[1], rows[2], rows[3], width);
    }
    for (int64_t t = 0; t < 4 && j < size; ++t) {
      axpy_rows(down + j * dim, dim, h + (pair + t) * size + j, size - j, rows[t], width);
    }
  }
};
SHEARLING_RUN(AddPairs<float>)
SHEARLING_RUN(AddPairs<BFloat16>)

template <class T>
void rows_of(const PackedLayer& layer, const Tensor& x, const Tensor& wide, const Pairs& pairs, const Tensor& residual,
             Tensor& out) {
  const int64_t count = x.size(0), dim = layer.dim();
  const auto options = at::TensorOptions(at::kFloat);
  Tensor h = at::empty({static_cast<int64_t>(pairs.tokens.size()), layer.size()}, options);
  Tensor sums = at::empty({count, dim}, options);
  const PackedExperts<T> weights(layer);
  const float* from = wide.const_data_ptr<float>();
  float* units = h.mutable_data_ptr<float>();
  parallel_for(0, static_cast<int64_t>(pairs.tasks.size()), 1, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      const Task& task = pairs.tasks[static_cast<size_t>(i)];
      if (task.end - task.begin < GATHERED) {
        run(ActivateFew<T>{weights, from, pairs.tokens.data(), units, task.expert}, task.begin, task.end);
      } else {
        activate_gathered<T>(layer, x, pairs.tokens.data(), task, units);
      }
    }
  });
  const int64_t each = count > FEW_TOKENS ? TASK_COLUMNS : std::max(LEAST_COLUMNS, divup(dim, at::get_num_threads()));
  parallel(dim, each,
           AddPairs<T>{weights, units, pairs.first.data(), pairs.tokens.data(), layer.count(), count,
                       PackedLayer::floats(layer.down_bias), residual.const_data_ptr<T>(),
                       sums.mutable_data_ptr<float>(), out.mutable_data_ptr<T>()});
}

}  // namespace

void sparse_rows(const PackedLayer& layer, const Tensor& x, const Tensor& wide, const std::vector<char>& runs,
                 const Tensor& residual, Tensor& out) {
  const Pairs pairs(runs, layer.count());
  by_kind(layer.experts.scalar_type(),
          [&](auto kind) { rows_of<decltype(kind)>(layer, x, wide, pairs, residual, out); });
}

}  // namespace shearling
