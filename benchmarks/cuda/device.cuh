// SPDX-License-Identifier: MIT
#pragma once
// What benchmarks know of a GPU: events in its stream, its facts, its measured bandwidth, and the vendor's dense
// product in bfloat16, if its library is there (it is looked for at run time and never linked).

#include "runner.hpp"

#include <moduleformer/backend/cuda.cuh>

#include <cuda_runtime.h>
#if __has_include(<cublas_v2.h>)
#include <cublas_v2.h>
#define BENCH_HAS_CUBLAS 1
#else
#define BENCH_HAS_CUBLAS 0
#endif
#include <dlfcn.h>

#include <array>
#include <cstdio>
#include <exception>
#include <map>
#include <string>
#include <vector>

namespace bench {

/// Events in a stream.
class EventMarks {
 public:
  EventMarks() = default;
  EventMarks(EventMarks const&) = delete;
  EventMarks& operator=(EventMarks const&) = delete;
  ~EventMarks() {
    for (cudaEvent_t const event : events_) (void)cudaEventDestroy(event);
  }
  void mark(mf::Gpu::Stream& stream) {
    cudaEvent_t event = nullptr;
    mf::detail::check_cuda(cudaEventCreate(&event), "cudaEventCreate");
    events_.push_back(event);
    mf::detail::check_cuda(cudaEventRecord(event, stream.get()), "cudaEventRecord");
  }
  [[nodiscard]] std::vector<double> differences() {
    std::vector<double> result;
    if (!events_.empty()) mf::detail::check_cuda(cudaEventSynchronize(events_.back()), "waiting for an event");
    for (std::size_t i = 1; i < events_.size(); ++i) {
      float milliseconds = 0;
      mf::detail::check_cuda(cudaEventElapsedTime(&milliseconds, events_[i - 1], events_[i]), "cudaEventElapsedTime");
      result.push_back(static_cast<double>(milliseconds) * 1e-3);
    }
    return result;
  }

 private:
  std::vector<cudaEvent_t> events_;
};

/// cuBLAS, if it can be loaded.
class VendorProduct {
 public:
  static VendorProduct& instance() {
    static VendorProduct library;
    return library;
  }
  [[nodiscard]] std::string const& name() const { return name_; }

#if BENCH_HAS_CUBLAS
  [[nodiscard]] bool exists() const { return handle_ != nullptr; }
  /// y (m,n) = x (m,k) w (k,n), added in float.
  void operator()(mf::Gpu::Stream& stream, Index m, Index k, Index n, mf::bfloat16 const* x, mf::bfloat16 const* w,
                  mf::bfloat16* y) const {
    float const one = 1, zero = 0;
    int const rows = static_cast<int>(m), depth = static_cast<int>(k), columns = static_cast<int>(n);
    (void)set_stream_(handle_, stream.get());
    // Column by column the product is y^T = w^T x^T.
    cublasStatus_t const status =
        product_(handle_, CUBLAS_OP_N, CUBLAS_OP_N, columns, rows, depth, &one, w, CUDA_R_16BF, columns, x, CUDA_R_16BF,
                 depth, &zero, y, CUDA_R_16BF, columns, CUBLAS_COMPUTE_32F, CUBLAS_GEMM_DEFAULT);
    if (status != CUBLAS_STATUS_SUCCESS)
      mf::fail<mf::CudaError>("cublasGemmEx of ", m, " x ", k, " x ", n, ": status ", static_cast<int>(status));
  }
#else
  [[nodiscard]] static constexpr bool exists() { return false; }
  void operator()(mf::Gpu::Stream&, Index, Index, Index, mf::bfloat16 const*, mf::bfloat16 const*,
                  mf::bfloat16*) const {}
#endif

 private:
  VendorProduct() {
#if BENCH_HAS_CUBLAS
    for (char const* const file :
         {"libcublas.so.13", "libcublas.so.12", "libcublas.so", "/usr/local/cuda/lib64/libcublas.so"}) {
      void* const library = dlopen(file, RTLD_NOW | RTLD_LOCAL);
      if (library == nullptr) continue;
      auto const create = find<decltype(&cublasCreate_v2)>(library, "cublasCreate_v2");
      set_stream_ = find<decltype(&cublasSetStream_v2)>(library, "cublasSetStream_v2");
      product_ = find<ProductCall*>(library, "cublasGemmEx");
      if (create == nullptr || set_stream_ == nullptr || product_ == nullptr) continue;
      if (create(&handle_) == CUBLAS_STATUS_SUCCESS) {
        name_ = file;
        return;
      }
      handle_ = nullptr;
    }
#endif
  }

#if BENCH_HAS_CUBLAS
  template <class Function>
  static Function find(void* library, char const* symbol) {
    return reinterpret_cast<Function>(dlsym(library, symbol));
  }
  using ProductCall = cublasStatus_t(cublasHandle_t, cublasOperation_t, cublasOperation_t, int, int, int, void const*,
                                     void const*, cudaDataType, int, void const*, cudaDataType, int, void const*, void*,
                                     cudaDataType, int, cublasComputeType_t, cublasGemmAlgo_t);
  cublasHandle_t handle_ = nullptr;
  decltype(&cublasSetStream_v2) set_stream_ = nullptr;
  ProductCall* product_ = nullptr;
#endif
  std::string name_ = "none";
};

template <>
struct Traits<mf::Gpu> {
  using Marks = EventMarks;
  static constexpr Index flushed_bytes = Index{256} << 20;  // more than any second-level cache of today

