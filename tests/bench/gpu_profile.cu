/*
 * gpu_profile.cu - see gpu_profile.h.
 */
extern "C" {
#include "model/core/log.h"
#include "tests/bench/gpu_profile.h"
}
#include <cuda_runtime.h>

#include <algorithm>
#include <map>
#include <stdio.h>
#include <string.h>
#include <string>
#include <type_traits>
#include <vector>

extern cudaStream_t pc_cuda_stream; // model/ops/cuda/device.cuh

#define FORWARD_ID(name, args)  ID_##name##_forward,
#define BACKWARD_ID(name, args) ID_##name##_backward,
#define TRAIN_ID(name, args)    ID_##name,
enum id { PC_OP_LIST(FORWARD_ID, BACKWARD_ID, TRAIN_ID) IDS };
#define FORWARD_NAME(name, args)  #name "_forward",
#define BACKWARD_NAME(name, args) #name "_backward",
#define TRAIN_NAME(name, args)    #name,
static const char *const names[] = {PC_OP_LIST(FORWARD_NAME, BACKWARD_NAME, TRAIN_NAME)};

struct call {
    int id, shape; // shape: its number in `shapes`
    double flops, bytes, began, ended;
};

static bool on_device, recording, inside;
static int watching; // operations that may still be named
static std::vector<call> calls;
static std::vector<cudaEvent_t> events; // two a call
static std::vector<std::string> shapes;
static std::map<std::string, int> shape_numbers;
static pc_arena dry_act, dry_scratch;
static pc_ctx dry;

static void stop_on(cudaError_t e)
{
    if (e == cudaSuccess) return;
    fprintf(stderr, "profile: %s\n", cudaGetErrorString(e));
    exit(1);
}

// What an argument adds to a call's bytes and to the name of its shape.
struct look {
    double bytes = 0;
    std::string text;
    int shown = 0;
    void at(const pc_tensor &x)
    {
        if (!x.data) return;
        bytes += (double)pc_dtype_bytes(x.dtype, pc_numel(x));
        if (x.rank < 2 || shown++ >= 4) return;
        for (int i = 0; i < x.rank; i++) text += (i ? "x" : shown > 1 ? " " : "") + std::to_string(x.dim[i]);
    }
    template <class T> void at(const T &) {}
};

// ---- numbers that are not finite -----------------------------------------------------------------

// Its rows on the host, whichever memory they are in.
static std::vector<unsigned char> rows_of(const pc_tensor &x, int64_t rows, int64_t row)
{
    const size_t size = pc_dtype_size(x.dtype), width = (size_t)row * size;
    std::vector<unsigned char> host(width * (size_t)rows);
    const size_t pitch = rows > 1 ? (size_t)x.stride * size : width;
    if (on_device) {
        stop_on(cudaStreamSynchronize(pc_cuda_stream));
        stop_on(cudaMemcpy2D(host.data(), width, x.data, pitch, width, (size_t)rows, cudaMemcpyDefault));
    } else {
        for (int64_t r = 0; r < rows; r++)
            memcpy(host.data() + (size_t)r * width, (const char *)x.data + (size_t)r * pitch, width);
    }
    return host;
}

static bool finite_at(const unsigned char *p, pc_dtype t)
{
    uint64_t bits = 0;
    memcpy(&bits, p, pc_dtype_size(t));
    if (t == PC_BF16) return (bits & 0x7f80) != 0x7f80;
    if (t == PC_F32) return (bits & 0x7f800000) != 0x7f800000;
    return (bits & 0x7ff0000000000000) != 0x7ff0000000000000;
}

struct watch {
    int id, argument = 0;
    bool named = false;
    void at(const pc_tensor &x)
    {
        argument++;
        if (!x.data || named || (x.dtype != PC_BF16 && x.dtype != PC_F32 && x.dtype != PC_F64)) return;
        const int64_t row = x.rank < 2 ? pc_numel(x) : pc_row_len(x), rows = row ? pc_numel(x) / row : 0;
        if (rows == 0) return;
        const std::vector<unsigned char> host = rows_of(x, rows, row);
        const size_t size = pc_dtype_size(x.dtype);
        int64_t bad = 0, first = -1;
        for (int64_t i = 0; i < rows * row; i++)
            if (!finite_at(host.data() + (size_t)i * size, x.dtype)) {
                if (bad++ == 0) first = i;
            }
        if (!bad) return;
        named = true;
        char shape[64];
        fprintf(stderr, "%s: tensor %d, %s %s: %lld of %lld not finite, first at row %lld column %lld\n", names[id], argument,
                pc_dtype_name(x.dtype), pc_shape_text(x, shape, sizeof shape), (long long)bad, (long long)(rows * row),
                (long long)(first / row), (long long)(first % row));
    }
    template <class T> void at(const T &) {}
};

static void mark(call &c, bool end)
{
    if (on_device) {
        const size_t i = 2 * (size_t)(&c - calls.data()) + end;
        while (events.size() <= i) {
            cudaEvent_t e;
            stop_on(cudaEventCreate(&e));
            events.push_back(e);
        }
        stop_on(cudaEventRecord(events[i], pc_cuda_stream));
    } else {
        (end ? c.ended : c.began) = pc_seconds();
    }
}

