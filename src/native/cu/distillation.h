// Cross entropy and the divergence from a teacher of rows of logits, which become their own gradients;
// cpp/distillation.cpp has the equations and the CPU's own kernel.
#pragma once

#include "softmax.h"

namespace shearling {
namespace cu {

// A block per row. Both models' logits are of one dtype. A target of `ignored` has neither losses nor gradient.
template <class T, int W>
struct Distillation {
  static constexpr bool MEETS = true;
  T* student;
  const T* teacher;
  const i64* targets;
  float* cross_entropies;
  float* divergences;
  i64 rows, columns, ignored;
  float share, temperature, scale;
  bool gradient;

  template <class Team>
  SHEARLING_DEVICE void operator()(Team& team) const {
    for (i64 row = team.block(); row < rows; row += team.blocks()) losses_of(team, row);
  }

  template <class Team>
  SHEARLING_DEVICE void losses_of(Team& team, i64 row) const {
    T* z = student + row * columns;
    const T* its = teacher + row * columns;
    const i64 target = targets[row];
    if (target == ignored) {
      if (team.thread() == 0) cross_entropies[row] = divergences[row] = 0.0f;
      if (gradient) for_packs<W>(team, columns, [&](i64 j) { store<W>(z + j, Wide<W>{}); });
      return;
    }
    const float aim = widen(z[target]), cold = 1.0f / temperature;
    const Normalizer own = normalizer<W>(team, z, columns, cold);
    const Normalizer plain = temperature == 1.0f ? own : normalizer<W>(team, z, columns, 1.0f);
    const Normalizer taught = normalizer<W>(team, its, columns, cold);
    // Σ t (log t − log s) without the normalizers, which are the same for every v.
    float apart = 0.0f;
    for_packs<W>(team, columns, [&](i64 j) {
      const Wide<W> a = load<W>(z + j), b = load<W>(its + j);
      for (int k = 0; k < W; ++k) {
        const float below = b.at[k] * cold - taught.top;
        apart += exponential(below) * (below - (a.at[k] * cold - own.top));
      }
    });
    apart = team.sum(apart);
    if (team.thread() == 0) {
      cross_entropies[row] = logarithm(plain.sum) - (aim - plain.top);
      divergences[row] = apart / taught.sum + logarithm(own.sum / taught.sum);
    }
    if (gradient) slopes(team, z, its, target, own, plain, taught);
  }

  template <class Team>
  SHEARLING_DEVICE void slopes(Team& team, T* z, const T* its, i64 target, Normalizer own, Normalizer plain,
                               Normalizer taught) const {
    const float cold = 1.0f / temperature, of_target = (1.0f - share) * scale, of_teacher = share * temperature * scale;
    const float by_plain = of_target / plain.sum, by_own = of_teacher / own.sum, by_taught = of_teacher / taught.sum;
    for_packs<W>(team, columns, [&](i64 j) {
      Wide<W> a = load<W>(z + j);
      const Wide<W> b = load<W>(its + j);
      for (int k = 0; k < W; ++k) {
        a.at[k] = exponential(a.at[k] - plain.top) * by_plain + exponential(a.at[k] * cold - own.top) * by_own -
                  exponential(b.at[k] * cold - taught.top) * by_taught - (j + k == target ? of_target : 0.0f);
      }
      store<W>(z + j, a);
    });
  }
};

}  // namespace cu
}  // namespace shearling

SHEARLING_ENTRIES(distillation, shearling::cu::Distillation)
