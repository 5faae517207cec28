// RMSNorm over rows, and its backward; cpp/rms_norm.cpp has the equations and the CPU's own kernel.
#pragma once

#include "portable.h"

namespace shearling {
namespace cu {

// A block per row. `mean_weights` may be null: 1/columns each.
template <class T, class G, int W>
struct RmsNormForward {
  static constexpr bool MEETS = true;
  const T* x;
  const G* weight;
  const float* mean_weights;
  T* y;
  float* rstd;
  i64 rows, columns;
  float eps;

  template <class Team>
  SHEARLING_DEVICE void operator()(Team& team) const {
    for (i64 row = team.block(); row < rows; row += team.blocks()) normalize(team, row);
  }

  template <class Team>
  SHEARLING_DEVICE void normalize(Team& team, i64 row) const {
    const T* from = x + row * columns;
    T* to = y + row * columns;
    const float share = 1.0f / static_cast<float>(columns);
    float squares = 0.0f;
    for_packs<W>(team, columns, [&](i64 j) {
      const Wide<W> value = load<W>(from + j), mean = load_or<W>(mean_weights, j, share);
      for (int k = 0; k < W; ++k) squares += mean.at[k] * value.at[k] * value.at[k];
    });
    const float scale = 1.0f / square_root(team.sum(squares) + eps);
    if (team.thread() == 0) rstd[row] = scale;
    for_packs<W>(team, columns, [&](i64 j) {
      Wide<W> value = load<W>(from + j);
      const Wide<W> factor = load<W>(weight + j);
      for (int k = 0; k < W; ++k) value.at[k] *= factor.at[k] * scale;
      store<W>(to + j, value);
    });
  }
};

// A block per part of the rows. `residual` (the gradient that came past the norm), `dx` and `dweight [parts, columns]`
// may be null: absent, or not asked for. With `dweight` the block's memory holds one number per column.
template <class T, class G, int W>
struct RmsNormBackward {
  static constexpr bool MEETS = true;
  const T* x;
  const T* gradient;
  const T* residual;
  const G* weight;
  const float* mean_weights;
  const float* rstd;
  T* dx;
  float* dweight;
  Rows rows;
  i64 columns;

  template <class Team>
  SHEARLING_DEVICE void operator()(Team& team) const {
    float* sums = team.shared();
    if (dweight) for_packs<W>(team, columns, [&](i64 j) { store<W>(sums + j, Wide<W>{}); });
    for (i64 row = rows.begin(team.block()); row < rows.end(team.block()); ++row) go_back(team, row, sums);
    if (!dweight) return;
    float* mine = dweight + team.block() * columns;
    for_packs<W>(team, columns, [&](i64 j) { store<W>(mine + j, load<W>(sums + j)); });
  }

  template <class Team>
  SHEARLING_DEVICE void go_back(Team& team, i64 row, float* sums) const {
    const i64 at = row * columns;
    const float scale = rstd[row], share = 1.0f / static_cast<float>(columns);
    float dot = 0.0f;
    for_packs<W>(team, columns, [&](i64 j) {
      const Wide<W> value = load<W>(x + at + j), slope = load<W>(gradient + at + j), factor = load<W>(weight + j);
      for (int k = 0; k < W; ++k) dot += slope.at[k] * factor.at[k] * value.at[k];
    });
    const float along = scale * scale * scale * team.sum(dot);
    for_packs<W>(team, columns, [&](i64 j) {
      const Wide<W> value = load<W>(x + at + j), slope = load<W>(gradient + at + j);
      if (dweight) {
        Wide<W> sum = load<W>(sums + j);
        for (int k = 0; k < W; ++k) sum.at[k] += slope.at[k] * value.at[k] * scale;
        store<W>(sums + j, sum);
      }
      if (!dx) return;
      const Wide<W> factor = load<W>(weight + j), mean = load_or<W>(mean_weights, j, share);
      Wide<W> out = load_or<W>(residual, at + j, 0.0f);
      for (int k = 0; k < W; ++k) {
        out.at[k] += slope.at[k] * factor.at[k] * scale - value.at[k] * mean.at[k] * along;
      }
      store<W>(dx + at + j, out);
    });
  }
};

}  // namespace cu
}  // namespace shearling

SHEARLING_ENTRIES_OF_TWO(rms_norm_forward, shearling::cu::RmsNormForward)
SHEARLING_ENTRIES_OF_TWO(rms_norm_backward, shearling::cu::RmsNormBackward)
