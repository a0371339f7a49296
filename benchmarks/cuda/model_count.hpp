// SPDX-License-Identifier: MIT
#pragma once
// Kernels and device memory of a model's training step and decoding step, found by asking the library for them on the
// platform that runs nothing.

#include "counted.hpp"
#include "model_run.hpp"

#include <cstdio>
#include <map>
#include <string>

namespace bench {

struct Launches {
  Index kernels = 0, copies = 0, uploads = 0, downloads = 0;
  std::map<std::string, Index> by_kernel;

  static Launches of(Counted::Stream const& stream) {
    Launches result{stream.launches, stream.copies, stream.uploads, stream.downloads, {}};
    for (auto const& [type, count] : stream.by_kernel) result.by_kernel[kernel_name(type.name())] += count;
    return result;
  }
  /// What came since `earlier`.
  [[nodiscard]] Launches since(Launches const& earlier) const {
    Launches result{kernels - earlier.kernels,
                    copies - earlier.copies,
                    uploads - earlier.uploads,
                    downloads - earlier.downloads,
                    {}};
    for (auto const& [name, count] : by_kernel) {
      auto const found = earlier.by_kernel.find(name);
      Index const before = found == earlier.by_kernel.end() ? 0 : found->second;
      if (count > before) result.by_kernel[name] = count - before;
    }
    return result;
  }
};

struct ModelCounts {
  Launches forward, step, decode;
  std::size_t training_bytes = 0;  // of device memory: weights, gradient, moments, workspace
  std::size_t forward_bytes = 0;
};

using CountedBackend = CudaCounted<mf::bfloat16>;

inline ModelCounts count_model(ModelOptions const& o, bool training = true) {
  using B = CountedBackend;
  ModelCounts result;
  Counted::Memory::most = Counted::Memory::held;
  std::size_t const before = Counted::Memory::held;
  ModelOf<B> model(o.config(), mf::Settings{.aux_loss_weight = 1e-3});
  auto const batch = random_batch(o);
  auto const counted = [](auto& session, auto&& call) {
    Launches const earlier = Launches::of(session.backend().stream());
    call();
    return Launches::of(session.backend().stream()).since(earlier);
  };
  {
    mf::Session<B> session{model};
    result.forward = counted(session, [&] { (void)model.loss(session, batch); });
    result.forward_bytes = Counted::Memory::most - before;
    mf::KvCache<B> cache(model, 1, o.context + 2);
    auto const prompt = random_ids(o.context, o.vocab, false);
    for (std::size_t const length : {prompt.size(), std::size_t{1}})  // the last one counts
      result.decode = counted(session, [&] {
        mf::CacheExtension const extension{0, std::span(prompt).first(length)};
        (void)model.extend(session, cache, {&extension, 1});
      });
  }
  if (training) {
    Counted::Memory::most = Counted::Memory::held;
    mf::Trainer trainer(model, mf::AdamW{.learning_rate = 1e-4});
    result.step = counted(trainer.session(), [&] { (void)trainer.step(batch); });
    result.training_bytes = Counted::Memory::most - before;
  }
  return result;
}

/// Of one layer: the difference that a layer makes.
inline ModelCounts count_layer(ModelOptions o) {
  o.layers = 1;
  ModelCounts const one = count_model(o);
  o.layers = 2;
  ModelCounts two = count_model(o);
  return {two.forward.since(one.forward), two.step.since(one.step), two.decode.since(one.decode),
          two.training_bytes - one.training_bytes, two.forward_bytes - one.forward_bytes};
}

inline void print_kernels(char const* title, Launches const& launches) {
  std::printf("\n### Kernels of one layer, %s\n\n| launches | kernel |\n|---|---|\n", title);
  for (auto const& [name, count] : launches.by_kernel)
    std::printf("| %lld | `%s` |\n", static_cast<long long>(count), name.c_str());
}

}  // namespace bench
