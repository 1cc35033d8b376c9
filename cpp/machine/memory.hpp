// Memory of large results. Fresh pages cost more than the kernel that fills them, so freed ones are kept, within a bound,
// for the next result of that size; the system may take the pages of large ones back that were not used for a while.
#pragma once
#include <cstddef>

namespace fusednorm {

constexpr size_t kLargeBytes = size_t{1} << 20;  // smaller results are the general allocator's

// Bytes of freed blocks that are kept: FUSEDNORM_CACHE_BYTES (0: none), or an eighth of the machine's memory but at most 1 GiB.
// Throws std::runtime_error where that variable is no number; the first call is the module's import.
size_t cache_limit();
// At least `bytes` of memory, not initialized. Throws std::bad_alloc.
void* take_memory(size_t bytes);
// Gives the freed blocks to the system: memory lacks. Whether there were any.
bool empty_cache() noexcept;
// Gives back what take_memory(bytes) returned.
void give_memory(void* memory, size_t bytes) noexcept;

}  // namespace fusednorm
