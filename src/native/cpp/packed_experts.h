// The packed weights of a sparse feed-forward and what its kernels do with one expert: dot products of a token with
// rows of gate and up projection, and rows of the transposed down projection added to an output.
//
// A layer is W [N, 3m, D]: of each expert m gate rows, m up rows, m rows of the transposed down projection. So an expert
// is one contiguous read, and one that does not run is not read at all.
#pragma once

#include "kernel.h"

namespace shearling {

// A layer as the caller gave it, checked. Undefined: no router (every expert runs), no bias.
struct PackedLayer {
  Tensor experts;                                      // [N, 3m, D], fp32 or bf16
  Tensor router;                                       // [N, D], fp32 or bf16
  Tensor router_bias, gate_bias, up_bias, down_bias;  // [N], [N m], [N m], [D], fp32

  int64_t count() const { return experts.size(0); }
  int64_t size() const { return experts.size(1) / 3; }
  int64_t dim() const { return experts.size(2); }

  static const float* floats(const Tensor& vector) {
    return vector.defined() ? vector.const_data_ptr<float>() : nullptr;
  }
};

// Adds the experts that run to several tokens: x [tokens, D] in the dtype of the layer, `wide` the same in fp32, `runs`
// 1 or 0 [tokens, N], residual and out [tokens, D] contiguous. For use where gradients are off.
void sparse_rows(const PackedLayer& layer, const Tensor& x, const Tensor& wide, const std::vector<char>& runs,
                 const Tensor& residual, Tensor& out);

template <class T>
SHEARLING_INLINE float dot(const T* w, const float* x, int64_t dim) {
  float sum = 0.0f;
  for (int64_t i = 0; i < dim; ++i) sum += load(w[i]) * x[i];
  return sum;
}

// Four rows from `a` on and four from `b` on, `stride` apart: out[2 r] of a, out[2 r + 1] of b. Eight runs side by side:
// the processor's own prefetch looks ahead by as much in each, and with fewer one core does not ask for as much as
// memory gives.
template <class T>
SHEARLING_INLINE void dot8(const T* a, const T* b, int64_t stride, const float* x, int64_t dim, float* out) {
  const T *a1 = a + stride, *a2 = a1 + stride, *a3 = a2 + stride, *b1 = b + stride, *b2 = b1 + stride, *b3 = b2 + stride;
  float p0 = 0.0f, p1 = 0.0f, p2 = 0.0f, p3 = 0.0f, q0 = 0.0f, q1 = 0.0f, q2 = 0.0f, q3 = 0.0f;
  for (int64_t i = 0; i < dim; ++i) {
    const float v = x[i];
    p0 += load(a[i]) * v;
    p1 += load(a1[i]) * v;
    p2 += load(a2[i]) * v;
    p3 += load(a3[i]) * v;
    q0 += load(b[i]) * v;
    q1 += load(b1[i]) * v;
    q2 += load(b2[i]) * v;
    q3 += load(b3[i]) * v;
  }
  const float sums[8] = {p0, q0, p1, q1, p2, q2, p3, q3};
  for (int r = 0; r < 8; ++r) out[r] = sums[r];
}

// y += Σ_r h_r w_r over R rows, `stride` apart: R rows for one pass over y.
template <int R, class T>
SHEARLING_INLINE void axpy(const T* w, int64_t stride, const float* h, float* __restrict__ y, int64_t count) {
  for (int64_t i = 0; i < count; ++i) {
    float sum = 0.0f;
    for (int r = 0; r < R; ++r) sum += h[r] * load(w[r * stride + i]);
    y[i] += sum;
  }
}

// The same for any number of rows.
template <class T>
SHEARLING_INLINE void axpy_rows(const T* w, int64_t stride, const float* h, int64_t rows, float* y, int64_t count) {
  int64_t r = 0;
  for (; r + 8 <= rows; r += 8) axpy<8>(w + r * stride, stride, h + r, y, count);
  for (; r < rows; ++r) axpy<1>(w + r * stride, stride, h + r, y, count);
}

SHEARLING_INLINE float at_or_zero(const float* bias, int64_t i) { return bias ? bias[i] : 0.0f; }

// The pointers of a layer.
template <class T>
struct PackedExperts {
  const T* experts;
  const float* gate_bias;  // or null
  const float* up_bias;    // or null
  int64_t size;            // m
  int64_t dim;             // D

  explicit PackedExperts(const PackedLayer& layer)
      : experts(layer.experts.const_data_ptr<T>()),
        gate_bias(PackedLayer::floats(layer.gate_bias)),
        up_bias(PackedLayer::floats(layer.up_bias)),
        size(layer.size()),
        dim(layer.dim()) {}

  SHEARLING_INLINE const T* gate(int64_t e) const { return experts + e * 3 * size * dim; }
  SHEARLING_INLINE const T* up(int64_t e) const { return gate(e) + size * dim; }
  SHEARLING_INLINE const T* down(int64_t e) const { return gate(e) + 2 * size * dim; }

  // h [m] of one token x [D], four units at a time.
  SHEARLING_INLINE void activate(int64_t e, const float* x, float* h) const {
    int64_t j = 0;
    for (; j + 4 <= size; j += 4) {
      float sums[8];
      dot8(gate(e) + j * dim, up(e) + j * dim, dim, x, dim, sums);
      for (int64_t r = 0; r < 4; ++r) h[j + r] = unit(e, j + r, sums[2 * r], sums[2 * r + 1]);
    }
    for (; j < size; ++j) h[j] = unit(e, j, dot(gate(e) + j * dim, x, dim), dot(up(e) + j * dim, x, dim));
  }

  // silu(g + its bias) (u + its bias) of unit j.
  SHEARLING_INLINE float unit(int64_t e, int64_t j, float g, float u) const {
    const float a = g + at_or_zero(gate_bias, e * size + j);
    return a * sigmoid(a) * (u + at_or_zero(up_bias, e * size + j));
  }
};

}  // namespace shearling
