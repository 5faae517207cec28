// Gates folded into a weight, and the way back from its gradient; cpp/folded_weight.h has the equations.
#pragma once

#include "portable.h"

namespace shearling {
namespace cu {

// A block per row. Gates may be null: ones.
template <class T, int W>
struct Fold {
  static constexpr bool MEETS = false;
  const T* weight;
  const float* row_gates;
  const float* column_gates;
  T* out;
  i64 rows, columns;

  template <class Team>
  SHEARLING_DEVICE void operator()(Team& team) const {
    for (i64 row = team.block(); row < rows; row += team.blocks()) {
      const float gate = row_gates ? row_gates[row] : 1.0f;
      for_packs<W>(team, columns, [&](i64 j) {
        Wide<W> value = load<W>(weight + row * columns + j);
        const Wide<W> factor = load_or<W>(column_gates, j, 1.0f);
        for (int k = 0; k < W; ++k) value.at[k] *= gate * factor.at[k];
        store<W>(out + row * columns + j, value);
      });
    }
  }
};

// A block per part of the rows: the weight is read once for all three gradients. Null pointers are gradients that nobody
// asked for: `buffer` is added to, with `in_place` the weight's gradient takes the place of `folded`; `column_gradient` is
// `[parts, columns]`. With it the block's memory holds one number per column.
template <class T, class B, int W>
struct Unfold {
  static constexpr bool MEETS = true;
  T* folded;
  const T* weight;
  const float* row_gates;
  const float* column_gates;
  B* buffer;
  float* row_gradient;
  float* column_gradient;
  Rows rows;
  i64 columns;
  bool in_place;

  template <class Team>
  SHEARLING_DEVICE void operator()(Team& team) const {
    float* sums = team.shared();
    if (column_gradient) for_packs<W>(team, columns, [&](i64 j) { store<W>(sums + j, Wide<W>{}); });
    for (i64 row = rows.begin(team.block()); row < rows.end(team.block()); ++row) unfold(team, row, sums);
    if (!column_gradient) return;
    float* mine = column_gradient + team.block() * columns;
    for_packs<W>(team, columns, [&](i64 j) { store<W>(mine + j, load<W>(sums + j)); });
  }

  template <class Team>
  SHEARLING_DEVICE void unfold(Team& team, i64 row, float* sums) const {
    const i64 at = row * columns;
    const float gate = row_gates ? row_gates[row] : 1.0f;
    float of_row = 0.0f;
    for_packs<W>(team, columns, [&](i64 j) {
      Wide<W> slope = load<W>(folded + at + j);
      const Wide<W> value = load<W>(weight + at + j), factor = load_or<W>(column_gates, j, 1.0f);
      if (column_gradient) {
        Wide<W> sum = load<W>(sums + j);
        for (int k = 0; k < W; ++k) sum.at[k] += slope.at[k] * value.at[k] * gate;
        store<W>(sums + j, sum);
      }
      for (int k = 0; k < W; ++k) {
        of_row += slope.at[k] * value.at[k] * factor.at[k];
        slope.at[k] *= gate * factor.at[k];
      }
      if (in_place) store<W>(folded + at + j, slope);
      if (!buffer) return;
      Wide<W> total = load<W>(buffer + at + j);
      for (int k = 0; k < W; ++k) total.at[k] += slope.at[k];
      store<W>(buffer + at + j, total);
    });
    if (!row_gradient) return;
    const float total = team.sum(of_row);
    if (team.thread() == 0) row_gradient[row] = total;
  }
};

}  // namespace cu
}  // namespace shearling

SHEARLING_ENTRIES(folded_weight_fold, shearling::cu::Fold)
SHEARLING_ENTRIES_OF_TWO(folded_weight_unfold, shearling::cu::Unfold)
