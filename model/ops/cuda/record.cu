/*
 * record.cu - work told once and done many times: a CUDA graph of what was put into the stream; by the caller's wish, or
 * because the same call has come before.
 *
 * While a graph is being made nothing runs, so nothing may be waited for, grown or read: a kernel whose launch depends on
 * numbers of the host's declines (pc_cuda_decline), and then there is no graph.
 */
#include "model/ops/cuda/device.cuh"

#include <stdlib.h>
#include <string.h>

static bool recording, declined, recorded;

static bool graphs_wanted(void)
{
    static int wanted = -1;
    const char *text = wanted < 0 ? getenv("PERCEPT_GPU_GRAPH") : NULL;
    if (wanted < 0) wanted = !(text && !strcmp(text, "0"));
    return wanted;
}

bool pc_cuda_recording(void)
{
    return recording;
}

bool pc_cuda_recorded_any(void)
{
    return recorded;
}

void pc_cuda_decline(void)
{
    declined = true;
}

bool pc_cuda_record(void)
{
    PC_ASSERT(!recording, "a recording within a recording%s", "");
    if (!graphs_wanted()) return false;
    declined = false;
    CHECK_CUDA(cudaStreamBeginCapture(pc_cuda_stream, cudaStreamCaptureModeRelaxed));
    recording = true;
    return true;
}

void *pc_cuda_recorded(void)
{
    cudaGraph_t graph = NULL;
    cudaGraphExec_t out = NULL;
    recording = false;
    CHECK_CUDA(cudaStreamEndCapture(pc_cuda_stream, &graph));
    if (!declined) CHECK_CUDA(cudaGraphInstantiate(&out, graph, 0));
    CHECK_CUDA(cudaGraphDestroy(graph));
    recorded = recorded || out;
    return out;
}

void pc_cuda_replay(void *graph)
{
    CHECK_CUDA(cudaGraphLaunch((cudaGraphExec_t)graph, pc_cuda_stream));
}

void pc_cuda_forget(void *graph)
{
    if (!graph) return;
    CHECK_CUDA(cudaStreamSynchronize(pc_cuda_stream));
    CHECK_CUDA(cudaGraphExecDestroy((cudaGraphExec_t)graph));
}

// ---- calls that come again ---------------------------------------------------------------------------

enum { REPEATS = 128 };
typedef struct repeat {
    pc_cuda_call call;
    cudaGraphExec_t graph; // none: told once so far, or cannot be recorded
    bool refused;
} repeat;

static repeat repeats[REPEATS];
static int repeat_count;

void pc_cuda_repeated(const pc_cuda_call *call, void (*tell)(const pc_cuda_call *call))
{
    repeat *r = NULL;
    if (recording || !graphs_wanted()) {
        tell(call);
        return;
    }
    for (int i = 0; i < repeat_count && !r; i++)
        if (!memcmp(&repeats[i].call, call, sizeof *call)) r = &repeats[i];
    if (r && !r->graph && !r->refused) {
        pc_cuda_record();
        tell(call);
        r->graph = (cudaGraphExec_t)pc_cuda_recorded();
        r->refused = !r->graph;
    }
    if (r && r->graph) {
        pc_cuda_replay(r->graph);
        return;
    }
    tell(call); // the first time as it is: kernels are loaded and algorithms chosen
    if (!r && repeat_count < REPEATS) repeats[repeat_count++] = repeat{*call, NULL, false};
}

void pc_cuda_repeated_close(void)
{
    for (int i = 0; i < repeat_count; i++) pc_cuda_forget(repeats[i].graph);
    repeat_count = 0;
}
