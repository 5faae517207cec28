// An fp32 number in two halves of 16 bits: the upper one is a bf16 number, rounded to nearest, with which forward and
// backward multiply; the lower one is what is missing from it, in units of the last place of fp32. Together they are the
// number, to the bit, so that a bf16 copy of a weight takes no memory besides the weight.
//
// Ties are rounded away from zero, not to even: only then does what is missing always fit into 16 bits with a sign.
#pragma once

#include "portable.h"

namespace shearling {
namespace cu {

SHEARLING_DEVICE float join(Bf16 high, i16 low) {
  return number_of((static_cast<u32>(high.bits) << 16) + static_cast<u32>(static_cast<int>(low)));
}

// NaN stays NaN, without its payload: the rounding would carry that into the sign.
SHEARLING_DEVICE void split(float value, Bf16& high, i16& low) {
  const u32 bits = bits_of(value);
  const bool is_number = value == value;
  high.bits = static_cast<u16>(is_number ? (bits + 0x8000u) >> 16 : 0x7fc0u);
  low = static_cast<i16>(is_number ? bits & 0xffffu : 0u);
}

}  // namespace cu
}  // namespace shearling
