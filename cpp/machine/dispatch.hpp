// What the processor decides: which kernel table runs, of those compiled and those this machine can run, and when results go
// past its caches.
#pragma once
#include <string>
#include <vector>

#include "kernels/kernels.hpp"

namespace fusednorm {

// The best table of this machine, or the one that FUSEDNORM_ISA names. Throws std::runtime_error when that one is
// unknown or cannot run here; the first call is the module's import.
const Kernels& kernels();

// Whether an operation's results go past the caches, which would not hold them until they are read. bytes: of all that it reads
// and writes.
bool is_streamed(int64_t bytes);

std::vector<std::string> compiled_isas();
std::vector<std::string> available_isas();

}  // namespace fusednorm
