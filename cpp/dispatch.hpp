// Which kernel table runs: the list of those compiled, those this machine can run, and the one in use.
#pragma once
#include <string>
#include <vector>

#include "kernels/kernels.hpp"

namespace fusednorm {

// The best table of this machine, or the one that FUSEDNORM_ISA names. Throws std::runtime_error when that one is
// unknown or cannot run here; the first call is the module's import.
const Kernels& kernels();

std::vector<std::string> compiled_isas();
std::vector<std::string> available_isas();

}  // namespace fusednorm
