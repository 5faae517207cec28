// Where libtorch gets a tensor's memory on a CPU: from `malloc`, not from `posix_memalign`. Why: native/allocator.rs.
#include "shim.h"

#include <c10/core/Allocator.h>
#include <c10/core/CPUAllocator.h>

#include <atomic>
#include <cstdint>
#include <cstdlib>

namespace {

// Whether this thread's tensors are counted, and the bytes of those that were and are alive.
thread_local bool counting = false;
std::atomic<int64_t> counted_bytes{0};

// Of a cache line and of the widest vectors, as libtorch's own allocator aligns.
constexpr size_t kAlignment = 64;

// Before the data: the block's own address, and its bytes where they were counted.
struct Header {
  uintptr_t counted;
  void* block;
};

void release(void* data) {
  if (data == nullptr) return;
  const Header header = static_cast<Header*>(data)[-1];
  if (header.counted != 0) counted_bytes.fetch_sub(static_cast<int64_t>(header.counted));
  std::free(header.block);
}

// Asks for room to align in. `malloc` gives at least 16 bytes of alignment, so a header always fits before the data.
class MallocAllocator final : public c10::Allocator {
 public:
  c10::DataPtr allocate(size_t bytes) override {
    const auto cpu = c10::Device(c10::DeviceType::CPU);
    if (bytes == 0) return {nullptr, nullptr, &release, cpu};
    void* block = bytes <= SIZE_MAX - kAlignment ? std::malloc(bytes + kAlignment) : nullptr;
    TORCH_CHECK_WITH(OutOfMemoryError, block != nullptr, "not enough memory: ", bytes, " bytes for a tensor");
    const auto address = (reinterpret_cast<uintptr_t>(block) + kAlignment) / kAlignment * kAlignment;
    auto* data = reinterpret_cast<Header*>(address);
    data[-1] = {counting ? bytes : 0, block};
    if (counting) counted_bytes.fetch_add(static_cast<int64_t>(bytes));
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

// Counts the bytes of tensors that this thread makes from now on, or of no more.
extern "C" void shearling_count_tensor_bytes(int on) { counting = on != 0; }

// Bytes of counted tensors that are alive.
extern "C" int64_t shearling_counted_tensor_bytes() { return counted_bytes.load(); }
