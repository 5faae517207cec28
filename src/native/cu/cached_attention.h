// Attention of one new token to the keys and values in a cache, in two launches: blocks that read a part of the cache each, and
// the join of their parts; cpp/cached_attention.cpp has the equation and the CPU's own kernel.
#pragma once

#include "dot.h"

namespace shearling {
namespace cu {

// Keys of a part and threads that read them, two for each; the largest head that they take.
constexpr u32 ATTENTION_KEYS = 128;
constexpr u32 ATTENTION_THREADS = 2 * ATTENTION_KEYS;
constexpr u32 ATTENTION_DIM = 256;

// Threads of a block that share out rows of `dim` numbers: as many rows side by side as there are threads for.
template <int W>
struct RowsBeside {
  u32 across, beside, column, first;

  SHEARLING_DEVICE RowsBeside(u32 dim, u32 thread, u32 threads)
      : across(dim / W), beside(threads / across), column(thread % across * W), first(thread / across) {}

  SHEARLING_DEVICE bool takes_part() const { return first < beside; }

  // The sum over the threads of a column, in their order, for the first of them; `room` is W numbers a thread.
  template <class Team>
  SHEARLING_DEVICE void sum(Team& team, Wide<W>& own, float* room) const {
    store<W>(room + team.thread() * W, own);
    team.sync();
    if (first != 0) return;
    for (u32 other = 1; other < beside; ++other) {
      const Wide<W> more = load<W>(room + (other * across * W + column));
      for (int i = 0; i < W; ++i) own.at[i] += more.at[i];
    }
  }
};

// A block per group of queries and part of the cache: of each query the largest score, the sum of exponentials below it, and
// the values weighed by them. Reading the cache is all there is to it, so a thread asks for
// several packs before it waits for one.
template <class T, int W>
struct CachedAttentionPart {
  static constexpr bool MEETS = true, OVERLAPS = true;
  static constexpr u32 THREADS = ATTENTION_THREADS, RESIDENT = 4;
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

  // What the block's memory holds.
  struct Shared {
    float* queries;  // [G, E], scaled
    float* scores;   // [G, ATTENTION_KEYS]
    float* room;     // for a sum over threads, of scores or of values
  };

  static SHEARLING_DEVICE constexpr i64 shared_floats(i64 each, i64 dim) {
    const i64 scores = each * ATTENTION_KEYS, values = static_cast<i64>(ATTENTION_THREADS) * W;
    return each * dim + scores + (scores > values ? scores : values);
  }

  template <class Team>
  SHEARLING_DEVICE void operator()(Team& team) const {
    team.wait_for_earlier();
    const i64 group = team.block(), row = group / groups, in_row = group % groups;
    const i64 begin = team.part() * ATTENTION_KEYS, end = last ? *last + 1 : tokens;
    if (begin >= end) return;
    const u32 count = static_cast<u32>(end - begin < ATTENTION_KEYS ? end - begin : ATTENTION_KEYS);
    float* memory = team.shared();
    const Shared shared{memory, memory + each * dim, memory + each * (dim + ATTENTION_KEYS)};
    score(team, group, key + row * key_row + in_row * key_group + begin * dim, count, shared);

    // The values come while the scores become exponentials.
    const T* values = value + row * value_row + in_row * value_group + begin * dim;
    const RowsBeside<W> own(dim, team.thread(), team.threads());
    Pack<T, W> ahead[IN_FLIGHT] = {};
    for (u32 n = 0; n < IN_FLIGHT; ++n) {
      const u32 s = own.first + n * own.beside;
      if (own.takes_part() && s < count) ahead[n] = load_pack<W>(values + (s * dim + own.column));
    }
    const i64 place = (group * parts + team.part()) * each;
    for (u32 g = 0; g < each; ++g) weigh(team, shared.scores + g * ATTENTION_KEYS, count, place + g);
    team.sync();
    for (u32 g = 0; g < each; ++g) {
      const float* weights = shared.scores + g * ATTENTION_KEYS;
      Wide<W> sum{};
      for (u32 n = 0; n < IN_FLIGHT; ++n) {
        const u32 s = own.first + n * own.beside;
        if (own.takes_part() && s < count) add(weights[s], ahead[n], sum);
      }
      for (u32 s = own.first + IN_FLIGHT * own.beside; own.takes_part() && s < count; s += own.beside) {
        add(weights[s], load_pack<W>(values + (s * dim + own.column)), sum);
      }
      own.sum(team, sum, shared.room);
      if (own.first == 0) store<W>(mixed + (place + g) * dim + own.column, sum);
      team.sync();
    }
  }

