// SPDX-License-Identifier: MIT
#pragma once
// The work of `logits`, for models of either kind on any backend.

#include "device.hpp"
#include "status.hpp"
#include "text.hpp"

#include <moduleformer/io/checkpoint.hpp>
#include <moduleformer/io/safetensors_writer.hpp>

#include <deque>
#include <string>
#include <utility>
#include <vector>

namespace cli {

/// Tensors with the memory that they are written from.
template <class A>
class Output {
 public:
  void add(std::string name, std::vector<moduleformer::Index> shape, std::vector<A> values) {
    values_.push_back(std::move(values));
    tensors_.push_back(moduleformer::output_tensor<A>(std::move(name), moduleformer::storage_type_of<A>, std::move(shape),
                                                      values_.back().data()));
  }
  void write(std::string const& path) const { moduleformer::write_safetensors(path, tensors_); }

 private:
  std::deque<std::vector<A>> values_;
  std::vector<moduleformer::OutputTensor> tensors_;
};

template <class Model>
void run_batch(LogitsOptions const& options) {
  using A = typename Model::Accumulator;
  auto const loaded = moduleformer::load<Model>(options.model);
  moduleformer::Batch const batch = read_batch(options.input);
  if (options.gradients && batch.labels.empty()) throw UsageError("--gradients: " + options.input + " has no tensor labels");
  typename Model::SessionType session{moduleformer::SessionOptions{.threads = options.threads}};
  Output<A> out;
  moduleformer::Observation<A> seen;
  auto result = loaded.logits(session, batch, {.observation = &seen});
  std::vector<moduleformer::Index> shape{result.rows, result.tokens, result.outputs};
  if constexpr (Model::HeadType::classifies) shape = {result.rows, result.outputs};
  out.add("logits", shape, std::move(result.values));
  double auxiliary = 0;
  for (auto const& router : seen.routers) auxiliary += router.loss;
  out.add("aux_loss", {1}, {static_cast<A>(auxiliary)});
  if (options.gradients) {
    auto gradient = loaded.make_gradient();
    fill(session.backend(), gradient.values(), A(0));
    out.add("loss", {1}, {static_cast<A>(loaded.gradients(session, batch, gradient).total)});
    for (moduleformer::Segment const& segment : loaded.table().segments()) {
      std::vector<A> values(static_cast<std::size_t>(segment.size()));
      to_host(session.backend(), std::as_const(gradient).segment(segment), values.data());
      out.add("grad." + segment.name, segment.shape, std::move(values));
    }
  } else if (!batch.labels.empty()) {
    out.add("loss", {1}, {static_cast<A>(loaded.loss(session, batch).total)});
  }
  out.write(options.output);
}

}  // namespace cli
