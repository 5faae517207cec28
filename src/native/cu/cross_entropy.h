// Cross entropy of rows of logits, which become their own gradients; cpp/cross_entropy.cpp has the equations and the CPU's
// own kernel.
#pragma once

#include "softmax.h"

namespace shearling {
namespace cu {

// A block per row. A target of `ignored` has neither loss nor gradient.
template <class T, int W>
struct CrossEntropy {
  static constexpr bool MEETS = true;
  T* logits;
  const i64* targets;
  float* losses;
  i64 rows, columns, ignored;
  float scale;
  bool gradient;

  template <class Team>
  SHEARLING_DEVICE void operator()(Team& team) const {
    for (i64 row = team.block(); row < rows; row += team.blocks()) loss_of(team, row);
  }

  template <class Team>
  SHEARLING_DEVICE void loss_of(Team& team, i64 row) const {
    T* z = logits + row * columns;
    const i64 target = targets[row];
    if (target == ignored) {
      if (team.thread() == 0) losses[row] = 0.0f;
      if (gradient) for_packs<W>(team, columns, [&](i64 j) { store<W>(z + j, Wide<W>{}); });
      return;
    }
    const float aim = widen(z[target]);
    const Normalizer all = normalizer<W>(team, z, columns, 1.0f);
    if (team.thread() == 0) losses[row] = logarithm(all.sum) - (aim - all.top);
    if (!gradient) return;
    const float factor = scale / all.sum;
    for_packs<W>(team, columns, [&](i64 j) {
      Wide<W> value = load<W>(z + j);
      for (int k = 0; k < W; ++k) {
        value.at[k] = exponential(value.at[k] - all.top) * factor - (j + k == target ? scale : 0.0f);
      }
      store<W>(z + j, value);
    });
  }
};

}  // namespace cu
}  // namespace shearling

SHEARLING_ENTRIES(cross_entropy, shearling::cu::CrossEntropy)
