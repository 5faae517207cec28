// What the kernels of this folder are written in, so that the same source is compiled by NVRTC for a GPU and by a C++
// compiler for the tests: numbers in memory, packs of them, and the team of threads that works on a part of the job.
//
// A kernel is a struct with its arguments as fields and `operator()(Team&)`, what one thread does. It asks the team which
// thread of which block it is, and meets the other threads of its block in `sum`, `max` and `sync`. Arithmetic is fp32
// whatever is in memory. No header of CUDA is needed.
#pragma once

#ifndef __CUDACC_RTC__
#include <cmath>
#include <cstdint>
#include <cstring>
#define SHEARLING_DEVICE inline
#else
#define SHEARLING_DEVICE __device__ __forceinline__
#endif

namespace shearling {
namespace cu {

#ifdef __CUDACC_RTC__
using i64 = long long;
using u32 = unsigned int;
using u16 = unsigned short;
using u8 = unsigned char;
using i16 = short;
using i8 = signed char;
#else
using i64 = int64_t;
using u32 = uint32_t;
using u16 = uint16_t;
using u8 = uint8_t;
using i16 = int16_t;
using i8 = int8_t;
#endif

// Threads of a block, at most; the compiler shares out registers by it.
constexpr u32 MOST_THREADS = 512;

// A bf16 number as it lies in memory.
struct Bf16 {
  u16 bits;
};

// The bits of an fp32 number.
SHEARLING_DEVICE u32 bits_of(float value) {
#ifdef __CUDACC_RTC__
  return __float_as_uint(value);
#else
  u32 bits;
  std::memcpy(&bits, &value, sizeof bits);
  return bits;
#endif
}

// The fp32 number with these bits.
SHEARLING_DEVICE float number_of(u32 bits) {
#ifdef __CUDACC_RTC__
  return __uint_as_float(bits);
#else
  float value;
  std::memcpy(&value, &bits, sizeof value);
  return value;
#endif
}

SHEARLING_DEVICE float widen(float value) { return value; }

SHEARLING_DEVICE float widen(Bf16 value) { return number_of(static_cast<u32>(value.bits) << 16); }

SHEARLING_DEVICE void narrow(float value, float& place) { place = value; }

// Rounds to nearest, ties to even; NaN stays NaN.
SHEARLING_DEVICE void narrow(float value, Bf16& place) {
#ifdef __CUDACC_RTC__
  asm("cvt.rn.bf16.f32 %0, %1;" : "=h"(place.bits) : "f"(value));
#else
  const u32 bits = bits_of(value);
  const u32 rounded = (bits + 0x7fff + ((bits >> 16) & 1)) >> 16;
  place.bits = static_cast<u16>(value == value ? rounded : 0x7fc0);
#endif
}

SHEARLING_DEVICE float exponential(float x) {
#ifdef __CUDACC_RTC__
  return expf(x);
#else
  return std::exp(x);
#endif
}

SHEARLING_DEVICE float logarithm(float x) {
#ifdef __CUDACC_RTC__
  return logf(x);
#else
  return std::log(x);
#endif
}

SHEARLING_DEVICE float square_root(float x) {
#ifdef __CUDACC_RTC__
  return sqrtf(x);
#else
  return std::sqrt(x);
#endif
}

SHEARLING_DEVICE float sigmoid(float x) { return 1.0f / (1.0f + exponential(-x)); }

SHEARLING_DEVICE float larger(float a, float b) { return a > b ? a : b; }

// Below every finite number.
SHEARLING_DEVICE float lowest() {
#ifdef __CUDACC_RTC__
  return __int_as_float(static_cast<int>(0xff800000u));
#else
  return -INFINITY;
#endif
}

// W numbers that lie together, moved by as few instructions as they allow: 16 bytes at a time.
template <class T, int W>
struct alignas(W * sizeof(T) < 16 ? W * sizeof(T) : 16) Pack {
  T at[W];
};

// Asks for the memory of a place to be near when it is read. It is not read: what is written there meanwhile is seen.
SHEARLING_DEVICE void prefetch(const void* place) {
#ifdef __CUDACC_RTC__
  asm volatile("prefetch.global.L2 [%0];" ::"l"(place));
#else
  static_cast<void>(place);
#endif
}

// W numbers in registers.
template <int W>
struct Wide {
  float at[W];
};

template <int W, class T>
SHEARLING_DEVICE Pack<T, W> load_pack(const T* from) {
  return *reinterpret_cast<const Pack<T, W>*>(from);
}

template <int W, class T>
SHEARLING_DEVICE void store_pack(T* to, const Pack<T, W>& pack) {
  *reinterpret_cast<Pack<T, W>*>(to) = pack;
}

template <int W, class T>
SHEARLING_DEVICE Wide<W> load(const T* from) {
  const Pack<T, W> pack = load_pack<W>(from);
  Wide<W> wide;
  for (int k = 0; k < W; ++k) wide.at[k] = widen(pack.at[k]);
  return wide;
}

// The same, or W times `otherwise` where there is nothing to read.
template <int W, class T>
SHEARLING_DEVICE Wide<W> load_or(const T* from, i64 offset, float otherwise) {
  if (from) return load<W>(from + offset);
  Wide<W> wide;
  for (int k = 0; k < W; ++k) wide.at[k] = otherwise;
  return wide;
}

template <int W, class T>
SHEARLING_DEVICE void store(T* to, const Wide<W>& wide) {
  Pack<T, W> pack;
  for (int k = 0; k < W; ++k) narrow(wide.at[k], pack.at[k]);
  store_pack<W>(to, pack);
}

// `body(j)` for the packs of a row that begin at column j and are this thread's.
template <int W, class Team, class Body>
SHEARLING_DEVICE void for_packs(Team& team, i64 columns, const Body& body) {
  for (i64 j = static_cast<i64>(team.thread()) * W; j < columns; j += static_cast<i64>(team.threads()) * W) body(j);
}

// Rows that are shared out in parts of `each`, the last one shorter.
struct Rows {
  i64 count;
  i64 each;

