// The threads are those of the OpenMP runtime that torch has loaded: a second pool would spin against the first.
#include "parallel.h"

namespace {

using GompParallel = void (*)(void (*)(void*), void*, unsigned num_threads, unsigned flags);
GompParallel gomp_parallel = nullptr;

}  // namespace

extern "C" const char* rhapsode_sources() { return RHAPSODE_SOURCES; }

extern "C" void rhapsode_use_threads(void* address) { gomp_parallel = reinterpret_cast<GompParallel>(address); }

void rhapsode::run_on_threads(Region region, void* data, bool on_all) {
    if (on_all && gomp_parallel) {
        gomp_parallel(region, data, 0, 0);  // 0: as many as torch set for the calling thread
    } else {
        region(data);
    }
}
