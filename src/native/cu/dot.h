// The dot products of a warp: rows of a weight times one vector, which is bound by reading the rows.
#pragma once

#include "portable.h"

namespace shearling {
namespace cu {

// Packs that a thread asks memory for before it uses the first of them: what keeps memory busy.
constexpr int IN_FLIGHT = 4;

// This lane's share of the products of R rows with a vector, whose numbers from a column on `input(column)` gives; a warp adds
// the shares up with `warp_sum`.
template <int W, int R, class T, class Input>
SHEARLING_DEVICE Wide<R> lane_dots(const T* const (&rows)[R], i64 columns, u32 lane, Input&& input) {
  constexpr int EACH = IN_FLIGHT / R > 0 ? IN_FLIGHT / R : 1;
  Wide<R> sums{};
  for (i64 first = static_cast<i64>(lane) * W; first < columns; first += 32 * W * EACH) {
    Pack<T, W> packs[R][EACH] = {};
    for (int n = 0; n < EACH; ++n) {
      const i64 at = first + n * 32 * W;
      for (int r = 0; r < R && at < columns; ++r) packs[r][n] = *reinterpret_cast<const Pack<T, W>*>(rows[r] + at);
    }
    for (int n = 0; n < EACH; ++n) {
      const i64 at = first + n * 32 * W;
      if (at >= columns) break;
      const Wide<W> value = input(at);
      for (int r = 0; r < R; ++r) {
        for (int k = 0; k < W; ++k) sums.at[r] += widen(packs[r][n].at[k]) * value.at[k];
      }
    }
  }
  return sums;
}

}  // namespace cu
}  // namespace shearling