  SHEARLING_DEVICE i64 begin(i64 part) const { return part * each; }
  SHEARLING_DEVICE i64 end(i64 part) const {
    const i64 stop = (part + 1) * each;
    return stop < count ? stop : count;
  }
};

template <class>
using Void = void;

// Whether a kernel says that it OVERLAPS with the launches before it.
template <class Kernel, class = void>
struct Overlap {
  static constexpr bool value = false;
};

template <class Kernel>
struct Overlap<Kernel, Void<decltype(Kernel::OVERLAPS)>> {
  static constexpr bool value = Kernel::OVERLAPS;
};

#ifdef __CUDACC_RTC__

// The threads of one block on a GPU.
struct Team {
  SHEARLING_DEVICE u32 thread() const { return threadIdx.x; }
  SHEARLING_DEVICE u32 threads() const { return blockDim.x; }
  SHEARLING_DEVICE i64 block() const { return blockIdx.x; }
  SHEARLING_DEVICE i64 blocks() const { return gridDim.x; }
  SHEARLING_DEVICE i64 part() const { return blockIdx.y; }
  SHEARLING_DEVICE void sync() { __syncthreads(); }

  // What earlier launches wrote is there from here on. A kernel that OVERLAPS may start before they have ended: it asks for
  // this before it reads or writes anything, and can prefetch before.
  SHEARLING_DEVICE void wait_for_earlier() {
#if __CUDA_ARCH__ >= 900
    asm volatile("griddepcontrol.wait;" ::: "memory");
#endif
  }

  // The next launch may start as soon as all blocks of this one have, if its kernel OVERLAPS.
  SHEARLING_DEVICE void let_next_start() {
#if __CUDA_ARCH__ >= 900
    asm volatile("griddepcontrol.launch_dependents;");
#endif
  }

  // Memory of the block, as large as the launch says.
  SHEARLING_DEVICE float* shared() {
    extern __shared__ __align__(16) float memory[];
    return memory;
  }

  // Every thread's value, combined in one order, for every thread.
  SHEARLING_DEVICE float sum(float value) {
    return meet(value, 0.0f, [](float a, float b) { return a + b; });
  }
  SHEARLING_DEVICE float max(float value) {
    return meet(value, lowest(), [](float a, float b) { return larger(a, b); });
  }

