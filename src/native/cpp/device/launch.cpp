// Which devices have kernels, and the way to the function that launches them.
#include "launch.h"

#include <array>
#include <atomic>

namespace shearling {
namespace {

// As `Launcher` in src/native/kernels/launcher.rs.
using Launcher = int (*)(const char* name, int device, int64_t blocks, int64_t parts, uint32_t threads,
                         size_t shared_bytes, int overlaps, const void* kernel, char** error);

std::atomic<Launcher> launcher{nullptr};

constexpr size_t MOST_DEVICES = 64;
std::array<std::atomic<bool>, MOST_DEVICES> compiled{};

// How this thread computes on the CPU; as `Path` in src/native/kernels/path.rs.
enum Path { OWN_KERNELS = 0, DEVICE_KERNELS = 1, COMPOSED = 2 };
thread_local int path = OWN_KERNELS;

}  // namespace

bool has_device_kernels(c10::Device device) {
  if (device.is_cpu()) return path == DEVICE_KERNELS;
  const auto index = static_cast<size_t>(device.index());
  return device.is_cuda() && index < MOST_DEVICES && compiled[index].load(std::memory_order_acquire);
}

bool has_cpu_kernels(c10::Device device) { return device.is_cpu() && path == OWN_KERNELS; }

void launch_compiled(const char* name, c10::Device device, const Geometry& geometry, bool overlaps,
                     const void* kernel) {
  const Launcher launch = launcher.load(std::memory_order_acquire);
  TORCH_CHECK(launch, "no kernels are loaded");
  char* message = nullptr;
  const int status = launch(name, device.index(), geometry.blocks, geometry.parts, geometry.threads,
                            geometry.shared_bytes, overlaps, kernel, &message);
  if (status == 0) return;
  const std::string text = message ? message : "no message";
  std::free(message);
  TORCH_CHECK(false, text);
}

}  // namespace shearling

// Kernels of `device` are there from now on (or, with `there` 0, no more), and `launch` launches them.
extern "C" void shearling_set_device_kernels(int64_t device, int there, shearling::Launcher launch) {
  if (device < 0 || static_cast<size_t>(device) >= shearling::MOST_DEVICES) return;
  if (launch) shearling::launcher.store(launch, std::memory_order_release);
  shearling::compiled[static_cast<size_t>(device)].store(there != 0, std::memory_order_release);
}

// Whether kernels of cu/ compute on the GPU `device`.
extern "C" int shearling_has_device_kernels(int64_t device) {
  return shearling::has_device_kernels(c10::Device(c10::kCUDA, static_cast<c10::DeviceIndex>(device)));
}

// How this thread computes on the CPU.
extern "C" int shearling_path() { return shearling::path; }

// How this thread computes on the CPU from now on.
extern "C" void shearling_set_path(int path) { shearling::path = path; }
