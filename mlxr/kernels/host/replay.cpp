
// Recordings: a graph of host kernels, noted once and then replayed as one operation, with new inputs. Goes after lazy.cpp.
//
// A decode step is some 200 small kernels. Building their graph in Python, and scheduling them in MLX, takes as long as
// half of their work; a replay takes neither. Rows that the graph writes are written into the memory of the input they go
// to: the CPU stream computes in order, so nobody who reads it before or after can tell.
namespace {
struct Ref { enum Where { INPUT, CONSTANT, SCRATCH, OUTPUT } where; size_t index; long bytes; };   // SCRATCH: a buffer
// No kernel: WriteRows; or, where row is 0, the last of refs becomes the others, one after the other.
struct Op { const HostKernel* kernel; std::vector<Ref> refs; size_t count, row; };
struct Scratch { size_t bytes, first, last, at; };

struct Recording {
    std::vector<mx::Shape> shapes, out_shapes;
    std::vector<mx::Dtype> types, out_types;
    std::vector<mx::array> constants;
    std::vector<std::shared_ptr<mx::Primitive>> kernels;      // keeps them alive
    std::vector<long> aliases;                                 // of each output: the input whose memory it is, or -1
    std::vector<Op> ops;
    std::vector<Scratch> scratch;
    size_t bytes = 0;                                          // of all scratch

    void run(const std::vector<char*>& inputs, const std::vector<char*>& outputs) const {
        static thread_local std::vector<char> memory;
        if (memory.size() < bytes + 64) memory = {}, memory.resize(bytes + 64);      // what it holds need not be kept
        char* base = (char*)(((uintptr_t)memory.data() + 63) & ~(uintptr_t)63);
        std::vector<void*> buffers; std::vector<long> sizes;
        for (auto& op : ops) {
            buffers.clear(); sizes.clear();
            for (auto& r : op.refs) {
                buffers.push_back(r.where == Ref::INPUT      ? (void*)inputs[r.index]
                                  : r.where == Ref::CONSTANT ? (void*)constants[r.index].data<char>()
                                  : r.where == Ref::OUTPUT   ? (void*)outputs[r.index]
                                                             : (void*)(base + scratch[r.index].at));
                sizes.push_back(r.bytes);
            }
            if (!op.kernel && !op.row) {
                auto to = (char*)buffers.back();
                for (size_t i = 0; i + 1 < buffers.size(); to += sizes[i++]) memcpy(to, buffers[i], (size_t)sizes[i]);
                continue;
            }
            if (!op.kernel) {
                WriteRows::write_rows((char*)buffers[0], (int*)buffers[1], (int*)buffers[2], (char*)buffers[3], op.count, op.row);
                continue;
            }
            auto& k = *op.kernel;
            const char* error = k.launch(k.entry, buffers.data(), sizes.data(), k.grid.data(), k.shared, k.threads);
            if (*error) throw std::runtime_error(error);
        }
    }

    // Where each scratch buffer lies: first fit among those that live at the same time.
    void place() {
        for (size_t i = 0; i < scratch.size(); ++i) {
            auto& b = scratch[i];
            bool moved = true;
            while (moved) {
                moved = false;
                for (size_t j = 0; j < i; ++j) {
                    auto& o = scratch[j];
                    if (o.first <= b.last && b.first <= o.last && o.at < b.at + b.bytes && b.at < o.at + o.bytes) {
                        b.at = o.at + o.bytes;
                        moved = true;
                    }
                }
            }
            bytes = std::max(bytes, b.at + b.bytes);
        }
    }
};

struct Recorder {
    Recording& r;
    std::unordered_map<uintptr_t, Ref> known;

