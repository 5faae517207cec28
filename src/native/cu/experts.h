// The feed-forward of the experts that a router chooses, for one token; cpp/sparse_feed_forward.cpp has the equations and the
// CPU's own kernel. Three launches, none of which the host waits for: which experts run, their work with a grid that is
// fixed (the blocks read how much there is), and the sum over blocks in one order.
#pragma once

#include "dot.h"

namespace shearling {
namespace cu {

// Units that a block of 32 threads for each takes at a time.
constexpr u32 EXPERT_UNITS = 8;

// A block per expert: 1 where its logit x · r + β is above 0, or NaN, so that a broken number stays visible; else 0.
template <class T, class G, int W>
struct ExpertsRoute {
  static constexpr bool MEETS = true, OVERLAPS = true;
  const T* x;
  const G* router;
  const float* bias;
  int* runs;
  i64 dim;

  template <class Team>
  SHEARLING_DEVICE void operator()(Team& team) const {
    const G* row = router + team.block() * dim;
    for_packs<W>(team, dim, [&](i64 j) { prefetch(row + j); });
    team.wait_for_earlier();
    float dot = 0.0f;
    for_packs<W>(team, dim, [&](i64 j) {
      const Wide<W> a = load<W>(x + j), b = load<W>(row + j);
      for (int k = 0; k < W; ++k) dot += a.at[k] * b.at[k];
    });
    const float logit = team.sum(dot) + (bias ? bias[team.block()] : 0.0f);
    if (team.thread() == 0) runs[team.block()] = !(logit <= 0.0f);
  }
};

// The units of the experts that run, shared out evenly over the blocks, EXPERT_UNITS at a time: a warp takes a unit's gate and
// up row, then all threads add the units' down rows to the block's own sum, `partial [blocks, D]`. The block's memory holds
// x, the sum, the units' values and rows, and the list of experts.
template <class T, int W>
struct ExpertsForward {
  static constexpr bool MEETS = true, OVERLAPS = true;
  static constexpr u32 THREADS = 32 * EXPERT_UNITS, RESIDENT = 2;
  const T* x;
  const T* packed;  // [N, 3m, D]
  const int* runs;
  const float* gate_bias;
  const float* up_bias;
  float* partial;
  i64 experts, size, dim;

  // Experts that are counted together on the way to the list.
  static constexpr u32 CHUNK = 32;

  static SHEARLING_DEVICE constexpr i64 shared_floats(i64 experts, i64 dim) {
    return 2 * dim + 2 * EXPERT_UNITS + 2 * experts + (experts + CHUNK - 1) / CHUNK + 1;
  }

  // What the block's memory holds.
  struct Shared {
    float* input;  // [D]
    float* sum;    // [D]
    float* units;  // [EXPERT_UNITS], values of the units in hand
    int* rows;     // [EXPERT_UNITS], their down rows, among all rows of `packed`
    int* flags;    // [N]
    int* list;     // [N], the experts that run, in order
    int* counts;   // how many of them there are in each chunk of experts, and at last in all
  };

  template <class Team>
  SHEARLING_DEVICE void operator()(Team& team) const {
    float* memory = team.shared();
    int* whole = reinterpret_cast<int*>(memory + 2 * dim + EXPERT_UNITS);
    const Shared shared{memory,
                        memory + dim,
                        memory + 2 * dim,
                        whole,
                        whole + EXPERT_UNITS,
                        whole + EXPERT_UNITS + experts,
                        whole + EXPERT_UNITS + 2 * experts};
    team.wait_for_earlier();
    for_packs<W>(team, dim, [&](i64 j) {
      store<W>(shared.input + j, load<W>(x + j));
      store<W>(shared.sum + j, Wide<W>{});
    });
    list_running(team, shared);
    const i64 units = shared.counts[(experts + CHUNK - 1) / CHUNK] * size;
    const i64 begin = team.block() * units / team.blocks(), end = (team.block() + 1) * units / team.blocks();
    for (i64 first = begin; first < end; first += EXPERT_UNITS) {
      add_units(team, first, static_cast<u32>(end - first < EXPERT_UNITS ? end - first : EXPERT_UNITS), shared);
    }
    float* mine = partial + team.block() * dim;
    for_packs<W>(team, dim, [&](i64 j) { store<W>(mine + j, load<W>(shared.sum + j)); });
  }

