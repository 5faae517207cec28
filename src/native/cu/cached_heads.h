// The heads of one token that is decoded, in one launch: queries and keys are turned by the token's position, keys and values go to
// their place in a cache. The position is read from memory, so that the launch is the same for every token; rope.h turns the
// heads of many tokens.
#pragma once

#include "portable.h"

namespace shearling {
namespace cu {

// A block per row and head, of queries, then keys, then values.
template <class T, int W>
struct CachedHeads {
  static constexpr bool MEETS = false, OVERLAPS = true;
  const T* query;       // [B, H, E]
  const T* key;         // [B, K, E]
  const T* value;       // likewise
  const float* cos;     // [positions, E]
  const float* sin;     // likewise
  const i64* position;  // [1]
  T* turned;            // [B, H, E]
  T* keys;              // [B, K, capacity, E]; rows of E lie one after the other
  T* values;            // likewise
  i64 key_row, key_group, value_row, value_group;  // strides
  u32 heads, groups, half;

  template <class Team>
  SHEARLING_DEVICE void operator()(Team& team) const {
    team.wait_for_earlier();
    const u32 each = heads + 2 * groups, dim = 2 * half;
    const i64 row = team.block() / each, at = *position * dim;
    const u32 head = static_cast<u32>(team.block() % each);
    if (head < heads) {
      const i64 place = (row * heads + head) * dim;
      turn(team, query + place, at, turned + place);
    } else if (head < heads + groups) {
      const i64 group = head - heads;
      turn(team, key + (row * groups + group) * dim, at, keys + row * key_row + group * key_group + at);
    } else {
      const i64 group = head - heads - groups;
      const T* from = value + (row * groups + group) * dim;
      T* to = values + row * value_row + group * value_group + at;
      for_packs<W>(team, dim, [&](i64 i) { store<W>(to + i, load<W>(from + i)); });
    }
  }

  template <class Team>
  SHEARLING_DEVICE void turn(Team& team, const T* from, i64 angle, T* to) const {
    for_packs<W>(team, half, [&](i64 i) {
      Wide<W> upper = load<W>(from + i), lower = load<W>(from + half + i);
      const Wide<W> c = load<W>(cos + angle + i), s = load<W>(sin + angle + i);
      for (int k = 0; k < W; ++k) {
        const float first = upper.at[k], second = lower.at[k];
        upper.at[k] = first * c.at[k] - second * s.at[k];
        lower.at[k] = second * c.at[k] + first * s.at[k];
      }
      store<W>(to + i, upper);
      store<W>(to + half + i, lower);
    });
  }
};

}  // namespace cu
}  // namespace shearling

SHEARLING_ENTRIES(cached_heads, shearling::cu::CachedHeads)
