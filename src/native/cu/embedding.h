// Token embedding with the gates of the residual stream, and its backward; cpp/embedding.cpp has the equations and the
// CPU's own kernel.
#pragma once

#include "portable.h"

namespace shearling {
namespace cu {

// A block per token. `gate` may be null: ones.
template <class T, int W>
struct EmbeddingForward {
  static constexpr bool MEETS = false;
  const i64* ids;
  const T* weight;
  const float* gate;
  T* y;
  i64 tokens, columns;

  template <class Team>
  SHEARLING_DEVICE void operator()(Team& team) const {
    for (i64 token = team.block(); token < tokens; token += team.blocks()) {
      const T* from = weight + ids[token] * columns;
      for_packs<W>(team, columns, [&](i64 j) {
        Wide<W> value = load<W>(from + j);
        const Wide<W> factor = load_or<W>(gate, j, 1.0f);
        for (int k = 0; k < W; ++k) value.at[k] *= factor.at[k];
        store<W>(y + token * columns + j, value);
      });
    }
  }
};

// Adds to the rows of `dweight` that occur. The batch comes sorted by id, inside an id in its own order: the block of an
// id's first place sums all of them, so no two threads write one number and every sum has one order. A part is W columns
// per thread.
template <class T, class B, int W>
struct EmbeddingBackward {
  static constexpr bool MEETS = false;
  const i64* sorted_ids;
  const i64* positions;
  const T* gradient;
  const float* gate;
  B* dweight;
  i64 tokens, columns;

  template <class Team>
  SHEARLING_DEVICE void operator()(Team& team) const {
    const i64 column = (team.part() * team.threads() + team.thread()) * W, first = team.block();
    if (column >= columns) return;
    const i64 id = sorted_ids[first];
    if (first > 0 && sorted_ids[first - 1] == id) return;
    Wide<W> sum{};
    for (i64 place = first; place < tokens && sorted_ids[place] == id; ++place) {
      const Wide<W> slope = load<W>(gradient + positions[place] * columns + column);
      for (int k = 0; k < W; ++k) sum.at[k] += slope.at[k];
    }
    const Wide<W> factor = load_or<W>(gate, column, 1.0f);
    Wide<W> total = load<W>(dweight + id * columns + column);
    for (int k = 0; k < W; ++k) total.at[k] += sum.at[k] * factor.at[k];
    store<W>(dweight + id * columns + column, total);
  }
};

// The gate's gradient, `dgate [parts, columns]`: a thread owns W columns and goes down the tokens of its part.
template <class T, int W>
struct EmbeddingGate {
  static constexpr bool MEETS = false;
  const i64* ids;
  const T* gradient;
  const T* weight;
  float* dgate;
  Rows rows;
  i64 columns;

  template <class Team>
  SHEARLING_DEVICE void operator()(Team& team) const {
    const i64 column = (team.block() * team.threads() + team.thread()) * W;
    if (column >= columns) return;
    Wide<W> sums{};
    for (i64 token = rows.begin(team.part()); token < rows.end(team.part()); ++token) {
      const Wide<W> slope = load<W>(gradient + token * columns + column);
      const Wide<W> value = load<W>(weight + ids[token] * columns + column);
      for (int k = 0; k < W; ++k) sums.at[k] += slope.at[k] * value.at[k];
    }
    store<W>(dgate + team.part() * columns + column, sums);
  }
};

}  // namespace cu
}  // namespace shearling

SHEARLING_ENTRIES(embedding_forward, shearling::cu::EmbeddingForward)
SHEARLING_ENTRIES_OF_TWO(embedding_backward, shearling::cu::EmbeddingBackward)
SHEARLING_ENTRIES(embedding_gate, shearling::cu::EmbeddingGate)