  // The sum over a warp, the 32 threads from a multiple of 32 on; all warps of the block ask for theirs.
  SHEARLING_DEVICE float warp_sum(float value) {
    return within_warp(value, [](float a, float b) { return a + b; });
  }

 private:
  template <class Combine>
  SHEARLING_DEVICE float within_warp(float value, const Combine& combine) {
    for (int distance = 16; distance > 0; distance /= 2) {
      value = combine(value, __shfl_xor_sync(0xffffffffu, value, distance));
    }
    return value;
  }

  template <class Combine>
  SHEARLING_DEVICE float meet(float value, float neutral, const Combine& combine) {
    __shared__ float of_warps[32];
    const u32 lane = threadIdx.x % 32, warp = threadIdx.x / 32, warps = blockDim.x / 32;
    value = within_warp(value, combine);
    if (warps == 1) return value;
    __syncthreads();  // whoever still reads the last meeting's values
    if (lane == 0) of_warps[warp] = value;
    __syncthreads();
    return within_warp(lane < warps ? of_warps[lane] : neutral, combine);
  }
};

// Threads of a block, and how many blocks a multiprocessor has at once at least (0: as the compiler likes), which bounds the
// registers of a thread: what the kernel says as THREADS and RESIDENT, if it does.
template <class Kernel, class = void>
struct Bounds {
  static constexpr u32 threads = MOST_THREADS, resident = 0;
};

template <class Kernel>
struct Bounds<Kernel, Void<decltype(Kernel::RESIDENT)>> {
  static constexpr u32 threads = Kernel::THREADS, resident = Kernel::RESIDENT;
};

#define SHEARLING_ENTRY(name, ...)                                                              \
  extern "C" __global__ void __launch_bounds__(shearling::cu::Bounds<__VA_ARGS__>::threads,     \
                                               shearling::cu::Bounds<__VA_ARGS__>::resident)    \
      name(const __VA_ARGS__ kernel) {                                                          \
    shearling::cu::Team team;                                                                   \
    if (shearling::cu::Overlap<__VA_ARGS__>::value) team.let_next_start();                      \
    kernel(team);                                                                               \
  }

#else

// The name under which a kernel is compiled.
template <class Kernel>
struct EntryName;

#define SHEARLING_ENTRY(name, ...)                  \
  template <>                                       \
  struct shearling::cu::EntryName<__VA_ARGS__> {    \
    static constexpr const char* value = #name;     \
  };

#endif

}  // namespace cu
}  // namespace shearling

// A kernel of one number in memory, for one number and for 16 bytes at a time.
#define SHEARLING_ENTRIES(name, Kernel)                             \
  SHEARLING_ENTRY(name##_f32, Kernel<float, 1>)                     \
  SHEARLING_ENTRY(name##_f32_x4, Kernel<float, 4>)                  \
  SHEARLING_ENTRY(name##_bf16, Kernel<shearling::cu::Bf16, 1>)      \
  SHEARLING_ENTRY(name##_bf16_x8, Kernel<shearling::cu::Bf16, 8>)

// A kernel of two: activations, and a weight or a buffer that may be wider.
#define SHEARLING_ENTRIES_OF_TWO(name, Kernel)                                            \
  SHEARLING_ENTRY(name##_f32, Kernel<float, float, 1>)                                    \
  SHEARLING_ENTRY(name##_f32_x4, Kernel<float, float, 4>)                                 \
  SHEARLING_ENTRY(name##_bf16, Kernel<shearling::cu::Bf16, shearling::cu::Bf16, 1>)       \
  SHEARLING_ENTRY(name##_bf16_x8, Kernel<shearling::cu::Bf16, shearling::cu::Bf16, 8>)    \
  SHEARLING_ENTRY(name##_bf16_f32, Kernel<shearling::cu::Bf16, float, 1>)                 \
  SHEARLING_ENTRY(name##_bf16_f32_x8, Kernel<shearling::cu::Bf16, float, 8>)
