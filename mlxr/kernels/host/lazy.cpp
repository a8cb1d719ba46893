// Host kernels as lazy MLX operations: one generic primitive, built against the installed mlx's headers.
//
// A Python mlx array is a nanobind object that holds its C++ array in place. This file finds it through nanobind's
// object header (offset, flags) instead of linking nanobind, whose version would have to match mlx's to the digit.
// A child process tries this once after the build; where it fails, kernels are called eagerly instead.
#include <mlx/array.h>
#include <mlx/allocator.h>
#include <mlx/backend/cpu/encoder.h>
#include <mlx/primitives.h>
#include <cstring>
#include <functional>
#include <mutex>
#include <tuple>
#include <unordered_map>

namespace mx = mlx::core;
typedef struct _object PyObject;                    // a few functions of Python's stable ABI
extern "C" PyObject* PyTuple_GetItem(PyObject*, ssize_t);
extern "C" ssize_t PyTuple_Size(PyObject*);
extern "C" long PyLong_AsLong(PyObject*);
typedef const char* (*launch_t)(void*, void* const*, const long*, const int*, long, int);

namespace {
struct Header { void* refcount; void* type; int32_t offset; uint32_t state : 2, direct : 1; };

mx::array* payload(PyObject* o) {
    auto h = (Header*)o;
    if (h->offset < 16 || h->offset > 64 || h->state != 2)
        throw std::runtime_error("not an mlx array of a known layout");
    char* p = (char*)o + h->offset;
    return (mx::array*)(h->direct ? p : *(char**)p);
}

// Copies a strided array into row-contiguous memory.
template <class T>
void gather(const T* from, T* to, const mx::Shape& shape, const mx::Strides& strides, size_t axis = 0) {
    if (axis == shape.size()) { *to = *from; return; }
    size_t inner = 1;
    for (size_t i = axis + 1; i < shape.size(); ++i) inner *= size_t(shape[i]);
    for (int i = 0; i < shape[axis]; ++i)
        gather(from + i * strides[axis], to + size_t(i) * inner, shape, strides, axis + 1);
}
void gather(const char* from, char* to, size_t item, const mx::Shape& shape, const mx::Strides& strides) {
    if (item == 1) gather((const uint8_t*)from, (uint8_t*)to, shape, strides);
    else if (item == 2) gather((const uint16_t*)from, (uint16_t*)to, shape, strides);
    else if (item == 4) gather((const uint32_t*)from, (uint32_t*)to, shape, strides);
    else gather((const uint64_t*)from, (uint64_t*)to, shape, strides);
}

// Large buffers that are free again, for the next arrays of about their size: MLX gives what a CPU's arrays free back to the
// system, which clears each page of the next one anew. What is kept is `most` bytes at most, the oldest goes first.
struct Spares {
    std::mutex mutex;
    std::vector<std::pair<size_t, mx::allocator::Buffer>> kept;
    size_t bytes = 0, most = 0;
    static constexpr size_t LARGE = 256 << 10;
    static Spares& all() { static auto* spares = new Spares; return *spares; }     // arrays may outlive what is static
    static mx::allocator::Data room(size_t bytes) {
        if (bytes < LARGE) return mx::allocator::malloc(bytes);
        return all().take(bytes);
    }
    mx::allocator::Data take(size_t wanted) {
        size_t room = wanted;
        mx::allocator::Buffer buffer{nullptr};
        {
            std::lock_guard<std::mutex> lock(mutex);
            size_t best = kept.size();
            for (size_t i = 0; i < kept.size(); ++i)
                if (kept[i].first >= wanted && kept[i].first <= wanted + wanted / 4 && (best == kept.size() || kept[i].first < kept[best].first))
                    best = i;
            if (best < kept.size()) {
                std::tie(room, buffer) = kept[best];
                bytes -= room;
                kept.erase(kept.begin() + (long)best);
            }
        }
        if (!buffer.ptr()) buffer = mx::allocator::allocator().malloc(wanted);
        return mx::allocator::Data(buffer, [this, room](mx::allocator::Buffer b) { put(room, b); });
    }
    void put(size_t size, mx::allocator::Buffer buffer) {
        std::lock_guard<std::mutex> lock(mutex);
        kept.push_back({size, buffer});
        bytes += size;
        trim();
    }
    void trim() {
        while (bytes > most) {
            bytes -= kept.front().first;
            mx::allocator::allocator().free(kept.front().second);
            kept.erase(kept.begin());
        }
    }
};

struct Strided { size_t index, item; mx::Shape shape; mx::Strides strides; };

struct HostKernel : mx::Primitive {
    launch_t launch; void* entry; std::vector<int> grid; long shared; int threads;
    HostKernel(mx::Stream s, launch_t l, void* e, std::vector<int> g, long sh, int t)
        : Primitive(s), launch(l), entry(e), grid(std::move(g)), shared(sh), threads(t) {}
    void eval_cpu(const std::vector<mx::array>& in, std::vector<mx::array>& out) override {
        auto& encoder = mx::cpu::get_command_encoder(stream());
        std::vector<void*> buffers; std::vector<long> bytes; std::vector<Strided> copies;
        for (auto& a : in) {
            encoder.set_input_array(a);
            if (!a.flags().row_contiguous && a.size())
                copies.push_back({buffers.size(), a.itemsize(), a.shape(), a.strides()});
            buffers.push_back((void*)a.data<char>());
            bytes.push_back((long)a.nbytes());
        }
        for (auto& a : out) {
            a.set_data(Spares::room(a.nbytes()));
            encoder.set_output_array(a);
            buffers.push_back((void*)a.data<char>());
            bytes.push_back((long)a.nbytes());
        }
        encoder.dispatch([buffers = std::move(buffers), bytes = std::move(bytes), copies = std::move(copies),
                          grid = grid, launch = launch, entry = entry, shared = shared, threads = threads]() mutable {
            std::vector<std::vector<uint64_t>> dense;
            for (auto& c : copies) {
                dense.emplace_back((size_t)bytes[c.index] / 8 + 1);
                gather((const char*)buffers[c.index], (char*)dense.back().data(), c.item, c.shape, c.strides);
                buffers[c.index] = dense.back().data();
            }
            const char* error = launch(entry, buffers.data(), bytes.data(), grid.data(), shared, threads);
            if (*error) throw std::runtime_error(error);
        });
    }
    void eval_gpu(const std::vector<mx::array>&, std::vector<mx::array>&) override {
        throw std::runtime_error("a host kernel runs on the CPU");
    }
    bool is_equivalent(const Primitive& other) const override {
        auto& o = static_cast<const HostKernel&>(other);
        return entry == o.entry && grid == o.grid && shared == o.shared && threads == o.threads;
    }
    std::vector<mx::Shape> output_shapes(const std::vector<mx::array>&) override {
        throw std::runtime_error("a host kernel has fixed shapes");
    }
    const char* name() const override { return "HostKernel"; }
};

// `into` with rows[i] replaced by from[source[i]], in into's own memory where nothing else holds it, or where `always`.
// inputs: into, rows, source, from, and what must be computed before.
struct WriteRows : mx::Primitive {
    bool always;
    WriteRows(mx::Stream s, bool a) : Primitive(s), always(a) {}
    void eval_cpu(const std::vector<mx::array>& in, std::vector<mx::array>& out) override {
        for (size_t i = 0; i < 3; ++i)
            if (!in[i].flags().row_contiguous) throw std::runtime_error("rows are written into an array with strides");
        bool own = always || in[0].is_donatable();
        if (own) out[0].copy_shared_buffer(in[0]);
        else out[0].set_data(mx::allocator::malloc(out[0].nbytes()));
        auto& encoder = mx::cpu::get_command_encoder(stream());
        for (auto& a : in) encoder.set_input_array(a);
        encoder.set_output_array(out[0]);
        std::vector<Strided> copies;
        if (!in[3].flags().row_contiguous) copies.push_back({0, in[3].itemsize(), in[3].shape(), in[3].strides()});
        encoder.dispatch([own, old = in[0].data<char>(), all = in[0].nbytes(), into = out[0].data<char>(), rows = in[1].data<int>(),
                          source = in[2].data<int>(), from = in[3].data<char>(), bytes = in[3].nbytes(), count = in[1].size(),
                          row = row_bytes(in), copies = std::move(copies)] {
            std::vector<uint64_t> dense;
            auto values = from;
            for (auto& c : copies) {
                dense.resize(bytes / 8 + 1);
                gather(from, (char*)dense.data(), c.item, c.shape, c.strides);
                values = (char*)dense.data();
            }
            if (!own) memcpy(into, old, all);
            write_rows(into, rows, source, values, count, row);
        });
    }
    static size_t row_bytes(const std::vector<mx::array>& in) { return in[0].nbytes() / (size_t)in[0].shape(0); }
    static void write_rows(char* into, const int* rows, const int* source, const char* from, size_t count, size_t row) {
        for (size_t i = 0; i < count; ++i) memcpy(into + size_t(rows[i]) * row, from + size_t(source[i]) * row, row);
    }
    void eval_gpu(const std::vector<mx::array>&, std::vector<mx::array>&) override {
        throw std::runtime_error("rows are written on the CPU");
    }
    bool is_equivalent(const Primitive& other) const override { return always == static_cast<const WriteRows&>(other).always; }
    const char* name() const override { return "WriteRows"; }
};

const mx::Dtype DTYPES[] = {mx::float32, mx::float16, mx::bfloat16, mx::uint32, mx::int32,
                            mx::uint16,  mx::int16,   mx::uint8,    mx::int8};
thread_local std::string problem;

std::vector<mx::array> arrays(PyObject* tuple) {
    std::vector<mx::array> found;
    for (ssize_t i = 0, n = PyTuple_Size(tuple); i < n; ++i) found.push_back(*payload(PyTuple_GetItem(tuple, i)));
    return found;
}
}  // namespace