  // The numbers of the experts that run. Every block makes its own list: that is faster than another launch.
  template <class Team>
  SHEARLING_DEVICE void list_running(Team& team, const Shared& shared) const {
    const u32 all = static_cast<u32>(experts), chunks = (all + CHUNK - 1) / CHUNK;
    for (u32 e = team.thread(); e < all; e += team.threads()) shared.flags[e] = runs[e];
    team.sync();
    for (u32 chunk = team.thread(); chunk < chunks; chunk += team.threads()) {
      shared.counts[chunk] = sum_of(shared.flags, chunk * CHUNK, chunk + 1 < chunks ? (chunk + 1) * CHUNK : all);
    }
    team.sync();
    for (u32 e = team.thread(); e < all; e += team.threads()) {
      const int before = sum_of(shared.counts, 0, e / CHUNK) + sum_of(shared.flags, e / CHUNK * CHUNK, e);
      if (shared.flags[e]) shared.list[before] = static_cast<int>(e);
      if (e + 1 == all) shared.counts[chunks] = before + shared.flags[e];
    }
    team.sync();
  }

  static SHEARLING_DEVICE int sum_of(const int* counts, u32 begin, u32 end) {
    int sum = 0;
    for (u32 i = begin; i < end; ++i) sum += counts[i];
    return sum;
  }

  // Units from `first` on among those that run.
  template <class Team>
  SHEARLING_DEVICE void add_units(Team& team, i64 first, u32 count, const Shared& shared) const {
    const u32 warp = team.thread() / 32, lane = team.thread() % 32;
    Wide<2> dots{};
    i64 expert = 0, unit = 0;
    if (warp < count) {
      expert = shared.list[(first + warp) / size];
      unit = (first + warp) % size;
      const T* gate = packed + (expert * 3 * size + unit) * dim;
      const T* const rows[2] = {gate, gate + size * dim};
      dots = lane_dots<W>(rows, dim, lane, [&](i64 j) { return load<W>(shared.input + j); });
    }
    const float g = team.warp_sum(dots.at[0]), u = team.warp_sum(dots.at[1]);
    if (lane == 0 && warp < count) {
      shared.units[warp] = activated(expert * size + unit, g, u);
      shared.rows[warp] = static_cast<int>((expert * 3 + 2) * size + unit);
    }
    team.sync();
    for_packs<W>(team, dim, [&](i64 j) {
      Pack<T, W> down[EXPERT_UNITS] = {};
      for (u32 r = 0; r < EXPERT_UNITS; ++r) {
        if (r < count) down[r] = *reinterpret_cast<const Pack<T, W>*>(packed + shared.rows[r] * dim + j);
      }
      Wide<W> total = load<W>(shared.sum + j);
      for (u32 r = 0; r < EXPERT_UNITS; ++r) {
        for (int k = 0; k < W && r < count; ++k) total.at[k] += shared.units[r] * widen(down[r].at[k]);
      }
      store<W>(shared.sum + j, total);
    });
    team.sync();
  }

  // silu(g + its bias) (u + its bias).
  SHEARLING_DEVICE float activated(i64 unit, float g, float u) const {
    const float a = g + (gate_bias ? gate_bias[unit] : 0.0f);
    return a * sigmoid(a) * (u + (up_bias ? up_bias[unit] : 0.0f));
  }
};

// A block per 32 packs of columns: each of its warps adds up a share of the blocks' sums, then the shares, the bias of the down
// projection and the residual stream are added in order.
template <class T, int W>
struct ExpertsSum {
  static constexpr bool MEETS = true, OVERLAPS = true;
  const float* partial;
  const float* bias;
  const T* residual;
  T* out;
  i64 count, dim;

  static SHEARLING_DEVICE constexpr i64 shared_floats(i64 threads) { return threads * W; }

  template <class Team>
  SHEARLING_DEVICE void operator()(Team& team) const {
    team.wait_for_earlier();
    const u32 warps = team.threads() / 32, warp = team.thread() / 32, lane = team.thread() % 32;
    const i64 column = (team.block() * 32 + lane) * W;
    const u32 end = column < dim ? static_cast<u32>(count) * (warp + 1) / warps : 0;
    Wide<W> total{};
    for (u32 i = static_cast<u32>(count) * warp / warps; i < end; ++i) {
      const Wide<W> part = load<W>(partial + i * dim + column);
      for (int k = 0; k < W; ++k) total.at[k] += part.at[k];
    }
    float* shares = team.shared();
    store<W>(shares + team.thread() * W, total);
    team.sync();
    if (warp != 0 || column >= dim) return;
    total = load_or<W>(bias, column, 0.0f);
    for (u32 share = 0; share < warps; ++share) {
      const Wide<W> part = load<W>(shares + (share * 32 + lane) * W);
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
