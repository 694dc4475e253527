// Decode of a whole model, packed, batch 1 and 8, against the same model in float32 whose products a BLAS computes.
//
// Both run the same engine; only the weights and the matrix products differ. The BLAS gets the same number of threads
// and the best of the ways to use them: its own threads beside a pool of one or of all, or one product a thread of our
// pool. All take turns, a burst of tokens each from an empty context on; the ratio of a round is that of neighbours.
// Counters: tokens a second (medians), ratio = BLAS time / our time with its 10th and 90th percentile, bits a weight.
#include <benchmark/benchmark.h>

#include <chrono>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "base/bench_pairs.h"
#include "kernels/matmul_blas.h"
#include "worker/bench_models.h"
#include "worker/engine.h"

namespace hproc::worker {
namespace {

constexpr int kBurst = 32;

// Hidden 2048, 64 experts of which 8 are used, width 512; three delta layers and one attention layer: the layers of
// Qwen3.5-35B-A3B with a quarter of its experts.
constexpr std::string_view kLargeConfig = R"({
  "model_type": "qwen3_5_moe_text", "hidden_size": 2048, "vocab_size": 16384, "num_hidden_layers": 4,
  "layer_types": ["linear_attention", "linear_attention", "linear_attention", "full_attention"],
  "num_attention_heads": 16, "num_key_value_heads": 2, "head_dim": 256, "attention_bias": false,
  "linear_conv_kernel_dim": 4, "linear_key_head_dim": 128, "linear_num_key_heads": 16,
  "linear_value_head_dim": 128, "linear_num_value_heads": 32,
  "num_experts": 64, "num_experts_per_tok": 8, "moe_intermediate_size": 512, "shared_expert_intermediate_size": 512,
  "max_position_embeddings": 2048, "rms_norm_eps": 1e-06, "hidden_act": "silu", "tie_word_embeddings": false,
  "partial_rotary_factor": 0.25, "rope_parameters": {"rope_theta": 10000000.0, "rope_type": "default", "partial_rotary_factor": 0.25},
  "eos_token_id": 0})";

const ModelPair& EmbeddedModels() {
  static kernels::DeviceMemory memory("cpu", 0);
  static const ModelPair pair =
      ModelsOfCheckpoint(std::string(HPROC_SOURCE_DIR) + "/evals/wordmath/model", FourAndEightLevels(), memory);
  return pair;
}

const ModelPair& LargeModels() {
  static kernels::DeviceMemory memory("cpu", 0);
  static const ModelPair pair = RandomModels(kLargeConfig, FourAndEightLevels(), memory);
  return pair;
}

// One way to run one model.
class Runner {
 public:
  Runner(std::string name, const Model& model, int batch, int pool_threads, int blas_threads,
         void (*matmul)(const kernels::Context&, std::span<const kernels::MatmulCall>))
      : name_(std::move(name)),
        batch_(batch),
        blas_threads_(blas_threads),
        pool_(pool_threads),
        memory_("cpu", 0),
        engine_(model, {.backend = kernels::Backend::kCpu, .pool = &pool_, .matmul = matmul}, memory_,
                {.slots = batch, .context = kBurst, .pass_tokens = batch, .logit_rows = batch}) {
    engine_.AllocateCache();
    engine_.AllocateActivations();
  }

  // Seconds of a burst.
  double Run() {
    kernels::blas::SetThreads(blas_threads_);
    std::vector<int32_t> tokens(static_cast<size_t>(batch_));
    std::vector<kernels::SequenceRun> runs(tokens.size());
    std::vector<int32_t> rows(tokens.size());
    for (int slot = 0; slot < batch_; ++slot) engine_.ResetSlot(slot);
    const double seconds = SecondsOf([&] {
      for (int32_t i = 0; i < kBurst; ++i) {
        for (int32_t slot = 0; slot < batch_; ++slot) {
          const auto at = static_cast<size_t>(slot);
          tokens[at] = static_cast<int32_t>((i * 379 + slot * 101 + 17) % engine_.spec().vocabulary);
          runs[at] = {.slot = slot, .first_position = i, .first_row = slot, .tokens = 1};
          rows[at] = slot;
        }
        benchmark::DoNotOptimize(engine_.Pass(tokens, runs, rows));
      }
    });
    // OpenBLAS's own threads spin on for some 30 ms, which must not fall on whoever is next.
    if (blas_threads_ > 1) std::this_thread::sleep_for(std::chrono::milliseconds(60));
    return seconds;
  }
  const std::string& name() const { return name_; }

