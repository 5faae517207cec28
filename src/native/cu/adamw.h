// AdamW over many tensors in one launch: each number is read and written once, the gradient cleared on the way;
// ops/adamw.rs has the equations. The CPU's own loop takes the update of a number from here.
#pragma once

#include "halves.h"
#include "moments.h"
#include "portable.h"

namespace shearling {
namespace cu {

// The equations' constants; what differs between tensors is in AdamwTensor.
struct AdamwConstants {
  float beta1, rest1, beta2, rest2, eps, step_size, root_bias2, sign;
  float unit;  // of 8-bit moments
};

// One tensor of an update; M is how its moments lie in memory. Its numbers are `values`, or where that is null in halves.
template <class M>
struct AdamwTensor {
  float* values;
  Bf16* high;
  i16* low;
  float* gradient;
  typename M::First* exp_avg;
  typename M::Second* exp_avg_sq;
  i64 count;
  i64 first;   // place of its first number in a tensor of which it may be a part
  float kept;  // 1 − lr · wd
  u32 key;     // of the chance by which 8-bit moments are rounded
};

// The new value; `moments` become the new ones. They are rounded when they are stored, and used before that.
SHEARLING_DEVICE float stepped(float value, float g, Moments& moments, const AdamwConstants& c, float kept) {
  moments.first = c.beta1 * moments.first + c.rest1 * g;
  moments.second = c.beta2 * moments.second + c.rest2 * g * g;
  const float direction = moments.first / (square_root(moments.second) * c.root_bias2 + c.eps);
  return kept * value - c.step_size * direction;
}

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
  AdamwConstants constants;

  template <class Team>
  SHEARLING_DEVICE void operator()(Team& team) const {
    const u32 block = static_cast<u32>(team.block());
    int own = 0;
    while (first_block[own + 1] <= block) ++own;
    const AdamwTensor<M>& tensor = tensors[own];
    const i64 begin = static_cast<i64>(block - first_block[own]) * ADAMW_BLOCK;
    const i64 count = tensor.count - begin < ADAMW_BLOCK ? tensor.count - begin : ADAMW_BLOCK;
    const bool skipped = *skip != 0.0f;
    const float factor = constants.sign * *scale;
    for_packs<W>(team, count, [&](i64 i) {
      if (!skipped) update(tensor, begin + i, factor);
      store<W>(tensor.gradient + begin + i, Wide<W>{});
    });
  }

  SHEARLING_DEVICE void update(const AdamwTensor<M>& tensor, i64 at, float factor) const {
    const Wide<W> slope = load<W>(tensor.gradient + at);
    auto first = load_pack<W>(tensor.exp_avg + at);
    auto second = load_pack<W>(tensor.exp_avg_sq + at);
    Wide<W> value = values(tensor, at);
    for (int k = 0; k < W; ++k) {
      Moments moments = unpack(first.at[k], second.at[k], constants.unit);
      value.at[k] = stepped(value.at[k], slope.at[k] * factor, moments, constants, tensor.kept);
      pack(moments, first.at[k], second.at[k], constants.unit, tensor.key, tensor.first + at + k);
    }
    store_pack<W>(tensor.exp_avg + at, first);
    store_pack<W>(tensor.exp_avg_sq + at, second);
    set_values(tensor, at, value);
  }

  SHEARLING_DEVICE Wide<W> values(const AdamwTensor<M>& tensor, i64 at) const {
    if (tensor.values) return load<W>(tensor.values + at);
    const auto high = load_pack<W>(tensor.high + at);
    const auto low = load_pack<W>(tensor.low + at);
    Wide<W> value;
    for (int k = 0; k < W; ++k) value.at[k] = join(high.at[k], low.at[k]);
    return value;
  }

  SHEARLING_DEVICE void set_values(const AdamwTensor<M>& tensor, i64 at, const Wide<W>& value) const {
    if (tensor.values) return store<W>(tensor.values + at, value);
    Pack<Bf16, W> high;
    Pack<i16, W> low;
    for (int k = 0; k < W; ++k) split(value.at[k], high.at[k], low.at[k]);
    store_pack<W>(tensor.high + at, high);
    store_pack<W>(tensor.low + at, low);
  }
};

}  // namespace cu
}  // namespace shearling

SHEARLING_ENTRY(adamw_f32, shearling::cu::Adamw<shearling::cu::Fp32Moments, 1>)
SHEARLING_ENTRY(adamw_f32_x4, shearling::cu::Adamw<shearling::cu::Fp32Moments, 4>)
SHEARLING_ENTRY(adamw_bf16, shearling::cu::Adamw<shearling::cu::Bf16Moments, 1>)
SHEARLING_ENTRY(adamw_bf16_x4, shearling::cu::Adamw<shearling::cu::Bf16Moments, 4>)
SHEARLING_ENTRY(adamw_8bit, shearling::cu::Adamw<shearling::cu::EightBitMoments, 1>)
SHEARLING_ENTRY(adamw_8bit_x4, shearling::cu::Adamw<shearling::cu::EightBitMoments, 4>)
