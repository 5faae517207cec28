// Attention of one new token to the keys and values in a cache, in two launches: blocks that read a part of the cache each, and
// the join of their parts; cpp/cached_attention.cpp has the equation and the CPU's own kernel.
#pragma once

#include "portable.h"

namespace shearling {
namespace cu {

// Keys of a part, threads that read them, and the largest head that they take.
constexpr u32 ATTENTION_KEYS = 128;
constexpr u32 ATTENTION_THREADS = 256;
constexpr u32 ATTENTION_DIM = 256;

// A block per group of queries and part of the cache: of each query the largest score, the sum of exponentials below it, and
// the values weighed by them. The block's memory holds the scores and room for a sum.
template <class T, int W>
struct CachedAttentionPart {
  static constexpr bool MEETS = true;
  const T* query;  // [B K, G, E]
  const T* key;    // [B, K, S, E]; rows of E lie one after the other
  const T* value;  // likewise
  const i64* last; // index of the last key that counts, or null: all do
  float* tops;     // [B K, parts, G]
  float* sums;     // likewise
  float* mixed;    // [B K, parts, G, E]
  i64 key_row, key_group, value_row, value_group;  // strides
  i64 groups, tokens, parts;
  u32 each, dim;
  float scale;

  static SHEARLING_DEVICE constexpr i64 shared_floats(i64 each) {
    return each * ATTENTION_KEYS + static_cast<i64>(ATTENTION_THREADS) * W;
  }

  template <class Team>
  SHEARLING_DEVICE void operator()(Team& team) const {
    const i64 group = team.block(), row = group / groups, in_row = group % groups;
    const i64 begin = team.part() * ATTENTION_KEYS, end = last ? *last + 1 : tokens;
    if (begin >= end) return;
    const u32 count = static_cast<u32>(end - begin < ATTENTION_KEYS ? end - begin : ATTENTION_KEYS);
    float *scores = team.shared(), *room = scores + each * ATTENTION_KEYS;
    score(team, query + group * each * dim, key + row * key_row + in_row * key_group + begin * dim, count, scores);
    const i64 place = (group * parts + team.part()) * each;
    for (u32 g = 0; g < each; ++g) weigh(team, scores + g * ATTENTION_KEYS, count, place + g);
    team.sync();
    const T* values = value + row * value_row + in_row * value_group + begin * dim;
    for (u32 g = 0; g < each; ++g) mix(team, scores + g * ATTENTION_KEYS, values, count, room, mixed + (place + g) * dim);
  }

  // A warp per key, for all queries.
  template <class Team>
  SHEARLING_DEVICE void score(Team& team, const T* queries, const T* keys, u32 count, float* scores) const {
    const u32 warps = team.threads() / 32, warp = team.thread() / 32, lane = team.thread() % 32;
    for (u32 first = 0; first < count; first += warps) {
      const u32 s = first + warp;
      for (u32 g = 0; g < each; ++g) {
        float dot = 0.0f;
        for (u32 j = lane * W; s < count && j < dim; j += 32 * W) {
          const Wide<W> q = load<W>(queries + g * dim + j), k = load<W>(keys + static_cast<i64>(s) * dim + j);
          for (int i = 0; i < W; ++i) dot += q.at[i] * k.at[i];
        }
        dot = team.warp_sum(dot);
        if (lane == 0 && s < count) scores[g * ATTENTION_KEYS + s] = dot * scale;
      }
    }
    team.sync();
  }

  // Scores become exponentials. A NaN among them makes their sum NaN.
  template <class Team>
  SHEARLING_DEVICE void weigh(Team& team, float* scores, u32 count, i64 place) const {
    float top = lowest(), sum = 0.0f;
    for (u32 s = team.thread(); s < count; s += team.threads()) top = larger(scores[s], top);
    top = team.max(top);
    for (u32 s = team.thread(); s < count; s += team.threads()) sum += scores[s] = exponential(scores[s] - top);
    sum = team.sum(sum);
    if (team.thread() != 0) return;
    tops[place] = top;
    sums[place] = sum;
  }

  // As many values side by side as there are threads for, then their sums in order.
  template <class Team>
  SHEARLING_DEVICE void mix(Team& team, const float* weights, const T* values, u32 count, float* room,
                            float* out) const {
    const u32 across = dim / W, beside = team.threads() / across;
    const u32 column = team.thread() % across * W, first = team.thread() / across;
    Wide<W> own{};
    for (u32 s = first; first < beside && s < count; s += beside) {
      const Wide<W> row = load<W>(values + static_cast<i64>(s) * dim + column);
      for (int i = 0; i < W; ++i) own.at[i] += weights[s] * row.at[i];
    }
    store<W>(room + team.thread() * W, own);
    team.sync();
    if (first == 0) {
      for (u32 other = 1; other < beside; ++other) {
        const Wide<W> more = load<W>(room + (other * across * W + column));
        for (int i = 0; i < W; ++i) own.at[i] += more.at[i];
      }
      store<W>(out + column, own);
    }
    team.sync();
  }
};

// A block per group of queries: the parts of each query, joined in order.
template <class T, int W>
struct CachedAttentionJoin {
  static constexpr bool MEETS = false;
  const float* tops;
  const float* sums;
  const float* mixed;
  T* out;           // [B K, G, E]
  const i64* last;  // as above
  i64 parts;
  u32 each, dim;

  template <class Team>
  SHEARLING_DEVICE void operator()(Team& team) const {
    const u32 across = dim / W;
    const i64 filled = last ? *last / ATTENTION_KEYS + 1 : parts;
    for (u32 item = team.thread(); item < each * across; item += team.threads()) {
      const u32 g = item / across, column = item % across * W;
      const i64 first = team.block() * parts * each + g;
      float top = lowest(), sum = 0.0f;
      for (i64 part = 0; part < filled; ++part) top = larger(tops[first + part * each], top);
      Wide<W> total{};
      for (i64 part = 0; part < filled; ++part) {
        const i64 place = first + part * each;
        const float weight = exponential(tops[place] - top);
        sum += weight * sums[place];
        const Wide<W> own = load<W>(mixed + place * dim + column);
        for (int i = 0; i < W; ++i) total.at[i] += weight * own.at[i];
      }
      for (int i = 0; i < W; ++i) total.at[i] /= sum;
      store<W>(out + (team.block() * each + g) * dim + column, total);
    }
  }
};

}  // namespace cu
}  // namespace shearling

SHEARLING_ENTRIES(cached_attention_part, shearling::cu::CachedAttentionPart)
SHEARLING_ENTRIES(cached_attention_join, shearling::cu::CachedAttentionJoin)