// numbers: threads, shared bytes, grid x y z, ints..., then for each output: dtype, ndim, shape...
// Puts the lazy results into the arrays of `outputs`. Returns null or what went wrong.
extern "C" const char* mlxr_node(launch_t launch, void* entry, int ints, PyObject* inputs, PyObject* outputs,
                                 PyObject* numbers) {
    try {
        auto in = arrays(inputs);
        ssize_t at = 0;
        auto number = [&] { return PyLong_AsLong(PyTuple_GetItem(numbers, at++)); };
        int threads = (int)number();
        long shared = number();
        std::vector<int> grid;
        for (int i = 0; i < 3 + ints; ++i) grid.push_back((int)number());
        std::vector<mx::Shape> shapes; std::vector<mx::Dtype> dtypes;
        ssize_t m = PyTuple_Size(outputs);
        for (ssize_t i = 0; i < m; ++i) {
            dtypes.push_back(DTYPES[number()]);
            mx::Shape s;
            for (long d = number(); d > 0; --d) s.push_back((int)number());
            shapes.push_back(std::move(s));
        }
        auto stream = mx::default_stream(mx::Device::cpu);
        auto made = mx::array::make_arrays(
            std::move(shapes), dtypes,
            std::make_shared<HostKernel>(stream, launch, entry, std::move(grid), shared, threads), in);
        for (ssize_t i = 0; i < m; ++i) *payload(PyTuple_GetItem(outputs, i)) = made[(size_t)i];
        return nullptr;
    } catch (const std::exception& e) {
        problem = e.what();
        return problem.c_str();
    }
}

