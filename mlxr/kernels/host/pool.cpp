// The thread pool of all host kernels: one launch at a time, its threadgroups dealt to a few threads, a range to each.
// Who is done takes chunks from the end of the others' ranges. So threadgroups that follow each other run on one core, and
// what a kernel prefetches for the next one is where it is wanted. Workers spin for some tens of microseconds after a
// launch, in case the next one follows, then sleep.
#include <atomic>
#include <chrono>
#include <condition_variable>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <exception>
#include <mutex>
#include <thread>
#include <vector>

typedef void (*entry_t)(void* const* buffers, const long* bytes, const int* grid, int first, int last, float* memory,
                        long shared);

namespace {
struct Job { entry_t entry; void* const* buffers; const long* bytes; const int* grid; int groups, chunk, threads; long shared; };

inline void relax() {
#if defined(__x86_64__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    asm volatile("yield");
#endif
}

constexpr int MOST = 256;                           // threads of a launch

// Threadgroups that nobody has begun: first in the lower half, end in the upper. A cache line each.
struct alignas(64) Range {
    std::atomic<uint64_t> both{0};

    void set(int first, int end) { both = uint64_t(uint32_t(end)) << 32 | uint32_t(first); }
    int left() const { uint64_t r = both; return int(r >> 32) - int(uint32_t(r)); }
    // Up to `chunk` of them, from the front or from the end; false where there are none.
    bool take(int chunk, bool front, int& a, int& b) {
        for (uint64_t r = both;;) {
            int first = int(uint32_t(r)), end = int(r >> 32);
            if (first >= end) return false;
            if (chunk > end - first) chunk = end - first;
            a = front ? first : end - chunk;
            b = a + chunk;
            uint64_t rest = front ? r + uint64_t(chunk) : r - (uint64_t(chunk) << 32);
            if (both.compare_exchange_weak(r, rest)) return true;
        }
    }
};

struct Pool {
    std::mutex launching, guard;                    // one launch at a time; the fields below but the atomics
    std::condition_variable wake;
    std::vector<std::thread> workers;
    Job job{};
    bool open = false;                              // workers may join the job
    int sleepers = 0, allowed = 0;
    std::atomic<unsigned> epoch{0};
    std::atomic<int> done{0}, active{0};
    std::vector<Range> ranges = std::vector<Range>(MOST);
    std::atomic<bool> failed{false};
    char error[256] = "";

    // The next threadgroups of thread `self`: its own, then those of who has most left.
    bool take(const Job& j, int self, int& a, int& b) {
        if (ranges[self].take(j.chunk, true, a, b)) return true;
        for (;;) {
            int most = 0, whose = -1;
            for (int i = 0; i < j.threads; ++i)
                if (int left = ranges[i].left(); left > most) { most = left; whose = i; }
            if (whose < 0) return false;
            if (ranges[whose].take(most > 2 * j.chunk ? j.chunk : 1, false, a, b)) return true;
        }
    }

    void run(const Job& j, int self) {
        static thread_local float* memory = nullptr;
        static thread_local long capacity = 0;
        if (capacity < j.shared) {
            free(memory);
            capacity = (j.shared + 4095) / 4096 * 4096;
            memory = (float*)aligned_alloc(4096, size_t(capacity));
        }
        int finished = 0;
        for (int a, b; take(j, self, a, b); finished += b - a) {
            try {
                j.entry(j.buffers, j.bytes, j.grid, a, b, memory, j.shared);
            } catch (const std::exception& e) {
                if (!failed.exchange(true)) strncpy(error, e.what(), sizeof error - 1);
            }
        }
        done.fetch_add(finished);
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
            run(j, index + 1);
            --active;
        }
    }

    const char* launch(const Job& j, int threads) {
        std::lock_guard<std::mutex> one(launching);
        error[0] = 0;
        failed = false;
        if (threads <= 1) { ranges[0].set(0, j.groups); run(j, 0); return error; }
        while ((int)workers.size() < threads - 1) {
            int i = (int)workers.size();
            workers.emplace_back([this, i] { work(i); });
        }
        bool sleeping;
        {
            std::lock_guard<std::mutex> l(guard);
            job = j;
            for (int i = 0; i < threads; ++i)
                ranges[i].set(int(long(j.groups) * i / threads), int(long(j.groups) * (i + 1) / threads));
            done = 0;
            open = true;
            allowed = threads - 1;
            epoch.fetch_add(1);
            sleeping = sleepers > 0;
        }
        if (sleeping) wake.notify_all();
        run(j, 0);
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
    if (threads > MOST) threads = MOST;
    if (threads > groups) threads = groups;
    int chunk = groups / (threads * 8);
    return pool.launch(Job{(entry_t)entry, buffers, bytes, grid, groups, chunk > 1 ? chunk : 1, threads, shared}, threads);
}