  static std::size_t free_bytes() {
    std::size_t free = 0, total = 0;
    mf::detail::check_cuda(cudaMemGetInfo(&free, &total), "cudaMemGetInfo");
    return free;
  }
  /// Measured once for each size.
  template <class B>
  static double dense_flops(B& backend, Index m, Index k, Index n) {
    static std::map<std::array<Index, 3>, double> known;
    if (!VendorProduct::instance().exists()) return 0;
    double& rate = known[{m, k, n}];
    if (rate > 0) return rate;
    Arrays<B> arrays(backend);
    auto const x = arrays.template random<mf::bfloat16>(m, k), w = arrays.template random<mf::bfloat16>(k, n);
    auto const y = arrays.template allocate<mf::bfloat16>(m, n);
    Timing<B> timing(backend, 3, 20, true);
    double const seconds = timing.median_seconds(
        [&] { VendorProduct::instance()(backend.stream(), m, k, n, x.data(), w.data(), y.data()); });
    return rate = 2.0 * cost::real(m) * cost::real(k) * cost::real(n) / seconds;
  }
};

/// Name, clock, units and memory of the current device; the special functions' rate follows from them.
inline void device_facts(Facts& facts, Machine& machine) {
  int device = 0, driver = 0, runtime = 0, clock = 0, memory_clock = 0;
  mf::detail::check_cuda(cudaGetDevice(&device), "cudaGetDevice");
  cudaDeviceProp properties{};
  mf::detail::check_cuda(cudaGetDeviceProperties(&properties, device), "cudaGetDeviceProperties");
  (void)cudaDeviceGetAttribute(&clock, cudaDevAttrClockRate, device);
  (void)cudaDeviceGetAttribute(&memory_clock, cudaDevAttrMemoryClockRate, device);
  (void)cudaDriverGetVersion(&driver);
  (void)cudaRuntimeGetVersion(&runtime);
  facts.add("device", std::string(properties.name));
  facts.add("compute_capability", std::to_string(properties.major) + "." + std::to_string(properties.minor));
  facts.add("multiprocessors", Index{properties.multiProcessorCount});
  facts.add("clock_mhz", clock / 1000.0);
  facts.add("memory_clock_mhz", memory_clock / 1000.0);
  facts.add("memory_bytes", static_cast<Index>(properties.totalGlobalMem));
  facts.add("cuda_driver", Index{driver});
  facts.add("cuda_runtime", Index{runtime});
  facts.add("commit", commit());
  facts.add("date", today());
  if (clock > 0) machine.set_units(properties.multiProcessorCount, clock * 1e3);
}

/// The machine's rates as measured: a copy of 1 GiB, and the vendor's product of 8192^3; what cannot be measured stays.
template <class B>
Machine measured_machine(B& backend, Facts& facts) {
  Machine machine;
  device_facts(facts, machine);
  {
    Arrays<B> arrays(backend);
    constexpr Index size = Index{1} << 28;
    auto const from = arrays.template random<float>(size), to = arrays.template allocate<float>(size);
    Timing<B> timing(backend, 3, 20, false);
    machine.bytes = 2.0 * sizeof(float) * size / timing.median_seconds([&] { copy(backend, from, to); });
  }
  double const products = Traits<mf::Gpu>::dense_flops(backend, 8192, 8192, 8192);
  if (products > 0) machine.flops = products;
  facts.add("bandwidth_gb_per_second", machine.bytes * 1e-9);
  facts.add("gemm_peak_gflops", machine.flops * 1e-9);
  facts.add("gemm_peak_from",
            products > 0 ? VendorProduct::instance().name() + ", 8192^3" : "assumed, no cuBLAS was found");
  return machine;
}

/// f(), or a sentence and 77 where there is no device.
template <class F>
int on_device(char const* program, F&& f) {
  int devices = 0;
  cudaError_t const status = cudaGetDeviceCount(&devices);
  if (status != cudaSuccess || devices == 0) {
    std::printf("%s: skipped: no CUDA device (%s)\n", program,
                status == cudaSuccess ? "none found" : cudaGetErrorString(status));
    return 77;
  }
  f();
  return 0;
}

/// What a program returns: 1 and the error's sentence for an error.
template <class F>
int guarded(char const* program, F&& f) {
  try {
    return f();
  } catch (std::exception const& error) {
    std::fprintf(stderr, "%s: %s\n", program, error.what());
    return 1;
  }
}

}  // namespace bench