template <int id, class F> struct timed;
template <int id, class... A> struct timed<id, void (*)(pc_ctx *, A...)> {
    static inline void (*real)(pc_ctx *, A...);
    static inline void (*count)(pc_ctx *, A...);
    static void run(pc_ctx *ctx, A... a)
    {
        if ((!recording && !watching) || inside) { // one operation made of others is one
            real(ctx, a...);
            return;
        }
        if (watching) {
            inside = true;
            real(ctx, a...);
            inside = false;
            watch w{id};
            (w.at(a), ...);
            watching -= w.named;
            return;
        }
        look l;
        (l.at(a), ...);
        dry.flops = 0;
        // The optimiser's lists lie on the device, and have no products.
        if constexpr (!(std::is_same_v<A, const pc_piece *> || ...)) count(&dry, a...);
        const auto found = shape_numbers.emplace(l.text, (int)shapes.size());
        if (found.second) shapes.push_back(l.text);
        calls.push_back(call{id, found.first->second, dry.flops, l.bytes, 0, 0});
        inside = true;
        mark(calls.back(), false);
        real(ctx, a...);
        mark(calls.back(), true);
        inside = false;
    }
};

#define NO_SLOT(name, args)
#define WRAP(table, slot)                                                                          \
    {                                                                                              \
        typedef timed<ID_##slot, decltype(table.slot)> T;                                          \
        T::real = ctx->table->slot;                                                                \
        T::count = dry.table->slot;                                                                \
        table.slot = T::run;                                                                       \
    }
#define WRAP_FORWARD(name, args)  WRAP(ops, name##_forward)
#define WRAP_BACKWARD(name, args) WRAP(grad_ops, name##_backward)
#define WRAP_TRAIN(name, args)    WRAP(grad_ops, name)

extern "C" void profile_wrap(pc_ctx *ctx, bool device)
{
    static pc_ops ops;
    static pc_grad_ops grad_ops;
    static bool wrapped;
    if (!wrapped) {
        wrapped = true;
        on_device = device;
        pc_arena_open_dry(&dry_act, "profile");
        pc_arena_open_dry(&dry_scratch, "profile");
        dry = *ctx;
        dry.ops = pc_dry_ops();
        dry.grad_ops = pc_dry_grad_ops();
        dry.act = &dry_act;
        dry.scratch = &dry_scratch;
        PC_OP_LIST(WRAP_FORWARD, NO_SLOT, NO_SLOT)
        PC_OP_LIST(NO_SLOT, WRAP_BACKWARD, WRAP_TRAIN)
    }
    ctx->ops = &ops;
    ctx->grad_ops = &grad_ops;
}

extern "C" void profile_watch(int most)
{
    watching = most;
}

extern "C" void profile_start(void)
{
    calls.clear();
    calls.reserve(1 << 20); // marks hold references
    recording = true;
}

struct sum {
    std::string name;
    double seconds = 0, flops = 0, bytes = 0;
    int64_t calls = 0;
    void add(double s, const call &c)
    {
        seconds += s;
        flops += c.flops;
        bytes += c.bytes;
        this->calls++;
    }
};

static void print_sums(const std::map<std::string, sum> &sums, int most, int64_t steps, double whole)
{
    std::vector<sum> list;
    for (const auto &s : sums) list.push_back(s.second);
    std::sort(list.begin(), list.end(), [](const sum &a, const sum &b) { return a.seconds > b.seconds; });
    const double n = (double)steps;
    for (int i = 0; i < (int)list.size() && i < most; i++) {
        const sum &s = list[(size_t)i];
        char rate[32] = "";
        if (s.flops > 0) snprintf(rate, sizeof rate, "%8.1f TFLOP/s", 1e-12 * s.flops / s.seconds);
        printf("  %9.3f ms %5.1f %% %6.0f calls %8.0f GB/s %16s  %s\n", 1e3 * s.seconds / n, 100 * s.seconds / whole,
               (double)s.calls / n, 1e-9 * s.bytes / s.seconds, rate, s.name.c_str());
    }
}

extern "C" void profile_print(int64_t steps, double seconds, int most, double learned)
{
    std::map<std::string, sum> by_name, by_shape;
    double all = 0;
    recording = false;
    for (size_t i = 0; i < calls.size(); i++) {
        call &c = calls[i];
        double s = c.ended - c.began;
        if (on_device) {
            float ms;
            stop_on(cudaEventElapsedTime(&ms, events[2 * i], events[2 * i + 1]));
            s = 1e-3 * ms;
        }
        if (c.id == ID_linear_xent_forward || c.id == ID_linear_xent_backward) c.flops *= learned;
        const std::string name = names[c.id], shape = name + " " + shapes[(size_t)c.shape];
        by_name[name].name = name;
        by_name[name].add(s, c);
        by_shape[shape].name = shape;
        by_shape[shape].add(s, c);
        all += s;
    }
    printf("by operation, a step of %.2f ms:\n", 1e3 * seconds / (double)steps);
    print_sums(by_name, IDS, steps, seconds);
    printf("  %9.3f ms %5.1f %% between operations and outside them\n", 1e3 * (seconds - all) / (double)steps,
           100 * (seconds - all) / seconds);
    printf("by shape:\n");
    print_sums(by_shape, most, steps, seconds);
}
