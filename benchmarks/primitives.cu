// SPDX-License-Identifier: MIT
// bench_primitives: each primitive of the CUDA backend in bfloat16 against the floor of that very shape, on this
// device: medians by events, random data. --floors needs no device.

#include "cuda/device.cuh"
#include "cuda/primitives.hpp"

#include <moduleformer/backend/cuda/cub_sort.cuh>

namespace mf = moduleformer;

namespace {

using B = mf::Cuda<mf::bfloat16>;

/// The library's own sort has a twin of CUB's.
void cub_sort(bench::Runner<B>& run) {
  if (!run.table("Sorting with CUB")) return;
  using bench::Index;
  for (Index const n : {run.size(16384, 24), run.size(65536, 48)}) {
    Index const e = run.size(32, 5), k = 2;
    run.line("sort by expert", bench::text("N", n) + ", " + bench::text("E", e) + ", K 2",
             bench::cost::moved(2 * bench::cost::sum * bench::cost::real(n * k)),
             [=](bench::Arrays<B>& a, bench::Cost&) {
               bench::Routed<B> const r(a, n, k, e, bench::Load::skewed);
               auto const order = a.allocate<std::int32_t>(n * k);
               auto const offsets = a.allocate<Index>(e + 1);
               return [=, &a] { mf::detail::sort_by_key_with_cub(a.backend(), r.plan.expert, e, order, offsets); };
             });
  }
}

void run(B* backend, bench::RunnerOptions const& options, bench::Report& report) {
  report.print_facts();
  bench::Runner<B> runner(backend, options, report);
  bench::primitives(runner);
  cub_sort(runner);
  report.finish();
}

}  // namespace

int main(int argc, char** argv) {
  constexpr char const* program = "bench_primitives";
  return bench::guarded(program, [&] {
    bench::Arguments arguments(argc, argv);
    bench::RunnerOptions options;
    options.read(arguments);
    arguments.finish("Times of the CUDA backend's primitives beside the least times that their shapes allow.");
    bench::Report report(options.json, !options.floors, {});
    if (options.floors) {
      report.facts().add("floors at", "790 TFLOP/s, 4.3 TB/s, 132 multiprocessors at 1755 MHz");
      run(nullptr, options, report);
      return 0;
    }
    return bench::on_device(program, [&] {
      B backend;
      report.set_machine(bench::measured_machine(backend, report.facts()));
      run(&backend, options, report);
    });
  });
}
