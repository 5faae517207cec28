// Rotary position embedding; cpp/rope.cpp has the equations and the CPU's own kernel.
#pragma once

#include "portable.h"

namespace shearling {
namespace cu {

// A block per token: `x [B, T, H, E]` of any strides but in E, `y` contiguous. `direction` is 1, or −1 to turn back.
template <class T, int W>
struct Rotate {
  static constexpr bool MEETS = false;
  const T* x;
  const float* cos;
  const float* sin;
  T* y;
  i64 row_stride, token_stride, head_stride;
  i64 places, tokens;
  u32 heads, half;
  float direction;

  template <class Team>
  SHEARLING_DEVICE void operator()(Team& team) const {
    const u32 packs = half / W;
    for (i64 place = team.block(); place < places; place += team.blocks()) {
      const i64 row = place / tokens, token = place % tokens;
      const T* from = x + row * row_stride + token * token_stride;
      T* to = y + place * heads * 2 * half;
      for (u32 item = team.thread(); item < heads * packs; item += team.threads()) {
        const u32 head = item / packs, i = item % packs * W;
        turn(from + head * head_stride + i, token * 2 * half + i, to + static_cast<i64>(head) * 2 * half + i);
      }
    }
  }

  SHEARLING_DEVICE void turn(const T* from, i64 angle, T* to) const {
    Wide<W> upper = load<W>(from), lower = load<W>(from + half);
    const Wide<W> c = load<W>(cos + angle), s = load<W>(sin + angle);
    for (int k = 0; k < W; ++k) {
      const float first = upper.at[k], second = lower.at[k], across = direction * s.at[k];
      upper.at[k] = first * c.at[k] - second * across;
      lower.at[k] = second * c.at[k] + first * across;
    }
    store<W>(to, upper);
    store<W>(to + half, lower);
  }
};

}  // namespace cu
}  // namespace shearling

SHEARLING_ENTRIES(rope, shearling::cu::Rotate)
