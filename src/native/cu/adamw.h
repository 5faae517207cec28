// AdamW over many tensors in one launch: each number is read and written once, the gradient cleared on the way;
// ops/adamw.rs has the equations.
#pragma once

#include "portable.h"

namespace shearling {
namespace cu {

// One tensor of an update; M is the dtype of the moments. `working` may be null.
template <class M>
struct AdamwTensor {
  float* master;
  float* gradient;
  M* exp_avg;
  M* exp_avg_sq;
  Bf16* working;
  i64 count;
  float kept;  // 1 − lr · wd
};

// Tensors of one launch: what fits into the 4 KB that its arguments may take.
constexpr int ADAMW_TENSORS = 48;

// Numbers that one block updates.
constexpr i64 ADAMW_BLOCK = 8192;

// Blocks are shared out over the tensors: tensor i has those from first_block[i] to first_block[i + 1]. `scale` and `skip`
// are on the device, so that nobody waits for them.
template <class M, int W>
struct Adamw {
  static constexpr bool MEETS = false;
  AdamwTensor<M> tensors[ADAMW_TENSORS];
  u32 first_block[ADAMW_TENSORS + 1];
  const float* scale;
  const float* skip;
  float beta1, rest1, beta2, rest2, eps, step_size, root_bias2, sign;

  template <class Team>
  SHEARLING_DEVICE void operator()(Team& team) const {
    const u32 block = static_cast<u32>(team.block());
    int own = 0;
    while (first_block[own + 1] <= block) ++own;
    const AdamwTensor<M>& tensor = tensors[own];
    const i64 begin = static_cast<i64>(block - first_block[own]) * ADAMW_BLOCK;
    const i64 count = tensor.count - begin < ADAMW_BLOCK ? tensor.count - begin : ADAMW_BLOCK;
    const bool skipped = *skip != 0.0f;
    const float factor = sign * *scale;
    for_packs<W>(team, count, [&](i64 i) {
      if (!skipped) update(tensor, begin + i, factor);
      store<W>(tensor.gradient + begin + i, Wide<W>{});
    });
  }

  SHEARLING_DEVICE void update(const AdamwTensor<M>& tensor, i64 at, float factor) const {
    const Wide<W> slope = load<W>(tensor.gradient + at);
    Wide<W> first = load<W>(tensor.exp_avg + at), second = load<W>(tensor.exp_avg_sq + at);
    Wide<W> value = load<W>(tensor.master + at);
    for (int k = 0; k < W; ++k) {
      const float g = slope.at[k] * factor;
      first.at[k] = beta1 * first.at[k] + rest1 * g;
      second.at[k] = beta2 * second.at[k] + rest2 * g * g;
      const float direction = first.at[k] / (square_root(second.at[k]) * root_bias2 + eps);
      value.at[k] = tensor.kept * value.at[k] - step_size * direction;
    }
    store<W>(tensor.exp_avg + at, first);
    store<W>(tensor.exp_avg_sq + at, second);
    store<W>(tensor.master + at, value);
    if (tensor.working) store<W>(tensor.working + at, value);
  }
};

}  // namespace cu
}  // namespace shearling

SHEARLING_ENTRY(adamw_f32, shearling::cu::Adamw<float, 1>)
SHEARLING_ENTRY(adamw_f32_x4, shearling::cu::Adamw<float, 4>)
SHEARLING_ENTRY(adamw_bf16, shearling::cu::Adamw<shearling::cu::Bf16, 1>)
SHEARLING_ENTRY(adamw_bf16_x4, shearling::cu::Adamw<shearling::cu::Bf16, 4>)
