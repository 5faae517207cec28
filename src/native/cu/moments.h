// How AdamW's two moments of a number lie in memory: in fp32, in bf16, or in 8 bits each.
//
// In 8 bits, with m the mean of the gradient and v that of its square:
//
//   v   a number without sign, 6 bits of exponent and 2 of mantissa, from 2^-56 to 1.5 * 2^7: its root, which the step
//       divides by, in steps of 7 to 12 %. Smaller ones are raised to 2^-56, below what eps lets through; zero stays zero.
//   m   as a share of its bound. |m| <= bound * sqrt(v) whatever the gradients were (Cauchy and Schwarz), and m / sqrt(v)
//       is what the step is made of: 127 levels of either sign, whose roots are evenly spaced, so that small shares are
//       finer than large ones. No block of numbers shares a scale.
//
// Both are rounded to one of two neighbours by chance, in proportion to the distance: right in the mean, and a moment that
// falls by less than a level a step still falls. The chance is a hash of the number's place and a key, so that every
// device and every part of a tensor draw the same.
#pragma once

#include "portable.h"

namespace shearling {
namespace cu {

struct Fp32Moments {
  using First = float;
  using Second = float;
};

struct Bf16Moments {
  using First = Bf16;
  using Second = Bf16;
};

struct EightBitMoments {
  using First = i8;
  using Second = u8;
};

// m and v.
struct Moments {
  float first, second;
};

// Levels of either sign of m.
constexpr int MOMENT_LEVELS = 127;

// Bits of fp32's mantissa that v does not have, and exponent and mantissa of the level below 2^-56.
constexpr u32 MOMENT_CUT = 21;
constexpr u32 MOMENT_BASE = ((127u - 56u) << 2) - 1u;

// 32 bits by chance for the number at `place` of a tensor (the finaliser of MurmurHash3 over a Weyl sequence).
SHEARLING_DEVICE u32 chance(u32 key, i64 place) {
  u32 x = static_cast<u32>(place) * 0x9e3779b9u + key;
  x = (x ^ (x >> 16)) * 0x85ebca6bu;
  x = (x ^ (x >> 13)) * 0xc2b2ae35u;
  return x ^ (x >> 16);
}

SHEARLING_DEVICE float second_of(u8 code) {
  return code == 0 ? 0.0f : number_of((static_cast<u32>(code) + MOMENT_BASE) << MOMENT_CUT);
}

// `chance` is below 2^16.
SHEARLING_DEVICE u8 code_of_second(float second, u32 chance) {
  const u32 raised = (bits_of(second) + (chance << (MOMENT_CUT - 16))) >> MOMENT_CUT;
  const int level = static_cast<int>(raised) - static_cast<int>(MOMENT_BASE);
  const int bounded = level < 1 ? 1 : level > 255 ? 255 : level;
  return static_cast<u8>(second > 0.0f ? bounded : 0);
}

// `unit` is the bound over the square of the number of levels.
SHEARLING_DEVICE float first_of(i8 code, float root, float unit) {
  const int level = code;
  return unit * root * static_cast<float>(level < 0 ? -level * level : level * level);
}

SHEARLING_DEVICE i8 code_of_first(float first, float root, float unit, u32 chance) {
  const float largest = static_cast<float>(MOMENT_LEVELS * MOMENT_LEVELS);
  const float size = first < 0.0f ? -first : first;
  const float share = root > 0.0f ? size / (root * unit) : 0.0f;
  const float bounded = share < largest ? share : largest;
  const int below = static_cast<int>(square_root(bounded));
  const float above_it = bounded - static_cast<float>(below * below);
  const bool rises = static_cast<float>(chance) * static_cast<float>(2 * below + 1) < above_it * 65536.0f;
  const int level = below + (rises ? 1 : 0);
  return static_cast<i8>(first < 0.0f ? -level : level);
}

SHEARLING_DEVICE Moments unpack(float first, float second, float) { return {first, second}; }

SHEARLING_DEVICE Moments unpack(Bf16 first, Bf16 second, float) { return {widen(first), widen(second)}; }

SHEARLING_DEVICE Moments unpack(i8 first, u8 second, float unit) {
  const float square = second_of(second);
  return {first_of(first, square_root(square), unit), square};
}

SHEARLING_DEVICE void pack(const Moments& moments, float& first, float& second, float, u32, i64) {
  first = moments.first;
  second = moments.second;
}

SHEARLING_DEVICE void pack(const Moments& moments, Bf16& first, Bf16& second, float, u32, i64) {
  narrow(moments.first, first);
  narrow(moments.second, second);
}

SHEARLING_DEVICE void pack(const Moments& moments, i8& first, u8& second, float unit, u32 key, i64 place) {
  const u32 drawn = chance(key, place);
  second = code_of_second(moments.second, drawn & 0xffffu);
  first = code_of_first(moments.first, square_root(second_of(second)), unit, drawn >> 16);
}

}  // namespace cu
}  // namespace shearling
