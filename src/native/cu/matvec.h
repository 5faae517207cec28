// One row through up to three linear maps, which is what decoding a token consists of: y = residual + W x + b. Libraries' matrix
// products are made for many rows; a warp for each row of a weight reads it as fast as memory gives it, and the maps of one
// input are one launch. cpp/projection.cpp has the maps of many rows.
#pragma once

#include "dot.h"

namespace shearling {
namespace cu {

constexpr int MATVEC_MAPS = 3;

// `bias` and `residual` may be null.
template <class T>
struct MatvecMap {
  const T* weight;  // [rows, D]
  const float* bias;
  const T* residual;
  T* out;
  i64 rows;
};

template <class T, int W>
struct Matvec {
  static constexpr bool MEETS = true;
  const T* x;
  MatvecMap<T> maps[MATVEC_MAPS];
  i64 columns;

  template <class Team>
  SHEARLING_DEVICE void operator()(Team& team) const {
    const u32 warps = team.threads() / 32, warp = team.thread() / 32, lane = team.thread() % 32;
    i64 left = team.block() * warps + warp, row = 0;
    MatvecMap<T> map{};
    for (int m = 0; m < MATVEC_MAPS; ++m) {
      if (left >= 0 && left < maps[m].rows) {
        map = maps[m];
        row = left;
      }
      left -= maps[m].rows;
    }
    float dot = 0.0f;
    if (map.weight) {
      const T* const rows[1] = {map.weight + row * columns};
      dot = lane_dots<W>(rows, x, columns, lane).at[0];
    }
    dot = team.warp_sum(dot);
    if (!map.weight || lane != 0) return;
    if (map.bias) dot += map.bias[row];
    if (map.residual) dot += widen(map.residual[row]);
    narrow(dot, map.out[row]);
  }
};

}  // namespace cu
}  // namespace shearling

SHEARLING_ENTRIES(matvec, shearling::cu::Matvec)
