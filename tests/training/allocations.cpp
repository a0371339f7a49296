// SPDX-License-Identifier: MIT
// A training step in steady state takes nothing from the system: malloc, or without glibc operator new, is
// replaced by a counting one. OpenMP's runtime is not counted (clang's takes memory in every work-sharing
// loop). Sanitizers bring a malloc and operator new of their own, which leave no room for ours.
// ctest labels: uninstrumented

#include "training/support.hpp"

#include <boost/test/unit_test.hpp>

#include <link.h>

#include <atomic>
#include <cerrno>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <new>

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
#define MODULEFORMER_TEST_SANITIZED 1
#elif defined(__has_feature)
#if __has_feature(address_sanitizer) || __has_feature(thread_sanitizer)
#define MODULEFORMER_TEST_SANITIZED 1
#endif
#endif

namespace {

std::atomic<bool> counting{false};
std::atomic<long> allocations{0};

/// Where OpenMP's runtime lies, and for clang's the C library, whose sscanf it calls in work-sharing loops.
struct Range {
  std::uintptr_t begin = 0, end = 0;
  [[nodiscard]] bool holds(std::uintptr_t place) const { return place >= begin && place < end; }
} runtime, c_library;

int find_runtime(dl_phdr_info* module, std::size_t, void*) {
  auto const named = [&](char const* part) { return std::strstr(module->dlpi_name, part) != nullptr; };
#if defined(__clang__)
  Range* const range = named("libomp") ? &runtime : named("libc.so") ? &c_library : nullptr;
#else
  Range* const range = named("libgomp") ? &runtime : nullptr;
#endif
  if (range == nullptr) return 0;
  range->begin = module->dlpi_addr;
  for (int i = 0; i < module->dlpi_phnum; ++i)
    if (module->dlpi_phdr[i].p_type == PT_LOAD)
      range->end = std::max(range->end, module->dlpi_addr + module->dlpi_phdr[i].p_vaddr + module->dlpi_phdr[i].p_memsz);
  return 0;
}

[[maybe_unused]] void count(void const* caller) noexcept {
  if (!counting.load(std::memory_order_relaxed)) return;
  auto const place = reinterpret_cast<std::uintptr_t>(caller);
  if (!runtime.holds(place) && !c_library.holds(place)) allocations.fetch_add(1, std::memory_order_relaxed);
}

}  // namespace

#if defined(MODULEFORMER_TEST_SANITIZED)  // built, not run
#elif defined(__GLIBC__)
extern "C" {
void* __libc_malloc(std::size_t);
void* __libc_calloc(std::size_t, std::size_t);
void* __libc_realloc(void*, std::size_t);
void* __libc_memalign(std::size_t, std::size_t);

void* malloc(std::size_t size) noexcept {
  count(__builtin_return_address(0));
  return __libc_malloc(size);
}
void* calloc(std::size_t number, std::size_t size) noexcept {
  count(__builtin_return_address(0));
  return __libc_calloc(number, size);
}
void* realloc(void* old, std::size_t size) noexcept {
  count(__builtin_return_address(0));
  return __libc_realloc(old, size);
}
void* aligned_alloc(std::size_t alignment, std::size_t size) noexcept {
  count(__builtin_return_address(0));
  return __libc_memalign(alignment, size);
}
int posix_memalign(void** place, std::size_t alignment, std::size_t size) noexcept {
  count(__builtin_return_address(0));
  *place = __libc_memalign(alignment, size);
  return *place == nullptr ? ENOMEM : 0;
}
}
#else
void* operator new(std::size_t size) {
  count(__builtin_return_address(0));
  if (void* const place = std::malloc(size)) return place;
  throw std::bad_alloc();
}
void* operator new(std::size_t size, std::align_val_t alignment) {
  count(__builtin_return_address(0));
  auto const unit = static_cast<std::size_t>(alignment);
  if (void* const place = std::aligned_alloc(unit, (size + unit - 1) / unit * unit)) return place;
  throw std::bad_alloc();
}
void operator delete(void* place) noexcept { std::free(place); }
void operator delete(void* place, std::size_t) noexcept { std::free(place); }
void operator delete(void* place, std::align_val_t) noexcept { std::free(place); }
void operator delete(void* place, std::size_t, std::align_val_t) noexcept { std::free(place); }
#endif

namespace mf = moduleformer;
using namespace mf::test;
using mf::Index;

namespace {

/// Allocations during steps 3 to 6, reading the batches included.
template <class Model>
long steady_state_allocations(Model model, int threads) {
  mf::Trainer trainer{model, mf::AdamW{}, mf::WarmupCosine{.warmup = 2, .total = 8}, {.threads = threads}};
  trainer.on_checkpoint(1, [](mf::StepReport const&) {});
  auto const data = tiny_batches(6);
  Index step = 0;
  dl_iterate_phdr(find_runtime, nullptr);
  BOOST_TEST(runtime.end > runtime.begin);
  allocations = 0;
  for (auto const& batch : data) {
    counting = ++step >= 3;
    trainer.step(batch);
  }
  counting = false;
  return allocations;
}

}  // namespace

BOOST_AUTO_TEST_CASE(allocations_are_counted) {
  allocations = 0;
  counting = true;
  void* const place = ::operator new(8);
  std::vector<double> numbers;
  numbers.reserve(1000);
  counting = false;
  ::operator delete(place);
  BOOST_TEST(allocations == 2);
  BOOST_TEST(numbers.capacity() == 1000);
}

BOOST_AUTO_TEST_CASE(steady_steps_allocate_nothing) {
  for (int threads : {1, 2}) {
    BOOST_TEST(steady_state_allocations(mf::CausalLM<tiny_shape>::random(1, random_settings), threads) == 0);
    BOOST_TEST(steady_state_allocations(
                   mf::CausalLM<tiny_shape, mf::Policies<mf::RecomputeBlocks, mf::GmmRouter, mf::SwitchLoss>>::random(1), threads) == 0);
  }
}

BOOST_AUTO_TEST_CASE(policies_chosen_at_run_time_allocate_nothing) {
  using Dynamic = mf::CausalLM<mf::dynamic_shape, mf::dynamic_policies>;
  BOOST_TEST(steady_state_allocations(Dynamic::random(1, mf::Config::of(tiny_shape), random_settings), 2) == 0);
}
