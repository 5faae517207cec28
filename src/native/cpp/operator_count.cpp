// Counts what a thread launches: libtorch's operators that call no other, products and attention whatever they call, and
// kernels of cu/. On a GPU each of them is a launch or more, so that the count tells where there is no GPU what there would
// be too much of.
#include "device/launch.h"
#include "shim.h"

#include <ATen/record_function.h>

#include <map>
#include <memory>
#include <sstream>
#include <string>
#include <vector>

namespace shearling {
namespace {

// Operators whose parts on a CPU are not those on a GPU: counted as one.
bool is_whole(const std::string& name) {
  for (const char* whole : {"aten::mm", "aten::addmm", "aten::addmm_", "aten::bmm", "aten::baddbmm", "aten::mv",
                            "aten::addmv", "aten::linear", "aten::matmul", "aten::scaled_dot_product_attention",
                            "aten::_scaled_dot_product_flash_attention_for_cpu_backward"}) {
    if (name == whole) return true;
  }
  return false;
}

struct Count {
  std::map<std::string, int64_t> launches;
  // How many operators are running inside one that is counted as a whole, with itself.
  int inside_whole = 0;
  // Whether the operators that are running have called none yet.
  std::vector<bool> leaves;
  at::CallbackHandle handle = at::INVALID_CALLBACK_HANDLE;
};

thread_local std::unique_ptr<Count> counting;

std::unique_ptr<at::ObserverContext> begin(const at::RecordFunction& function) {
  if (!counting) return nullptr;
  if (counting->inside_whole > 0 || is_whole(function.name())) {
    ++counting->inside_whole;
  } else {
    if (!counting->leaves.empty()) counting->leaves.back() = false;
    counting->leaves.push_back(true);
  }
  return nullptr;
}

void end(const at::RecordFunction& function, at::ObserverContext*) {
  if (!counting) return;
  if (counting->inside_whole > 0) {
    if (--counting->inside_whole == 0) {
      if (!counting->leaves.empty()) counting->leaves.back() = false;
      ++counting->launches[function.name()];
    }
    return;
  }
  if (counting->leaves.empty()) return;
  if (counting->leaves.back()) ++counting->launches[function.name()];
  counting->leaves.pop_back();
}

}  // namespace

void note_launch(const char* name) {
  if (!counting) return;
  if (!counting->leaves.empty()) counting->leaves.back() = false;
  ++counting->launches[std::string("kernel::") + name];
}

}  // namespace shearling

// Begins to count on this thread.
extern "C" int shearling_begin_operator_count(char** error) {
  using namespace shearling;
  return guarded(error, [] {
    TORCH_CHECK(!counting, "operators of this thread are being counted already");
    counting = std::make_unique<Count>();
    counting->handle = at::addThreadLocalCallback(
        at::RecordFunctionCallback(&begin, &end).scopes({at::RecordScope::FUNCTION}));
  });
}

// Ends it. `out` receives a line "name count" per operator, which the caller frees with `free`.
extern "C" int shearling_end_operator_count(char** out, char** error) {
  using namespace shearling;
  return guarded(error, [&] {
    TORCH_CHECK(counting, "operators of this thread are not being counted");
    at::removeCallback(counting->handle);
    std::ostringstream lines;
    for (const auto& [name, count] : counting->launches) lines << name << ' ' << count << '\n';
    counting.reset();
    *out = strdup(lines.str().c_str());
  });
}
