// Where libtorch gets a tensor's memory on a CPU: from `malloc`, not from `posix_memalign`. Why: native/allocator.rs.
#include "shim.h"

#include <c10/core/Allocator.h>
#include <c10/core/CPUAllocator.h>

#include <cstdint>
#include <cstdlib>

namespace {

// Of a cache line and of the widest vectors, as libtorch's own allocator aligns.
constexpr size_t kAlignment = 64;

void release(void* data) {
  if (data != nullptr) std::free(static_cast<void**>(data)[-1]);
}

// Asks for room to align in, and keeps the block's own address before the data. `malloc` gives at least 16 bytes of
// alignment, so an address always fits there.
class MallocAllocator final : public c10::Allocator {
 public:
  c10::DataPtr allocate(size_t bytes) override {
    const auto cpu = c10::Device(c10::DeviceType::CPU);
    if (bytes == 0) return {nullptr, nullptr, &release, cpu};
    void* block = bytes <= SIZE_MAX - kAlignment ? std::malloc(bytes + kAlignment) : nullptr;
    TORCH_CHECK_WITH(OutOfMemoryError, block != nullptr, "not enough memory: ", bytes, " bytes for a tensor");
    const auto address = (reinterpret_cast<uintptr_t>(block) + kAlignment) / kAlignment * kAlignment;
    auto* data = reinterpret_cast<void**>(address);
    data[-1] = block;
    return {data, data, &release, cpu};
  }

  c10::DeleterFnPtr raw_deleter() const override { return &release; }

  void copy_data(void* target, const void* source, size_t bytes) const override {
    default_copy_data(target, source, bytes);
  }
};

}  // namespace

// libtorch keeps the pointer, and tensors may outlive every static: it is never destroyed.
extern "C" int shearling_tensors_from_malloc(char** error) {
  return shearling::guarded(error, [] {
    static auto* allocator = new MallocAllocator;
    c10::SetCPUAllocator(allocator, /*priority=*/1);
  });
}
