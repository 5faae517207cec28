// SwiGLU with the intermediate gate, and its backward; cpp/swiglu.cpp has the equations and the CPU's own kernel.
//
// A thread owns W columns and goes down the rows of its part, so that the gate's gradient is summed in registers.
#pragma once

#include "portable.h"

namespace shearling {
namespace cu {

// `mask` may be null: ones.
template <class T, int W>
struct SwigluForward {
  static constexpr bool MEETS = false;
  const T* gate;
  const T* up;
  const float* mask;
  T* y;
  Rows rows;
  i64 columns;

  template <class Team>
  SHEARLING_DEVICE void operator()(Team& team) const {
    const i64 column = (team.block() * team.threads() + team.thread()) * W;
    if (column >= columns) return;
    const Wide<W> factor = load_or<W>(mask, column, 1.0f);
    for (i64 row = rows.begin(team.part()); row < rows.end(team.part()); ++row) {
      const i64 at = row * columns + column;
      Wide<W> a = load<W>(gate + at);
      const Wide<W> u = load<W>(up + at);
      for (int k = 0; k < W; ++k) a.at[k] = a.at[k] * sigmoid(a.at[k]) * u.at[k] * factor.at[k];
      store<W>(y + at, a);
    }
  }
};

// `dmask [parts, columns]` may be null: not asked for.
template <class T, int W>
struct SwigluBackward {
  static constexpr bool MEETS = false;
  const T* gate;
  const T* up;
  const float* mask;
  const T* gradient;
  T* dgate;
  T* dup;
  float* dmask;
  Rows rows;
  i64 columns;

  template <class Team>
  SHEARLING_DEVICE void operator()(Team& team) const {
    const i64 column = (team.block() * team.threads() + team.thread()) * W;
    if (column >= columns) return;
    const Wide<W> factor = load_or<W>(mask, column, 1.0f);
    Wide<W> sums{};
    for (i64 row = rows.begin(team.part()); row < rows.end(team.part()); ++row) {
      const i64 at = row * columns + column;
      Wide<W> a = load<W>(gate + at), u = load<W>(up + at);
      const Wide<W> dy = load<W>(gradient + at);
      for (int k = 0; k < W; ++k) {
        const float s = sigmoid(a.at[k]), silu = a.at[k] * s, through = dy.at[k] * factor.at[k];
        sums.at[k] += dy.at[k] * silu * u.at[k];
        a.at[k] = through * u.at[k] * s * (1.0f + a.at[k] * (1.0f - s));
        u.at[k] = through * silu;
      }
      store<W>(dgate + at, a);
      store<W>(dup + at, u);
    }
    if (dmask) store<W>(dmask + team.part() * columns + column, sums);
  }
};

}  // namespace cu
}  // namespace shearling

SHEARLING_ENTRIES(swiglu_forward, shearling::cu::SwigluForward)
SHEARLING_ENTRIES(swiglu_backward, shearling::cu::SwigluBackward)
