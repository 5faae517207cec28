// The feed-forward of the experts that a router chooses, for one token; cpp/sparse_feed_forward.cpp has the equations and the
// CPU's own kernel. Three launches, none of which the host waits for: which experts run, their work with a grid that is
// fixed (the blocks read how much there is), and the sum over blocks in one order.
#pragma once

#include "portable.h"

namespace shearling {
namespace cu {

// Units of an expert that a block of 32 threads for each takes at a time.
constexpr u32 EXPERT_UNITS = 8;

// A block per expert: 1 where its logit x · r + β is above 0, or NaN, so that a broken number stays visible; else 0.
template <class T, class G, int W>
struct ExpertsRoute {
  static constexpr bool MEETS = true;
  const T* x;
  const G* router;
  const float* bias;
  int* runs;
  i64 dim;

  template <class Team>
  SHEARLING_DEVICE void operator()(Team& team) const {
    const G* row = router + team.block() * dim;
    float dot = 0.0f;
    for_packs<W>(team, dim, [&](i64 j) {
      const Wide<W> a = load<W>(x + j), b = load<W>(row + j);
      for (int k = 0; k < W; ++k) dot += a.at[k] * b.at[k];
    });
    const float logit = team.sum(dot) + (bias ? bias[team.block()] : 0.0f);
    if (team.thread() == 0) runs[team.block()] = !(logit <= 0.0f);
  }
};

// The experts that run, shared out over the blocks by parts of EXPERT_UNITS units: a warp takes a unit's gate and up row, then
// all threads add the units' down rows to the block's own sum, `partial [blocks, D]`. The block's memory holds x, the sum,
// the units' values and the list of experts.
template <class T, int W>
struct ExpertsForward {
  static constexpr bool MEETS = true;
  const T* x;
  const T* packed;  // [N, 3m, D]
  const int* runs;
  const float* gate_bias;
  const float* up_bias;
  float* partial;
  i64 experts, size, dim;

  static SHEARLING_DEVICE constexpr i64 shared_floats(i64 experts, i64 dim) { return 2 * dim + EXPERT_UNITS + experts; }

  template <class Team>
  SHEARLING_DEVICE void operator()(Team& team) const {
    float *input = team.shared(), *sum = input + dim, *units = sum + dim;
    int* list = reinterpret_cast<int*>(units + EXPERT_UNITS);
    for_packs<W>(team, dim, [&](i64 j) {
      store<W>(input + j, load<W>(x + j));
      store<W>(sum + j, Wide<W>{});
    });
    const i64 running = list_running(team, list);
    team.sync();
    const i64 parts = (size + EXPERT_UNITS - 1) / EXPERT_UNITS;
    for (i64 item = team.block(); item < running * parts; item += team.blocks()) {
      add_units(team, list[item / parts], item % parts * EXPERT_UNITS, input, units, sum);
    }
    float* mine = partial + team.block() * dim;
    for_packs<W>(team, dim, [&](i64 j) { store<W>(mine + j, load<W>(sum + j)); });
  }

  // The numbers of the experts that run, in order; how many there are. Every block makes its own: that is faster than
  // another launch.
  template <class Team>
  SHEARLING_DEVICE i64 list_running(Team& team, int* list) const {
    int seen = 0;
    for (u32 e = 0; e < experts; ++e) {
      const int run = runs[e];
      if (run && e % team.threads() == team.thread()) list[seen] = static_cast<int>(e);
      seen += run;
    }
    return seen;
  }

  template <class Team>
  SHEARLING_DEVICE void add_units(Team& team, i64 expert, i64 first, const float* input, float* units,
                                  float* sum) const {
    const T* gate = packed + expert * 3 * size * dim;
    const T *up = gate + size * dim, *down = up + size * dim;
    const u32 warp = team.thread() / 32, lane = team.thread() % 32;
    const i64 unit = first + warp;
    float g = 0.0f, u = 0.0f;
    for (i64 j = static_cast<i64>(lane) * W; unit < size && j < dim; j += 32 * W) {
      const Wide<W> value = load<W>(input + j), a = load<W>(gate + unit * dim + j), b = load<W>(up + unit * dim + j);
      for (int k = 0; k < W; ++k) {
        g += a.at[k] * value.at[k];
        u += b.at[k] * value.at[k];
      }
    }
    g = team.warp_sum(g);
    u = team.warp_sum(u);
    if (lane == 0) units[warp] = unit < size ? activated(expert * size + unit, g, u) : 0.0f;
    team.sync();
    const i64 count = size - first < EXPERT_UNITS ? size - first : EXPERT_UNITS;
    for_packs<W>(team, dim, [&](i64 j) {
      Wide<W> total = load<W>(sum + j);
      for (i64 r = 0; r < count; ++r) {
        const Wide<W> row = load<W>(down + (first + r) * dim + j);
        for (int k = 0; k < W; ++k) total.at[k] += units[r] * row.at[k];
      }
      store<W>(sum + j, total);
    });
    team.sync();
  }

  // silu(g + its bias) (u + its bias).
  SHEARLING_DEVICE float activated(i64 unit, float g, float u) const {
    const float a = g + (gate_bias ? gate_bias[unit] : 0.0f);
    return a * sigmoid(a) * (u + (up_bias ? up_bias[unit] : 0.0f));
  }
};

// A thread per W columns: the residual stream, the blocks' sums in order, and the bias of the down projection.
template <class T, int W>
struct ExpertsSum {
  static constexpr bool MEETS = false;
  const float* partial;
  const float* bias;
  const T* residual;
  T* out;
  i64 count, dim;

  template <class Team>
  SHEARLING_DEVICE void operator()(Team& team) const {
    const i64 column = (team.block() * team.threads() + team.thread()) * W;
    if (column >= dim) return;
    Wide<W> total = load_or<W>(bias, column, 0.0f);
    for (i64 i = 0; i < count; ++i) {
      const Wide<W> part = load<W>(partial + i * dim + column);
      for (int k = 0; k < W; ++k) total.at[k] += part.at[k];
    }
    const Wide<W> stream = load<W>(residual + column);
    for (int k = 0; k < W; ++k) total.at[k] += stream.at[k];
    store<W>(out + column, total);
  }
};

}  // namespace cu
}  // namespace shearling

SHEARLING_ENTRIES_OF_TWO(experts_route, shearling::cu::ExpertsRoute)
SHEARLING_ENTRIES(experts_forward, shearling::cu::ExpertsForward)
SHEARLING_ENTRIES(experts_sum, shearling::cu::ExpertsSum)