 private:
  std::string name_;
  int batch_;
  int blas_threads_;
  ThreadPool pool_;
  kernels::DeviceMemory memory_;
  Engine engine_;
};

void Decode(benchmark::State& state, const ModelPair& models) {
  const auto batch = static_cast<int>(state.range(0));
  const auto threads = static_cast<int>(state.range(1));
  Runner ours("packed", *models.packed, batch, threads, 1, nullptr);
  std::vector<std::unique_ptr<Runner>> theirs;
  const auto add = [&](const char* name, int pool_threads, int blas_threads, auto* matmul) {
    theirs.push_back(std::make_unique<Runner>(name, *models.floats, batch, pool_threads, blas_threads, matmul));
  };
  add("one BLAS thread", threads, 1, &kernels::blas::MatmulInTurn);
  if (threads > 1) {
    add("BLAS threads, pool of one", 1, threads, &kernels::blas::MatmulInTurn);
    add("BLAS threads, pool of all", threads, threads, &kernels::blas::MatmulInTurn);
    add("one BLAS thread a pool thread", threads, 1, &kernels::blas::MatmulOverPool);
  }
  // Our own float32 products, for comparison only.
  Runner own_floats("our float32", *models.floats, batch, threads, 1, nullptr);

  ours.Run();
  for (const auto& runner : theirs) runner->Run();
  own_floats.Run();
  std::vector<double> our_seconds;
  std::vector<double> own_float_seconds;
  std::vector<std::vector<double>> their_seconds(theirs.size());
  for (auto _ : state) {
    const double seconds = ours.Run();
    our_seconds.push_back(seconds);
    for (size_t i = 0; i < theirs.size(); ++i) their_seconds[i].push_back(theirs[i]->Run());
    own_float_seconds.push_back(own_floats.Run());
    state.SetIterationTime(seconds);
  }
  size_t best = 0;
  for (size_t i = 1; i < theirs.size(); ++i) {
    if (Quantile(their_seconds[i], 0.5) < Quantile(their_seconds[best], 0.5)) best = i;
  }
  const BenchPairs pairs{.ours = our_seconds, .theirs = their_seconds[best]};
  const std::vector<double> ratios = pairs.Ratios();
  state.counters["tok/s"] = kBurst * batch / Quantile(our_seconds, 0.5);
  state.counters["blas_tok/s"] = kBurst * batch / Quantile(pairs.theirs, 0.5);
  state.counters["own_f32_tok/s"] = kBurst * batch / Quantile(own_float_seconds, 0.5);
  state.counters["ratio"] = Quantile(ratios, 0.5);
  state.counters["ratio_p10"] = Quantile(ratios, 0.1);
  state.counters["ratio_p90"] = Quantile(ratios, 0.9);
  state.counters["bits"] = models.bits_per_weight;
  state.counters["outliers_%"] = 100 * models.outlier_share;
  state.SetLabel("against " + theirs[best]->name());
}

void BM_DecodeEmbedded(benchmark::State& state) { Decode(state, EmbeddedModels()); }
void BM_DecodeLarge(benchmark::State& state) { Decode(state, LargeModels()); }

void Cases(benchmark::internal::Benchmark* bench) {
  bench->ArgNames({"batch", "threads"});
  for (int64_t batch : {1, 8}) {
    bench->Args({batch, 1});
    if (const auto all = static_cast<int64_t>(std::thread::hardware_concurrency()); all > 1) bench->Args({batch, all});
  }
}
BENCHMARK(BM_DecodeEmbedded)->Apply(Cases)->UseManualTime()->Iterations(30)->Unit(benchmark::kMillisecond);
BENCHMARK(BM_DecodeLarge)->Apply(Cases)->UseManualTime()->Iterations(5)->Unit(benchmark::kMillisecond);

}  // namespace
}  // namespace hproc::worker

BENCHMARK_MAIN();
