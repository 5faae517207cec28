// The operations that kernels of cu/ compute: what the autograd nodes beside this folder call where
// `has_device_kernels` says yes. Activations are contiguous fp32 or bf16; absent tensors are undefined.
#pragma once

#include "launch.h"

#include <utility>
#include <vector>

namespace shearling::device {

// Fills y `[.., D]` and rstd `[rows]` from x, a weight `[D]` of x's dtype or fp32, and the fp32 weights of the mean or none.
void rms_norm(const Tensor& x, const Tensor& weight, const Tensor& mean_weights, double eps, const Tensor& y,
              const Tensor& rstd);

// Fills `dx` where defined and gives the weight's gradient `[D]` in fp32 where `weight_wanted`.
Tensor rms_norm_backward(const Tensor& x, const Tensor& gradient, const Tensor& residual, const Tensor& weight,
                         const Tensor& mean_weights, const Tensor& rstd, const Tensor& dx, bool weight_wanted);

void swiglu(const Tensor& gate, const Tensor& up, const Tensor& mask, const Tensor& y);

// Fills dgate and dup and gives the mask's gradient where `mask_wanted`.
Tensor swiglu_backward(const Tensor& gate, const Tensor& up, const Tensor& mask, const Tensor& gradient,
                       const Tensor& dgate, const Tensor& dup, bool mask_wanted);

// x `[B, T, H, E]` with E contiguous, y contiguous.
void rotate(const Tensor& x, const Tensor& cos, const Tensor& sin, float direction, const Tensor& y);

void embedding(const Tensor& ids, const Tensor& weight, const Tensor& gate, const Tensor& y);

// Whether a buffer can take the embedding's gradient as it is.
bool takes_embedding_gradient(const Tensor& buffer, const Tensor& weight);

// Adds to `dweight [V, D]`, where defined.
void embedding_backward(const Tensor& ids, const Tensor& gradient, const Tensor& gate, const Tensor& dweight);

// Σ over tokens of gradient ⊙ weight row, `[D]`.
Tensor embedding_gate_gradient(const Tensor& ids, const Tensor& gradient, const Tensor& weight);

// diag(row) W diag(column) into `out`.
void fold(const Tensor& weight, const Tensor& row, const Tensor& column, const Tensor& out);

// Whether `unfold` takes rows of this length, and can add to this buffer (or, undefined, has none to add to).
bool takes_unfolded(const Tensor& buffer, const Tensor& weight);

// Gradients of rows and columns `[O]`, `[I]`, where wanted; the weight's is added to `buffer` where defined, and left in
// `folded` with `in_place`.
std::pair<Tensor, Tensor> unfold(const Tensor& folded, const Tensor& weight, const Tensor& row, const Tensor& column,
                                 const Tensor& buffer, bool row_wanted, bool column_wanted, bool in_place);

void cross_entropy(const Tensor& logits, const Tensor& targets, const Tensor& losses, int64_t ignored, double scale,
                   bool gradient);

void distillation(const Tensor& student, const Tensor& teacher, const Tensor& targets, const Tensor& cross_entropies,
                  const Tensor& divergences, int64_t ignored, double share, double temperature, double scale,
                  bool gradient);

// A linear map of one row into `out`, y = residual + W x + b: bias and residual may be undefined.
struct Map {
  Tensor weight, bias, residual, out;
};

// A row `[1, I]`, or its RMSNorm where `norm [I]` (of the row's dtype) is defined.
struct Row {
  Tensor x, norm;
  double eps = 0.0;
};

// Whether `rows [N, I]` are one row, of a dtype that has a kernel.
bool takes_matvec(const Tensor& rows);

// Weights are contiguous.
void matvec(const Row& row, const std::vector<Map>& maps);

// silu(gate) ⊙ up into `out`.
void matvec_swiglu(const Row& row, const Map& gate, const Map& up, const Tensor& out);

// Whether layers of so many experts over D have room in a block's memory.
bool takes_experts(int64_t experts, int64_t dim);

// One token x `[D]` through the experts `[N, 3m, D]` that its router `[N, D]` chooses (or, without one, all), added to the
// residual stream, into `out`.
void experts(const Tensor& x, const Tensor& residual, const Tensor& packed, const Tensor& router,
             const Tensor& router_bias, const Tensor& gate_bias, const Tensor& up_bias, const Tensor& down_bias,
             const Tensor& out);

// Heads of one token, query `[B, H, E]`, key and value `[B, K, E]`, contiguous: the query turned by its position, into `turned`,
// key and value into caches `[B, K, capacity, E]` with rows of E together.
void cached_heads(const Tensor& query, const Tensor& key, const Tensor& value, const Tensor& cos, const Tensor& sin,
                  const Tensor& position, const Tensor& turned, const Tensor& keys, const Tensor& values);

// Whether `each` queries of a group and heads of `dim` have room in a block.
bool takes_cached_attention(int64_t each, int64_t dim);

// One token's attention to a cache: query `[B, 1, H, E]` contiguous, key and value `[B, K, S, E]` with rows of E together.
void cached_attention(const Tensor& query, const Tensor& key, const Tensor& value, const Tensor& last,
                      const Tensor& out);

}  // namespace shearling::device
