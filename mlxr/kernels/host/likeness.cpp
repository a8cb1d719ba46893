
// Likeness: how one part of a graph comes of another by other constants, so that parts of later graphs need not be built in
// Python: a model's blocks are alike but for their weights. Goes after replay.cpp.
namespace {
struct Likeness {
    std::vector<mx::array> held;                               // keeps the ids valid
    std::unordered_map<uintptr_t, mx::array> constants;        // id in the one part -> in the other
};
typedef std::unordered_map<uintptr_t, mx::array> Arrays;

Arrays paired(const std::vector<mx::array>& a, const std::vector<mx::array>& b) {
    if (a.size() != b.size()) throw std::runtime_error("there are not as many arrays in both parts");
    Arrays found;
    for (size_t i = 0; i < a.size(); ++i) found.insert_or_assign(a[i].id(), b[i]);
    return found;
}

// Walks two parts side by side, from their outputs to their inputs, which `seen` pairs to begin with.
// given: what changes from graph to graph.
void compare(Likeness& like, const mx::array& a, const mx::array& b, Arrays& seen, const Arrays& given) {
    auto found = seen.find(a.id());
    if (found != seen.end()) {
        if (found->second.id() != b.id()) throw std::runtime_error("they are put together in another way");
        return;
    }
    if (a.shape() != b.shape() || a.dtype() != b.dtype() || a.has_primitive() != b.has_primitive())
        throw std::runtime_error("an array has another shape or type");
    if (!a.has_primitive()) {
        if (given.count(b.id())) throw std::runtime_error("a constant stands for what is none");
        auto [at, is_new] = like.constants.insert({a.id(), b});
        if (!is_new && at->second.id() != b.id()) throw std::runtime_error("a constant stands for two");
        if (is_new) like.held.push_back(a);
        return;
    }
    auto &p = a.primitive(), &q = b.primitive();
    if (std::string(p.name()) != q.name() || !p.is_equivalent(q) || a.inputs().size() != b.inputs().size())
        throw std::runtime_error("an operation is another one");
    for (size_t i = 0; i < a.inputs().size(); ++i) compare(like, a.inputs()[i], b.inputs()[i], seen, given);
    auto of_a = a.outputs(), of_b = b.outputs();
    if (of_a.size() != of_b.size()) throw std::runtime_error("an operation is another one");
    for (size_t i = 0; i < of_a.size(); ++i) seen.insert_or_assign(of_a[i].id(), of_b[i]);
    if (seen.at(a.id()).id() != b.id()) throw std::runtime_error("they are put together in another way");
}

const mx::array& clone(const Likeness& like, const mx::array& a, Arrays& known) {
    auto found = known.find(a.id());
    if (found != known.end()) return found->second;
    if (!a.has_primitive()) {
        auto constant = like.constants.find(a.id());
        if (constant == like.constants.end()) throw std::runtime_error("a constant is new");
        return constant->second;
    }
    std::vector<mx::array> inputs;
    for (auto& in : a.inputs()) inputs.push_back(clone(like, in, known));
    auto outputs = a.outputs();
    std::vector<mx::Shape> shapes; std::vector<mx::Dtype> types;
    for (auto& out : outputs) { shapes.push_back(out.shape()); types.push_back(out.dtype()); }
    auto made = mx::array::make_arrays(std::move(shapes), types, a.primitive_ptr(), inputs);
    for (size_t i = 0; i < made.size(); ++i) known.insert_or_assign(outputs[i].id(), made[i]);
    return known.at(a.id());
}
}  // namespace

// How the part of a graph from inputs `b` to `b_outputs` comes of the part from `a` to `a_outputs`, lazy all of them; shared:
// arrays that are the same in both, now and later. old: a likeness of the same two parts of another graph, which is extended, or
// null. Null, with the reason in mlxr_problem, where they do not have the same operations.
extern "C" void* mlxr_alike(void* old, PyObject* a, PyObject* a_outputs, PyObject* b, PyObject* b_outputs, PyObject* shared) {
    try {
        auto like = old ? *(Likeness*)old : Likeness{};
        auto seen = paired(arrays(a), arrays(b)), given = paired(arrays(b), arrays(b));
        for (auto& s : arrays(shared)) seen.insert_or_assign(s.id(), s), given.insert_or_assign(s.id(), s);
        auto from = arrays(a_outputs), to = arrays(b_outputs);
        if (from.size() != to.size()) throw std::runtime_error("there are not as many outputs");
        for (size_t i = 0; i < from.size(); ++i) compare(like, from[i], to[i], seen, given);
        return new Likeness(std::move(like));
    } catch (const std::exception& e) {
        problem = e.what();
        return nullptr;
    }
}

// Puts what `a_outputs`, which come of `a`, are for inputs `b` into the arrays of `outputs`.
extern "C" const char* mlxr_clone(void* like, PyObject* a, PyObject* a_outputs, PyObject* b, PyObject* shared, PyObject* outputs) {
    try {
        auto known = paired(arrays(a), arrays(b));
        for (auto& s : arrays(shared)) known.insert_or_assign(s.id(), s);
        auto from = arrays(a_outputs);
        for (size_t i = 0; i < from.size(); ++i)
            *payload(PyTuple_GetItem(outputs, (ssize_t)i)) = clone(*(Likeness*)like, from[i], known);
        return nullptr;
    } catch (const std::exception& e) {
        problem = e.what();
        return problem.c_str();
    }
}

extern "C" void mlxr_unlike(void* like) { delete (Likeness*)like; }
