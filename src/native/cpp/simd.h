// Arithmetic of the CPU kernels: fp32 and bf16 in memory, fp32 in registers, in plain C++ that the compiler vectorises.
//
// A kernel is a struct with its pointers as fields and `operator()(begin, end)` over whatever it is split by. What it
// calls is always inlined, so that `SHEARLING_RUN` compiles all of it once per CPU level; the level is chosen when the
// program is loaded. Elsewhere (macOS, musl, ARM) there is one version, for the compiler's own target.
//
// The build lets sums be reordered (`-fassociative-math`), and a formula must be accurate in any order:
// `__builtin_assoc_barrier` is no help, gcc 12 drops it where it vectorises.
#pragma once

#include "parallel.h"

#include <c10/util/BFloat16.h>

#include <cstdint>
#include <cstring>

#if defined(__x86_64__) && defined(__GLIBC__) && defined(__GNUC__) && !defined(__clang__) && __GNUC__ >= 12
#define SHEARLING_CLONES __attribute__((target_clones("arch=x86-64-v4", "arch=x86-64-v3", "default")))
#else
#define SHEARLING_CLONES
#endif

#define SHEARLING_INLINE __attribute__((always_inline)) inline

// The entry of a kernel type: `run(kernel, begin, end)`, one version per CPU level.
#define SHEARLING_RUN(...) \
  SHEARLING_CLONES void run(const __VA_ARGS__& kernel, int64_t begin, int64_t end) { kernel(begin, end); }

namespace shearling {

using c10::BFloat16;

// Runs a kernel over `0..count` on libtorch's threads, at least `grain` at a time.
template <class Kernel>
void parallel(int64_t count, int64_t grain, const Kernel& kernel) {
  parallel_for(0, count, grain, [&](int64_t begin, int64_t end) { run(kernel, begin, end); });
}

SHEARLING_INLINE float load(float value) { return value; }

SHEARLING_INLINE float load(BFloat16 value) {
  const uint32_t bits = static_cast<uint32_t>(value.x) << 16;
  float wide;
  std::memcpy(&wide, &bits, sizeof wide);
  return wide;
}

SHEARLING_INLINE void store(float& place, float value) { place = value; }

// Rounds to nearest, ties to even. NaN is kept apart: the rounding would carry its mantissa into the sign.
SHEARLING_INLINE void store(BFloat16& place, float value) {
  uint32_t bits;
  std::memcpy(&bits, &value, sizeof bits);
  const uint32_t rounded = (bits + 0x7fff + ((bits >> 16) & 1)) >> 16;
  place.x = static_cast<uint16_t>(value == value ? rounded : 0x7fc0);
}

// value · 2^exponent by adding to the exponent's bits; value and result must be normal numbers.
SHEARLING_INLINE float shift_exponent(float value, int32_t exponent) {
  uint32_t bits;
  std::memcpy(&bits, &value, sizeof bits);
  bits += static_cast<uint32_t>(exponent) << 23;
  float shifted;
  std::memcpy(&shifted, &bits, sizeof shifted);
  return shifted;
}

// e^x to 2e-7 relative; infinity above 88.73, denormal below -87.34, zero below -104; NaN stays NaN.
//
// x = n ln 2 + r with |r| <= ln 2 / 2, e^r by its Taylor series, 2^n in two steps because 2^n alone may be out of
// range. x − n ln 2 cancels, so its upper part is taken in fixed point (units of 2^-24): of integers the compiler
// keeps the order, of floats it would not.
SHEARLING_INLINE float exponential(float x) {
  const float above = x > -104.0f ? x : -104.0f;
  const float bounded = above < 89.0f ? above : 89.0f;
  // Cutting a positive number rounds down.
  const int32_t n = static_cast<int32_t>(bounded * 1.44269504f + 160.5f) - 160;
  const int32_t upper = static_cast<int32_t>(bounded * 0x1p24f) - n * 11629080;
  const float r = static_cast<float>(upper) * 0x1p-24f + static_cast<float>(n) * 1.9046543e-9f;
  float tail = 1.0f / 5040.0f;
  tail = tail * r + 1.0f / 720.0f;
  tail = tail * r + 1.0f / 120.0f;
  tail = tail * r + 1.0f / 24.0f;
  tail = tail * r + 1.0f / 6.0f;
  tail = tail * r + 0.5f;
  const float series = 1.0f + (r + r * r * tail);
  const int32_t half = n >> 1;
  const float power = shift_exponent(series, half) * shift_exponent(1.0f, n - half);
  return x == x ? power : x;
}

// 1 / (1 + e^(-x)).
SHEARLING_INLINE float sigmoid(float x) { return 1.0f / (1.0f + exponential(-x)); }

}  // namespace shearling