    Ref use(Ref ref) {                                         // by the operation that is added next
        if (ref.where == Ref::SCRATCH) r.scratch[ref.index].last = r.ops.size();
        return ref;
    }
    void visit(const mx::array& a) {
        if (known.count(a.id())) return;
        if (!a.has_primitive()) {
            if (!a.is_available() || !a.flags().row_contiguous) throw std::runtime_error("a constant is not ready");
            known.emplace(a.id(), Ref{Ref::CONSTANT, r.constants.size(), (long)a.nbytes()});
            r.constants.push_back(a);
            return;
        }
        for (auto& in : a.inputs()) visit(in);
        auto& primitive = a.primitive();
        std::string name = primitive.name();
        if (auto kernel = dynamic_cast<const HostKernel*>(&primitive)) {
            Op op{kernel, {}, 0, 0};
            for (auto& in : a.inputs()) op.refs.push_back(use(known.at(in.id())));
            for (auto& out : a.outputs()) {
                Ref ref{Ref::SCRATCH, r.scratch.size(), (long)out.nbytes()};
                r.scratch.push_back({(out.nbytes() + 63) / 64 * 64, r.ops.size(), r.ops.size(), 0});
                known.emplace(out.id(), ref);
                op.refs.push_back(ref);
            }
            r.kernels.push_back(a.primitive_ptr());
            r.ops.push_back(std::move(op));
        } else if (name == "WriteRows") {
            Op op{nullptr, {}, a.inputs()[1].size(), WriteRows::row_bytes(a.inputs())};
            for (size_t i = 0; i < 4; ++i) op.refs.push_back(use(known.at(a.inputs()[i].id())));
            if (op.refs[0].where != Ref::INPUT) throw std::runtime_error("rows are written into what is no input");
            known.emplace(a.id(), op.refs[0]);
            r.ops.push_back(std::move(op));
        } else if (name == "Concatenate") {
            auto of = [](const mx::array& b) { return (size_t)b.nbytes() / (size_t)b.shape(0); };
            Op op{nullptr, {}, 0, 0};
            size_t rows = 0;
            for (auto& in : a.inputs()) {
                op.refs.push_back(use(known.at(in.id())));
                rows += (size_t)in.shape(0);
                if (in.ndim() != a.ndim() || of(in) != of(a)) throw std::runtime_error("it joins more than rows");
            }
            if (rows != (size_t)a.shape(0)) throw std::runtime_error("it joins more than rows");
            op.refs.push_back({Ref::SCRATCH, r.scratch.size(), (long)a.nbytes()});
            r.scratch.push_back({(a.nbytes() + 63) / 64 * 64, r.ops.size(), r.ops.size(), 0});
            known.emplace(a.id(), op.refs.back());
            r.ops.push_back(std::move(op));
        } else if (name == "Reshape" || name == "Flatten" || name == "Unflatten" || name == "Squeeze" || name == "ExpandDims") {
            known.emplace(a.id(), known.at(a.inputs()[0].id()));
        } else {
            throw std::runtime_error("it has an operation " + name);
        }
    }
};

struct Replay : mx::Primitive {
    std::shared_ptr<Recording> recording;
    Replay(mx::Stream s, std::shared_ptr<Recording> r) : Primitive(s), recording(std::move(r)) {}
    void eval_cpu(const std::vector<mx::array>& in, std::vector<mx::array>& out) override {
        auto& encoder = mx::cpu::get_command_encoder(stream());
        std::vector<char*> inputs, outputs;
        for (auto& a : in) {                                   // those after the recorded ones are only to be computed before
            if (inputs.size() < recording->shapes.size() && !a.flags().row_contiguous)
                throw std::runtime_error("an input of a replay has strides");
            encoder.set_input_array(a);
            inputs.push_back((char*)a.data<char>());
        }
        for (size_t i = 0; i < out.size(); ++i) {
            if (recording->aliases[i] < 0) out[i].set_data(Spares::room(out[i].nbytes()));
            else out[i].copy_shared_buffer(in[(size_t)recording->aliases[i]]);
            encoder.set_output_array(out[i]);
            outputs.push_back(out[i].data<char>());
        }
        encoder.dispatch([recording = recording, inputs = std::move(inputs), outputs = std::move(outputs)] {
            recording->run(inputs, outputs);
        });
    }
    void eval_gpu(const std::vector<mx::array>&, std::vector<mx::array>&) override {
        throw std::runtime_error("a recording runs on the CPU");
    }
    const char* name() const override { return "Replay"; }
};
}  // namespace

extern "C" const char* mlxr_problem() { return problem.c_str(); }

// Notes how `outputs` come of `inputs`; what else they need are constants. `written`: arrays that WriteRows makes of inputs. An
// output that it made is in the input's memory.
// Null, with the reason in mlxr_problem, when the graph has other operations than host kernels, views and WriteRows.
extern "C" void* mlxr_record(PyObject* inputs, PyObject* outputs, PyObject* written) {
    try {
        auto recording = std::make_shared<Recording>();
        Recorder recorder{*recording, {}};
        size_t n = 0;
        for (auto& a : arrays(inputs)) {
            recording->shapes.push_back(a.shape());
            recording->types.push_back(a.dtype());
            recorder.known.emplace(a.id(), Ref{Ref::INPUT, n++, (long)a.nbytes()});
        }
        std::vector<long> results;
        for (auto& a : arrays(outputs)) {
            recorder.visit(a);
            auto ref = recorder.known.at(a.id());
            bool own = ref.where == Ref::SCRATCH, written = a.has_primitive() && std::string(a.primitive().name()) == "WriteRows";
            if (!own && !written) throw std::runtime_error("an output is not computed");
            recording->out_shapes.push_back(a.shape());
            recording->out_types.push_back(a.dtype());
            results.push_back(own ? (long)ref.index : -1);
            recording->aliases.push_back(own ? -1 : (long)ref.index);
        }
        for (auto& a : arrays(written)) recorder.visit(a);
        for (size_t i = 0; i < results.size(); ++i) {
            if (results[i] < 0) continue;
            for (auto& op : recording->ops)
                for (auto& ref : op.refs)
                    if (ref.where == Ref::SCRATCH && ref.index == (size_t)results[i]) ref = {Ref::OUTPUT, i, ref.bytes};
            recording->scratch[(size_t)results[i]].bytes = 0;
        }
        recording->place();
        return new std::shared_ptr<Recording>(recording);
    } catch (const std::exception& e) {
        problem = e.what();
        return nullptr;
    }
}

extern "C" void mlxr_forget(void* recording) { delete (std::shared_ptr<Recording>*)recording; }

extern "C" const char* mlxr_replay(void* handle, PyObject* inputs, PyObject* outputs) {
    try {
        auto& recording = *(std::shared_ptr<Recording>*)handle;
        auto in = arrays(inputs);
        if (in.size() < recording->shapes.size()) throw std::runtime_error("fewer inputs than were recorded");
        for (size_t i = 0; i < recording->shapes.size(); ++i)
            if (in[i].shape() != recording->shapes[i] || in[i].dtype() != recording->types[i])
                throw std::runtime_error("input " + std::to_string(i) + " has another shape or type than was recorded");
        auto made = mx::array::make_arrays(std::vector<mx::Shape>(recording->out_shapes), recording->out_types,
                                           std::make_shared<Replay>(mx::default_stream(mx::Device::cpu), recording), in);
        for (size_t i = 0; i < made.size(); ++i) *payload(PyTuple_GetItem(outputs, (ssize_t)i)) = made[i];
        return nullptr;
    } catch (const std::exception& e) {
        problem = e.what();
        return problem.c_str();
    }
}
