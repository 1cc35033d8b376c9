// The cache of freed large results. See memory.hpp.
#include "memory.hpp"

#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <charconv>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <mutex>
#include <new>
#include <stdexcept>
#include <string>
#include <vector>

namespace fusednorm {
namespace {

constexpr size_t kHugePage = size_t{2} << 20, kGranule = size_t{64} << 10;
// From here on a block is whole huge pages, which the system may be told to take back when it needs them. Smaller blocks stay:
// kMaxBlocks of them at most.
constexpr size_t kHugeBytes = size_t{8} << 20;
constexpr size_t kMaxBlocks = 8;
// It is told (MADV_FREE) of what was freed so many bytes ago: telling costs 0.01 ms for 1 MB where other threads' processors
// have to forget the pages, a tenth to a half of the call that takes the block next.
constexpr size_t kWarmBytes = size_t{128} << 20;

struct Block {
    void* memory;
    size_t bytes;
    bool offered;  // to the system
};

size_t find_limit() {
    const char* text = std::getenv("FUSEDNORM_CACHE_BYTES");
    if (text && *text) {
        size_t bytes = 0;
        const auto [end, error] = std::from_chars(text, text + std::strlen(text), bytes);
        if (error != std::errc() || *end != 0)
            throw std::runtime_error("FUSEDNORM_CACHE_BYTES: expected a number of bytes, got '" + std::string(text) + "'");
        return bytes;
    }
    const double memory = static_cast<double>(sysconf(_SC_PHYS_PAGES)) * static_cast<double>(sysconf(_SC_PAGESIZE));
    return static_cast<size_t>(std::min(memory / 8, 1073741824.0));
}

struct Cache {
    std::mutex mutex;
    std::vector<Block> blocks;  // oldest first
    size_t bytes = 0;
    Cache() { blocks.reserve(kMaxBlocks + 1); }  // give_memory may not fail
};

// Never destroyed: results may outlive every static object.
Cache& cache() {
    static Cache* one = new Cache;
    return *one;
}

size_t granule(size_t bytes) { return bytes >= kHugeBytes ? kHugePage : kGranule; }
size_t rounded(size_t bytes) { return (bytes + granule(bytes) - 1) / granule(bytes) * granule(bytes); }

// The system may take the pages of all but the latest blocks.
void offer_older(std::vector<Block>& blocks) noexcept {
    size_t newer = 0;
    for (auto block = blocks.rbegin(); block != blocks.rend(); ++block) {
        newer += block->bytes;
        if (newer <= kWarmBytes || block->offered || granule(block->bytes) != kHugePage) continue;
#ifdef MADV_FREE
        madvise(block->memory, block->bytes, MADV_FREE);
#endif
        block->offered = true;
    }
}

// Aligned to the granule, so that the kernel may use huge pages where they are whole.
void* map(size_t bytes) {
    const size_t unit = granule(bytes);
    const auto ask = [&] { return mmap(nullptr, bytes + unit, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0); };
    void* raw = ask();
    if (raw == MAP_FAILED && empty_cache()) raw = ask();
    if (raw == MAP_FAILED) throw std::bad_alloc();
    const auto begin = reinterpret_cast<uintptr_t>(raw), aligned = (begin + unit - 1) / unit * unit;
    const uintptr_t end = begin + bytes + unit;
    if (aligned > begin) munmap(raw, aligned - begin);
    if (end > aligned + bytes) munmap(reinterpret_cast<void*>(aligned + bytes), end - aligned - bytes);
    void* memory = reinterpret_cast<void*>(aligned);
#ifdef MADV_HUGEPAGE
    if (unit == kHugePage) madvise(memory, bytes, MADV_HUGEPAGE);
#endif
    return memory;
}

}  // namespace

size_t cache_limit() {
    static const size_t limit = find_limit();
    return limit;
}

bool empty_cache() noexcept {
    Cache& c = cache();
    const std::lock_guard<std::mutex> lock(c.mutex);
    const bool found = !c.blocks.empty();
    for (const Block& block : c.blocks) munmap(block.memory, block.bytes);
    c.blocks.clear();
    c.bytes = 0;
    return found;
}

void* take_memory(size_t bytes) {
    bytes = rounded(bytes);
    Cache& c = cache();
    {
        const std::lock_guard<std::mutex> lock(c.mutex);
        const auto found = std::find_if(c.blocks.rbegin(), c.blocks.rend(), [&](const Block& b) { return b.bytes == bytes; });
        if (found != c.blocks.rend()) {
            void* memory = found->memory;
            c.blocks.erase(std::next(found).base());
            c.bytes -= bytes;
            return memory;
        }
    }
    return map(bytes);
}

void give_memory(void* memory, size_t bytes) noexcept {
    bytes = rounded(bytes);
    Cache& c = cache();
    if (bytes <= cache_limit()) {
        const std::lock_guard<std::mutex> lock(c.mutex);
        c.blocks.push_back({memory, bytes, false});
        c.bytes += bytes;
        while (c.bytes > cache_limit() || c.blocks.size() > kMaxBlocks) {
            const Block oldest = c.blocks.front();
            c.blocks.erase(c.blocks.begin());
            c.bytes -= oldest.bytes;
            munmap(oldest.memory, oldest.bytes);
        }
        offer_older(c.blocks);
        return;
    }
    munmap(memory, bytes);
}

}  // namespace fusednorm
