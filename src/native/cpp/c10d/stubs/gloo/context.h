// Stands for a header of gloo that the wheel lacks; see process_group.cpp.
#pragma once

#include <chrono>

namespace gloo {
class Context {
 public:
  void setTimeout(std::chrono::milliseconds);
};
}  // namespace gloo
