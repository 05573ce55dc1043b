// What every kernel needs: torch's threads, and code for the best instructions that the machine has.
#pragma once

#include <atomic>
#include <cstdint>

// Before a function whose loops are hot: it is compiled several times and the machine chooses when the library loads.
// What it calls must be inlined into it (INLINE), or it stays what any machine of this kind understands.
#if defined(__x86_64__) && defined(__gnu_linux__) && defined(__GNUC__) && !defined(__clang__) && \
    __GNUC__ >= 12 && !defined(RHAPSODE_PORTABLE)
#define HAS_CLONES
#define CLONES __attribute__((target_clones("arch=x86-64-v4", "arch=x86-64-v3", "default")))
#else
#define CLONES
#endif
#define INLINE inline __attribute__((always_inline))
#define INLINE_LAMBDA __attribute__((always_inline))

namespace rhapsode {

using Region = void (*)(void*);

// Runs the region once on each of torch's threads (one: in the caller alone), and returns when all are done.
void run_on_threads(Region region, void* data, bool on_all);

// body(take) once on each thread; take() gives that thread the number of the next task that nobody has.
template <class Body>
void share_tasks(bool on_all, const Body& body) {
    struct Shared {
        const Body& body;
        std::atomic<int64_t> next;
    } shared{body, {0}};
    run_on_threads(
        [](void* data) {
            auto& all = *static_cast<Shared*>(data);
            all.body([&all] { return all.next.fetch_add(1, std::memory_order_relaxed); });
        },
        &shared, on_all);
}

// body(task) for every task in [0, num_tasks), each on one thread; a thread that is done takes the next task.
template <class Body>
void for_each_task(int64_t num_tasks, bool on_all, const Body& body) {
    share_tasks(on_all && num_tasks > 1, [&](const auto& take) {
        for (int64_t task; (task = take()) < num_tasks;) body(task);
    });
}

// body(task, next) as above, with the task that the same thread takes next, or its own where there is none.
template <class Body>
void for_each_task_knowing_next(int64_t num_tasks, bool on_all, const Body& body) {
    share_tasks(on_all && num_tasks > 1, [&](const auto& take) {
        for (int64_t task = take(), next; task < num_tasks; task = next) {
            next = take();
            body(task, next < num_tasks ? next : task);
        }
    });
}

}  // namespace rhapsode
