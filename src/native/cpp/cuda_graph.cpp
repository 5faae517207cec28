// A CUDA graph: what the GPU is given to do while it is recorded, launched again as one. libtorch has it (at::cuda::CUDAGraph,
// with a memory pool of its own for what was recorded), behind a header that wants CUDA's. Its functions are found by name
// in libtorch's CUDA half instead, which the program has loaded; libtorch's version is fixed, so the names are too.
#include "shim.h"

#include <c10/core/impl/VirtualGuardImpl.h>
#include <dlfcn.h>

#include <cstddef>
#include <optional>
#include <utility>

namespace shearling {
namespace {

using PoolId = std::pair<unsigned long long, unsigned long long>;

// The members of libtorch 2.11.0's class take 104 bytes: several of them would fit.
constexpr size_t ROOM = 512;
// cudaStreamCaptureModeThreadLocal: what other threads do meanwhile is theirs.
constexpr int THIS_THREAD = 1;

// C++ functions of a class as plain ones, as they are called on every system that libtorch has CUDA for.
struct Functions {
  void (*construct)(void*, bool);
  void (*destroy)(void*);
  void (*begin)(void*, PoolId, int);
  void (*end)(void*);
  void (*replay)(void*);
};

template <class F>
void find(F& function, const char* name) {
  function = reinterpret_cast<F>(dlsym(RTLD_DEFAULT, name));
  TORCH_CHECK(function, "this libtorch has no CUDA graphs (", name, ")");
}

const Functions& functions() {
  static const Functions all = [] {
    Functions found{};
    find(found.construct, "_ZN2at4cuda9CUDAGraphC1Eb");
    find(found.destroy, "_ZN2at4cuda9CUDAGraphD1Ev");
    find(found.begin, "_ZN2at4cuda9CUDAGraph13capture_beginESt4pairIyyE21cudaStreamCaptureMode");
    find(found.end, "_ZN2at4cuda9CUDAGraph11capture_endEv");
    find(found.replay, "_ZN2at4cuda9CUDAGraph6replayEv");
    return found;
  }();
  return all;
}

class Graph {
 public:
  // Records what this thread gives the device from here on. The default stream cannot be recorded: another one takes its
  // place meanwhile.
  explicit Graph(c10::Device device) : guard(device.type()) {
    functions().construct(room, false);
    try {
      guard.synchronizeDevice(device.index());
      before = guard.exchangeStream(guard.getStreamFromGlobalPool(device));
      functions().begin(room, PoolId{0, 0}, THIS_THREAD);
      recording = true;
    } catch (...) {
      leave();
      functions().destroy(room);
      throw;
    }
  }

  Graph(const Graph&) = delete;
  Graph& operator=(const Graph&) = delete;

  ~Graph() {
    try {
      if (recording) end();
    } catch (...) {
      // It is thrown away.
    }
    leave();
    functions().destroy(room);
  }

  void end() {
    recording = false;
    functions().end(room);
    leave();
  }

  void replay() { functions().replay(room); }

 private:
  void leave() {
    if (before) guard.exchangeStream(*before);
    before.reset();
  }

  c10::impl::VirtualGuardImpl guard;
  std::optional<c10::Stream> before;
  bool recording = false;
  alignas(std::max_align_t) unsigned char room[ROOM];
};

}  // namespace
}  // namespace shearling

extern "C" int shearling_cuda_graph_begin(int64_t device, void** out, char** error) {
  return shearling::guarded(error, [&] {
    *out = new shearling::Graph(c10::Device(c10::kCUDA, static_cast<c10::DeviceIndex>(device)));
  });
}

extern "C" int shearling_cuda_graph_end(void* graph, char** error) {
  return shearling::guarded(error, [&] { static_cast<shearling::Graph*>(graph)->end(); });
}

extern "C" int shearling_cuda_graph_replay(void* graph, char** error) {
  return shearling::guarded(error, [&] { static_cast<shearling::Graph*>(graph)->replay(); });
}

extern "C" void shearling_cuda_graph_free(void* graph) { delete static_cast<shearling::Graph*>(graph); }
