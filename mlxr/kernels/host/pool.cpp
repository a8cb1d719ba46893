// The thread pool of all host kernels: one launch at a time, its threadgroups dealt in chunks to a few threads.
// Workers spin for some tens of microseconds after a launch, in case the next one follows, then sleep.
#include <atomic>
#include <chrono>
#include <condition_variable>
#include <cstdlib>
#include <cstring>
#include <exception>
#include <mutex>
#include <thread>
#include <vector>

typedef void (*entry_t)(void* const* buffers, const long* bytes, const int* grid, int first, int last, float* memory,
                        long shared);

namespace {
struct Job { entry_t entry; void* const* buffers; const long* bytes; const int* grid; int groups, chunk; long shared; };

inline void relax() {
#if defined(__x86_64__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    asm volatile("yield");
#endif
}

struct Pool {
    std::mutex launching, guard;                    // one launch at a time; the fields below but the atomics
    std::condition_variable wake;
    std::vector<std::thread> workers;
    Job job{};
    bool open = false;                              // workers may join the job
    int sleepers = 0, allowed = 0;
    std::atomic<unsigned> epoch{0};
    std::atomic<int> next{0}, done{0}, active{0};
    std::atomic<bool> failed{false};
    char error[256] = "";

    void run(const Job& j) {
        static thread_local float* memory = nullptr;
        static thread_local long capacity = 0;
        if (capacity < j.shared) {
            free(memory);
            capacity = (j.shared + 4095) / 4096 * 4096;
            memory = (float*)aligned_alloc(4096, size_t(capacity));
        }
        for (;;) {
            int a = next.fetch_add(j.chunk);
            if (a >= j.groups) return;
            int b = a + j.chunk < j.groups ? a + j.chunk : j.groups;
            try {
                j.entry(j.buffers, j.bytes, j.grid, a, b, memory, j.shared);
            } catch (const std::exception& e) {
                if (!failed.exchange(true)) strncpy(error, e.what(), sizeof error - 1);
            }
            done.fetch_add(b - a);
        }
    }

    void work(int index) {
        unsigned seen = 0;
        for (;;) {
            auto end = std::chrono::steady_clock::now() + std::chrono::microseconds(60);
            for (int i = 0; epoch.load(std::memory_order_acquire) == seen; ++i) {
                if (i % 64 != 63 || std::chrono::steady_clock::now() < end) { relax(); continue; }
                std::unique_lock<std::mutex> l(guard);
                ++sleepers;
                wake.wait(l, [&] { return epoch.load() != seen; });
                --sleepers;
            }
            Job j;
            {
                std::lock_guard<std::mutex> l(guard);
                seen = epoch.load();
                if (!open || index >= allowed) continue;
                j = job;
                ++active;
            }
            run(j);
            --active;
        }
    }

    const char* launch(const Job& j, int threads) {
        std::lock_guard<std::mutex> one(launching);
        error[0] = 0;
        failed = false;
        if (threads <= 1 || j.groups <= j.chunk) { next = 0; run(j); return error; }
        while ((int)workers.size() < threads - 1) {
            int i = (int)workers.size();
            workers.emplace_back([this, i] { work(i); });
        }
        bool sleeping;
        {
            std::lock_guard<std::mutex> l(guard);
            job = j;
            next = 0;
            done = 0;
            open = true;
            allowed = threads - 1;
            epoch.fetch_add(1);
            sleeping = sleepers > 0;
        }
        if (sleeping) wake.notify_all();
        run(j);
        for (int i = 0; done.load(std::memory_order_acquire) < j.groups; ++i) {
            if (i < 20000)
                relax();
            else
                std::this_thread::yield();
        }
        { std::lock_guard<std::mutex> l(guard); open = false; }
        while (active.load()) relax();              // nobody may touch the counters of the next launch
        return error;
    }
};
Pool& pool = *new Pool;                             // never destroyed: workers outlive exit
}  // namespace

// Run a kernel's grid[0] * grid[1] * grid[2] threadgroups. Returns "" or what went wrong (valid until the next launch).
extern "C" const char* mlxr_launch(void* entry, void* const* buffers, const long* bytes, const int* grid, long shared,
                                   int threads) {
    int groups = grid[0] * grid[1] * grid[2];
    if (groups <= 0) return "";
    int chunk = groups / (threads * 8);
    return pool.launch(Job{(entry_t)entry, buffers, bytes, grid, groups, chunk > 1 ? chunk : 1, shared}, threads);
}
