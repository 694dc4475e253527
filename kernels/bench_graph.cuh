// How the benches time launches: captured into a graph, which is replayed.
#pragma once

#include <cuda_runtime.h>

#include <algorithm>
#include <functional>
#include <vector>

#include "kernels/cuda/check.h"

namespace hproc::kernels {

struct Times {
  double p10 = 0, median = 0, p90 = 0;  // us a launch
};

// `launch(i)` for i in [0, launches) makes a graph; the percentiles are over 21 replays of it, after two that do not count.
inline Times TimeGraph(cudaStream_t stream, int launches, const std::function<void(int)>& launch) {
  constexpr int kReplays = 21;
  cudaGraph_t graph = nullptr;
  cudaGraphExec_t replay = nullptr;
  HPROC_CUDA_CHECK(cudaStreamBeginCapture(stream, cudaStreamCaptureModeThreadLocal));
  for (int i = 0; i < launches; ++i) launch(i);
  HPROC_CUDA_CHECK(cudaStreamEndCapture(stream, &graph));
  HPROC_CUDA_CHECK(cudaGraphInstantiate(&replay, graph, 0));
  cudaEvent_t begin = nullptr, end = nullptr;
  HPROC_CUDA_CHECK(cudaEventCreate(&begin));
  HPROC_CUDA_CHECK(cudaEventCreate(&end));
  std::vector<double> us;
  for (int i = 0; i < kReplays + 2; ++i) {
    HPROC_CUDA_CHECK(cudaEventRecord(begin, stream));
    HPROC_CUDA_CHECK(cudaGraphLaunch(replay, stream));
    HPROC_CUDA_CHECK(cudaEventRecord(end, stream));
    HPROC_CUDA_CHECK(cudaEventSynchronize(end));
    float ms = 0;
    HPROC_CUDA_CHECK(cudaEventElapsedTime(&ms, begin, end));
    if (i >= 2) us.push_back(ms * 1e3 / launches);
  }
  HPROC_CUDA_CHECK(cudaEventDestroy(begin));
  HPROC_CUDA_CHECK(cudaEventDestroy(end));
  HPROC_CUDA_CHECK(cudaGraphExecDestroy(replay));
  HPROC_CUDA_CHECK(cudaGraphDestroy(graph));
  std::sort(us.begin(), us.end());
  return {us[us.size() / 10], us[us.size() / 2], us[us.size() * 9 / 10]};
}

}  // namespace hproc::kernels
