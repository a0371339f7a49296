// SPDX-License-Identifier: MIT
// bench_model_cuda: a training step, a forward and decoding of a model with random weights in bfloat16, against the
// floors of its shape on this device, with the number of kernels a layer. Options and keys are those of bench_model.

#include "cuda/device.cuh"
#include "cuda/model_report.hpp"

namespace mf = moduleformer;

int main(int argc, char** argv) {
  using B = mf::Cuda<mf::bfloat16>;
  constexpr char const* program = "bench_model_cuda";
  return bench::guarded(program, [&] {
    bench::Arguments arguments(argc, argv);
    bench::ModelOptions options;
    options.read(arguments);
    arguments.finish("Speed of a ModuleFormer on a GPU: training, forward, decoding.");
    if (options.floors) {
      bench::print_model(options, {}, bench::model_facts(options), nullptr);
      return 0;
    }
    return bench::on_device(program, [&] {
      bench::Facts facts;
      bench::Machine machine;
      {
        B backend;
        machine = bench::measured_machine(backend, facts);
      }
      bench::ModelOptions const fitted = bench::fitted(options, bench::Traits<mf::Gpu>::free_bytes(), facts);
      bench::Measured const measured = bench::measure<B>(fitted);
      facts.append(bench::model_facts(fitted));
      bench::print_model(fitted, machine, facts, &measured);
    });
  });
}
