/*
 * record.cu - work told once and done many times: a CUDA graph of what was put into the stream.
 *
 * While a graph is being made nothing runs, so nothing may be waited for, grown or read: a kernel whose launch depends on
 * numbers of the host's declines (pc_cuda_decline), and then there is no graph.
 */
#include "model/ops/cuda/device.cuh"

static bool recording, declined;

bool pc_cuda_recording(void)
{
    return recording;
}

void pc_cuda_decline(void)
{
    declined = true;
}

bool pc_cuda_record(void)
{
    PC_ASSERT(!recording, "a recording within a recording%s", "");
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
