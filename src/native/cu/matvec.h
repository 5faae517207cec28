// One row through linear maps, which is what decoding a token consists of. Libraries' matrix products are made for many rows; a
// warp for each row of a weight reads it as fast as memory gives it, and what stands around a map goes along in the same
// launch:
//
//   y = residual + W n(x) + b      for up to three maps of one x
//   y = silu(G n(x) + b_g) ⊙ (U n(x) + b_u)
//
// with n the RMSNorm, or nothing. cpp/projection.cpp has the maps of many rows.
#pragma once

#include "dot.h"

namespace shearling {
namespace cu {

constexpr int MATVEC_MAPS = 3;
constexpr u32 MATVEC_THREADS = 256;
// Packs of a row that are asked for before the launch before has ended: 4 KB.
constexpr i64 PREFETCHED = 256;

// `bias` and `residual` may be null.
template <class T>
struct MatvecMap {
  const T* weight;  // [rows, D]
  const float* bias;
  const T* residual;
  T* out;
  i64 rows;
};

// What the maps are of: x, or its norm where there is one. The norm's factor 1 / √(mean x² + ε) is the same for all columns, so it
// is put on at the end, and every warp finds it on its way.
template <class T>
struct MatvecInput {
  const T* x;
  const T* norm;  // [D], or null
  float eps;
  i64 columns;

  // The dots of a warp with R rows of weights; every warp of the block comes by, those without rows too. The beginning of the
  // rows is on its way while the launch before, which x comes from, ends.
  template <int W, int R, class Team>
  SHEARLING_DEVICE Wide<R> dots(Team& team, const T* const (&rows)[R]) const {
    const u32 lane = team.thread() % 32;
    for (i64 at = lane * W; rows[0] && at < columns && at < PREFETCHED * W; at += 32 * W) {
      for (int r = 0; r < R; ++r) prefetch(rows[r] + at);
    }
    team.wait_for_earlier();
    float squares = 0.0f;
    Wide<R> sums{};
    if (rows[0]) {
      sums = lane_dots<W>(rows, columns, lane, [&](i64 at) {
        Wide<W> value = load<W>(x + at);
        if (norm) {
          const Wide<W> weight = load<W>(norm + at);
          for (int k = 0; k < W; ++k) {
            squares += value.at[k] * value.at[k];
            value.at[k] *= weight.at[k];
          }
        }
        return value;
      });
    }
    for (int r = 0; r < R; ++r) sums.at[r] = team.warp_sum(sums.at[r]);
    if (!norm) return sums;
    const float factor = 1.0f / square_root(team.warp_sum(squares) / static_cast<float>(columns) + eps);
    for (int r = 0; r < R; ++r) sums.at[r] *= factor;
    return sums;
  }
};

// A warp for each row of the maps, one map after the other.
template <class T, int W>
struct Matvec {
  static constexpr bool MEETS = true, OVERLAPS = true;
  // Four blocks at a time: the 4,096 rows of a 7B's residual stream are then all in work at once on 132 multiprocessors.
  static constexpr u32 THREADS = MATVEC_THREADS, RESIDENT = 4;
  MatvecInput<T> input;
  MatvecMap<T> maps[MATVEC_MAPS];

  template <class Team>
  SHEARLING_DEVICE void operator()(Team& team) const {
    const i64 place = team.block() * (team.threads() / 32) + team.thread() / 32;
    const T* rows[1] = {nullptr};
    at_row(place, [&](const MatvecMap<T>& map, i64 row) { rows[0] = map.weight + row * input.columns; });
    const float dot = input.template dots<W>(team, rows).at[0];
    if (team.thread() % 32 != 0) return;
    // Looked up again: what a map has besides its weight would be in registers all the while.
    at_row(place, [&](const MatvecMap<T>& map, i64 row) {
      float y = dot;
      if (map.bias) y += map.bias[row];
      if (map.residual) y += widen(map.residual[row]);
      narrow(y, map.out[row]);
    });
  }

  // The map and its row that are in this place among all rows, if there is one.
  template <class Body>
  SHEARLING_DEVICE void at_row(i64 place, const Body& body) const {
    for (int m = 0; m < MATVEC_MAPS; ++m) {
      if (place >= 0 && place < maps[m].rows) body(maps[m], place);
      place -= maps[m].rows;
    }
  }
};

// A warp for each unit: its rows of both maps.
template <class T, int W>
struct MatvecSwiglu {
  static constexpr bool MEETS = true, OVERLAPS = true;
  static constexpr u32 THREADS = MATVEC_THREADS, RESIDENT = 4;
  MatvecInput<T> input;
  MatvecMap<T> gate, up;
  T* out;

  template <class Team>
  SHEARLING_DEVICE void operator()(Team& team) const {
    const i64 row = team.block() * (team.threads() / 32) + team.thread() / 32;
    const bool there = row < gate.rows;
    const T* const rows[2] = {there ? gate.weight + row * input.columns : nullptr, up.weight + row * input.columns};
    const Wide<2> dots = input.template dots<W>(team, rows);
    if (!there || team.thread() % 32 != 0) return;
    const float a = dots.at[0] + (gate.bias ? gate.bias[row] : 0.0f);
    const float u = dots.at[1] + (up.bias ? up.bias[row] : 0.0f);
    narrow(a * sigmoid(a) * u, out[row]);
  }
};

}  // namespace cu
}  // namespace shearling

SHEARLING_ENTRIES(matvec, shearling::cu::Matvec)
SHEARLING_ENTRIES(matvec_swiglu, shearling::cu::MatvecSwiglu)
