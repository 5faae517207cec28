// Launching kernels of cu/: on a GPU as NVRTC compiled them, or (for tests) on the CPU as this compiler did.
//
// Rust compiles and loads (src/native/kernels/) and gives a function that launches by name; here is which tensors have
// kernels at all, the geometry of a launch, and the choice of dtype and pack.
#pragma once

#include "../parallel.h"
#include "../shim.h"
#include "host_team.h"

#include <ATen/ops/empty.h>
#include <c10/core/Device.h>

#include <algorithm>
#include <initializer_list>
#include <type_traits>

namespace shearling {

// Whether kernels of cu/ compute on this device: a GPU for which they were compiled, or the CPU where this thread wants
// to compute as a GPU with kernels does.
bool has_device_kernels(c10::Device device);

// Whether the CPU's own kernels compute there.
bool has_cpu_kernels(c10::Device device);

// Hands a kernel, whose bytes are its one argument, to the driver; one that `overlaps` may start while the launches before it
// end.
void launch_compiled(const char* name, c10::Device device, const Geometry& geometry, bool overlaps, const void* kernel);

// Counts a launch where launches are counted (operator_count.cpp).
void note_launch(const char* name);

// Runs `kernel` where `on` is.
template <class Kernel>
void launch(const Tensor& on, const Geometry& geometry, const Kernel& kernel) {
  static_assert(std::is_trivially_copyable_v<Kernel>, "arguments of a kernel are copied as bytes");
  static_assert(sizeof(Kernel) <= 4096, "arguments of a kernel are at most 4 KB");
  if (geometry.blocks == 0 || geometry.parts == 0) return;
  note_launch(cu::EntryName<Kernel>::value);
  if (on.is_cuda()) {
    launch_compiled(cu::EntryName<Kernel>::value, on.device(), geometry, cu::Overlap<Kernel>::value, &kernel);
  } else {
    run_on_host(geometry, Kernel::MEETS, [&](HostTeam& team) { kernel(team); });
  }
}

// A tensor's numbers as a kernel takes them; null for an undefined one.
template <class T>
T* numbers(const Tensor& tensor) {
  return tensor.defined() ? static_cast<T*>(tensor.data_ptr()) : nullptr;
}

// Whether rows of `columns` numbers of T that begin at these places can be moved 16 bytes at a time.
inline bool in_packs(int64_t columns, size_t element, std::initializer_list<const void*> places) {
  if (columns * element % 16 != 0) return false;
  return std::all_of(places.begin(), places.end(),
                     [](const void* place) { return reinterpret_cast<uintptr_t>(place) % 16 == 0; });
}

// `body(T(), width)` with the number's type in kernels and how many of them a thread moves at once.
template <class Body>
void by_pack(at::ScalarType kind, bool packs, Body&& body) {
  using std::integral_constant;
  switch (kind) {
    case at::kFloat:
      return packs ? body(float(), integral_constant<int, 4>()) : body(float(), integral_constant<int, 1>());
    case at::kBFloat16:
      return packs ? body(cu::Bf16(), integral_constant<int, 8>()) : body(cu::Bf16(), integral_constant<int, 1>());
    default:
      TORCH_CHECK(false, "no kernel for ", kind);
  }
}

// The same with a second dtype, which is the first or fp32.
template <class Body>
void by_pack_of_two(at::ScalarType kind, at::ScalarType second, bool packs, Body&& body) {
  by_pack(kind, packs, [&](auto number, auto width) {
    using T = decltype(number);
    if (second == at::kFloat) return body(number, float(), width);
    TORCH_CHECK(second == kind, "no kernel for ", kind, " with ", second);
    body(number, T(), width);
  });
}

// Memory that a block may have on every GPU with kernels.
constexpr int64_t MOST_SHARED_BYTES = 96 << 10;

// Threads for a row of `columns` numbers, `width` at a time: whole warps.
inline uint32_t row_threads(int64_t columns, int64_t width, int64_t most = 256) {
  return static_cast<uint32_t>(std::min(most, divup(divup(columns, width), 32) * 32));
}

// Rows in at most `most` parts of at least `least`: a number that does not depend on the GPU, as sums over parts do.
inline cu::Rows row_parts(int64_t rows, int64_t least, int64_t most) {
  return {rows, std::max(least, divup(rows, most))};
}

inline int64_t part_count(const cu::Rows& rows) { return divup(rows.count, rows.each); }

// Room for a sum per part: `[parts, columns]` in fp32.
inline Tensor part_sums(const cu::Rows& rows, int64_t columns, const Tensor& like) {
  return at::empty({part_count(rows), columns}, like.options().dtype(at::kFloat));
}

// Parts in order, the same bits every time; undefined where there are none.
inline Tensor add_part_sums(const Tensor& sums) { return sums.defined() ? sums.sum(0) : Tensor(); }

// Threads that own `width` columns each and go down the rows of a part.
inline Geometry column_geometry(int64_t columns, int64_t width, const cu::Rows& rows) {
  const uint32_t threads = row_threads(columns, width, 128);
  return {divup(columns, threads * width), part_count(rows), threads, 0};
}

}  // namespace shearling