// inputs: into [R, ...], rows int32 [U], source int32 [U], from [T, ...] of into's type, and what must be computed before.
extern "C" const char* mlxr_write_rows(PyObject* inputs, PyObject* outputs, int always) {
    try {
        auto in = arrays(inputs);
        auto shape = in[0].shape();
        auto type = in[0].dtype();
        auto stream = mx::default_stream(mx::Device::cpu);
        *payload(PyTuple_GetItem(outputs, 0)) = mx::array(shape, type, std::make_shared<WriteRows>(stream, always != 0), std::move(in));
        return nullptr;
    } catch (const std::exception& e) {
        problem = e.what();
        return problem.c_str();
    }
}

// From now on so many bytes of large buffers that kernels' outputs had are kept for the next ones.
extern "C" void mlxr_keep(long most) {
    auto& spares = Spares::all();
    std::lock_guard<std::mutex> lock(spares.mutex);
    spares.most = (size_t)most;
    spares.trim();
}

// Whether `o` holds an array of this many elements, at address `data` once evaluated.
extern "C" int mlxr_holds(PyObject* o, long size, void* data) {
    try {
        auto a = payload(o);
        return a->size() == (size_t)size && a->is_available() && (void*)a->data<char>() == data;
    } catch (const std::exception&) {
        return 0;
    }
}
