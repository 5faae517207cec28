// What the losses share: the largest logit of a row and the sum of the exponentials below it, in one pass.
#pragma once

#include "portable.h"

namespace shearling {
namespace cu {

// A softmax's denominator: Σ exp(z − top).
struct Normalizer {
  float top;
  float sum;
};

// Of the row `logits`, each divided by 1/`cold`. A NaN or an infinity makes the sum NaN.
template <int W, class T, class Team>
SHEARLING_DEVICE Normalizer normalizer(Team& team, const T* logits, i64 columns, float cold) {
  float top = lowest(), sum = 0.0f;
  for_packs<W>(team, columns, [&](i64 j) {
    const Wide<W> value = load<W>(logits + j);
    float highest = top;
    for (int k = 0; k < W; ++k) highest = larger(value.at[k] * cold, highest);
    // Nothing is scaled before there is anything: −∞ − −∞ would be NaN.
    if (highest > top) sum = top == lowest() ? sum : sum * exponential(top - highest);
    top = highest;
    for (int k = 0; k < W; ++k) sum += exponential(value.at[k] * cold - top);
  });
  const float above = team.max(top);
  return {above, team.sum(top == lowest() ? sum : sum * exponential(top - above))};
}

}  // namespace cu
}  // namespace shearling
