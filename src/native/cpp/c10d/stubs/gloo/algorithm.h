// Stands for a header of gloo that the wheel lacks; see process_group.cpp.
#pragma once
