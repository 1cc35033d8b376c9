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
// and writes. sooner: of fewer bytes; by a single thread, or where two thirds of them are read.
bool is_streamed(int64_t bytes, bool sooner);

// How many bytes of an operation's arrays a thread takes at once, where it reads before it writes: the longer the runs, the
// less the memory turns from one to the other. Runs of half a second-level cache, of 1 MiB, instead of an eighth, Zen 5: layer
// norm (4096,1024) 1.07 times as fast, (16384,4096) 1.07 to 1.14, (512,768) 1.08, instance norm (64,64,64,64) 1.06.
int64_t run_bytes();

std::vector<std::string> compiled_isas();
std::vector<std::string> available_isas();

}  // namespace fusednorm
