// Stands for a header of gloo that the wheel lacks; see process_group.cpp.
#pragma once

namespace gloo {
namespace transport {
class Device;
class UnboundBuffer;
}  // namespace transport
}  // namespace gloo
