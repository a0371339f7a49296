// SPDX-License-Identifier: MIT
// Runs every benchmark of the CUDA backend once, small, on the emulated device, so that none waits for a GPU to show
// that it is broken; and a whole model on the platform that runs nothing, where a host that touches what is the
// device's dies. Prints what the programs print.

#include "model_report.hpp"
#include "primitives.hpp"

#include <moduleformer/backend/cuda_emulated.cuh>

#include <cstdio>
#include <exception>

namespace mf = moduleformer;

int main(int argc, char** argv) {
  using B = mf::CudaEmulated<mf::bfloat16>;
  try {
    bench::Arguments arguments(argc, argv);
    bench::RunnerOptions options{.tiny = true, .repeats = 1};
    options.read(arguments);
    arguments.finish("Runs every benchmark of the CUDA backend once, small, without a device.");
    bench::Report report(options.json, true, {});
    B backend;
    bench::Runner<B> runner(&backend, options, report);
    bench::primitives(runner);
    report.finish();

    bench::ModelOptions model{.tokens = 6,
                              .rows = 2,
                              .hidden = 32,
                              .layers = 2,
                              .heads = 2,
                              .attention_hidden = 16,
                              .ffn_hidden = 24,
                              .attention_experts = 4,
                              .ffn_experts = 8,
                              .router_hidden = 16,
                              .vocab = 50,
                              .steps = 1,
                              .context = 3};
    model.load = "skewed";
    model.decoded = 3;  // the third one repeats recorded work
    model.decoded_sequences = {1, 3};
    model.json = options.json;
    model.kernels = true;
    bench::Facts facts = bench::model_facts(model);
    model = bench::fitted(model, std::size_t{1} << 30, facts);
    bench::Measured const measured = bench::measure<B>(model);
    bench::print_model(model, {}, facts, &measured);
    mf::expects(bench::count_layer(model).step.kernels > 30, "expected more than 30 kernels a layer");

    // The load of the benchmarks: on many tokens the busiest of 32 experts has six to eight times its share.
    bench::Arrays<B> arrays(backend);
    bench::Routed<B> const routed(arrays, 1024, 2, 32, bench::Load::skewed);
    auto const chosen = arrays.download(routed.experts.reshape(2048));
    std::vector<double> load(32);
    for (auto const e : chosen) load[static_cast<std::size_t>(e)] += 1;
    double const busiest = *std::ranges::max_element(load) / 64;
    mf::expects(busiest > 6 && busiest < 8, "skewed load: expected 6 to 8 times the mean, found ", busiest);
    return 0;
  } catch (std::exception const& error) {
    std::fprintf(stderr, "%s\n", error.what());
    return 1;
  }
}
