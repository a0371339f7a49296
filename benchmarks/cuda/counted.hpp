// SPDX-License-Identifier: MIT
#pragma once
// Counted: a platform that runs nothing. It counts the kernels and copies that the library asks for, and hands out
// addresses without memory behind them: a host that touches what is the device's dies. So launches and memory of
// any model can be told on any machine. What is copied to the host is zeros.

#include <moduleformer/backend/backend.hpp>
#include <moduleformer/backend/cuda/cuda.cuh>
#include <moduleformer/backend/cuda/primitives.cuh>
#include <moduleformer/core/error.hpp>

#include <cxxabi.h>
#include <sys/mman.h>

#include <algorithm>
#include <cctype>
#include <cstdlib>
#include <cstring>
#include <map>
#include <source_location>
#include <span>
#include <string>
#include <typeindex>
#include <vector>

namespace bench {

/// A kernel's name without its namespaces.
inline std::string kernel_name(char const* mangled) {
  int status = 0;
  char* const text = abi::__cxa_demangle(mangled, nullptr, nullptr, &status);
  std::string name = status == 0 ? text : mangled;
  std::free(text);
  for (std::size_t at = name.find("::"); at != std::string::npos; at = name.find("::")) {
    std::size_t begin = at;
    while (begin > 0 && (std::isalnum(static_cast<unsigned char>(name[begin - 1])) != 0 || name[begin - 1] == '_'))
      --begin;
    name.erase(begin, at + 2 - begin);
  }
  return name;
}

struct Counted {
  struct Memory {
    static constexpr bool is_host_memory = false;
    static inline std::size_t held = 0, most = 0;
    static void* allocate(std::size_t bytes) {
      void* const data = ::mmap(nullptr, bytes, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
      if (data == MAP_FAILED)
        moduleformer::fail<moduleformer::CudaError>("counted memory: no room for ", bytes, " bytes");
      held += bytes;
      most = std::max(most, held);
      return data;
    }
    static void deallocate(void* data, std::size_t bytes) noexcept {
      (void)::munmap(data, bytes);
      held -= bytes;
    }
  };

  struct Recording {};

  /// What comes back is zeros.
  class Mailbox {
   public:
    template <class B>
    void send(B&, moduleformer::Vector<double const> numbers) {
      numbers_.assign(static_cast<std::size_t>(numbers.size()), 0);
    }
    [[nodiscard]] std::span<double const> receive() const { return numbers_; }

   private:
    std::vector<double> numbers_;
  };

  class Stream {
   public:
    [[nodiscard]] int processors() const { return 132; }
    [[nodiscard]] std::size_t most_shared() const { return 227 << 10; }
    [[nodiscard]] bool has_warpgroups() const { return true; }
    template <class Kernel>
    void launch(Kernel const&, moduleformer::Index, std::size_t, std::source_location) {
      ++launches;
      ++by_kernel[typeid(Kernel)];
    }
    void copy(void*, void const*, std::size_t) { ++copies; }
    void from_host(void*, void const*, std::size_t) { ++uploads; }
    void to_host(void* to, void const*, std::size_t bytes) {
      ++downloads;
      std::memset(to, 0, bytes);
    }
    void synchronize() {}
    template <class F>
    Recording record(F const& f) {
      f();
      return {};
    }
    void replay(Recording const&) {}

    moduleformer::Index launches = 0, copies = 0, uploads = 0, downloads = 0;
    std::map<std::type_index, moduleformer::Index> by_kernel;
  };
};

template <moduleformer::CudaScalar S>
using CudaCounted = moduleformer::CudaBackend<S, Counted>;

static_assert(moduleformer::Backend<CudaCounted<moduleformer::bfloat16>>);

}  // namespace bench