  static SHEARLING_DEVICE void add(float weight, const Pack<T, W>& row, Wide<W>& sum) {
    for (int i = 0; i < W; ++i) sum.at[i] += weight * widen(row.at[i]);
  }

  // Two threads per key, one half each, for all queries.
  template <class Team>
  SHEARLING_DEVICE void score(Team& team, i64 group, const T* keys, u32 count, const Shared& shared) const {
    const u32 s = team.thread() % ATTENTION_KEYS, second = team.thread() / ATTENTION_KEYS;
    const u32 half = (dim / W + 1) / 2, packs = second ? dim / W - half : half;
    const u32 begin = second * half * W;
    const T* own = keys + (s * dim + begin);
    float* parts_of_scores = second ? shared.room : shared.scores;
    for (u32 from = 0; from < half; from += IN_FLIGHT) {
      Pack<T, W> ahead[IN_FLIGHT] = {};
      for (u32 n = 0; n < IN_FLIGHT; ++n) {
        if (s < count && from + n < packs) ahead[n] = load_pack<W>(own + (from + n) * W);
      }
      if (from == 0) keep_queries(team, query + group * each * dim, shared.queries);
      for (u32 g = 0; g < each; ++g) {
        float dot = 0.0f;
        for (u32 n = 0; n < IN_FLIGHT; ++n) {
          if (from + n >= packs) continue;
          const Wide<W> q = load<W>(shared.queries + g * dim + begin + (from + n) * W);
          for (int i = 0; i < W; ++i) dot += q.at[i] * widen(ahead[n].at[i]);
        }
        float& sum = parts_of_scores[g * ATTENTION_KEYS + s];
        sum = from == 0 ? dot : sum + dot;
      }
    }
    team.sync();
    for (u32 g = second; g < each; g += 2) shared.scores[g * ATTENTION_KEYS + s] += shared.room[g * ATTENTION_KEYS + s];
    team.sync();
  }

  template <class Team>
  SHEARLING_DEVICE void keep_queries(Team& team, const T* from, float* to) const {
    for (u32 i = team.thread(); i < each * dim; i += team.threads()) to[i] = scale * widen(from[i]);
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
};

// A block per query: its parts, joined in an order that only the number of threads and of parts decides.
template <class T, int W>
struct CachedAttentionJoin {
  static constexpr bool MEETS = true, OVERLAPS = true;
  static constexpr u32 THREADS = ATTENTION_THREADS, RESIDENT = 4;
  const float* tops;
  const float* sums;
  const float* mixed;
  T* out;           // [B K, G, E]
  const i64* last;  // as above
  i64 parts;
  u32 each, dim;

  static constexpr i64 SHARED_FLOATS = static_cast<i64>(ATTENTION_THREADS) * W;

  template <class Team>
  SHEARLING_DEVICE void operator()(Team& team) const {
    team.wait_for_earlier();
    const i64 group = team.block() / each, first = group * parts * each + team.block() % each;
    const i64 filled = last ? *last / ATTENTION_KEYS + 1 : parts;
    float top = lowest(), share = 0.0f;
    for (i64 part = team.thread(); part < filled; part += team.threads()) top = larger(tops[first + part * each], top);
    top = team.max(top);
    for (i64 part = team.thread(); part < filled; part += team.threads()) {
      share += exponential(tops[first + part * each] - top) * sums[first + part * each];
    }
    const RowsBeside<W> own(dim, team.thread(), team.threads());
    Wide<W> total{};
    for (i64 part = own.first; own.takes_part() && part < filled; part += own.beside) {
      const i64 place = first + part * each;
      const float weight = exponential(tops[place] - top);
      const Wide<W> mix = load<W>(mixed + place * dim + own.column);
      for (int i = 0; i < W; ++i) total.at[i] += weight * mix.at[i];
    }
    const float sum = team.sum(share);
    own.sum(team, total, team.shared());
    if (own.first != 0) return;
    for (int i = 0; i < W; ++i) total.at[i] /= sum;
    store<W>(out + team.block() * dim + own.column, total);
  }
};

}  // namespace cu
}  // namespace shearling

SHEARLING_ENTRIES(cached_attention_part, shearling::cu::CachedAttentionPart)
SHEARLING_ENTRIES(cached_attention_join, shearling::cu::CachedAttentionJoin)
