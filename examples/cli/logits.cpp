// SPDX-License-Identifier: MIT
// moduleformer logits: a batch of ids through any model, with losses and gradients, to compare with other programs.
#include "command.hpp"
#include "models.hpp"

#include <moduleformer/io/checkpoint.hpp>
#include <moduleformer/io/safetensors.hpp>
#include <moduleformer/io/safetensors_writer.hpp>

#include <deque>
#include <memory>
#include <string>
#include <vector>

namespace cli {
namespace {

namespace mf = moduleformer;

/// The input file as a batch.
mf::Batch read_batch(std::string const& path) {
  mf::SafetensorsFile const file{path};
  mf::StoredTensor const& ids = file.at("input_ids");
  if (ids.shape.size() != 2) mf::fail<mf::FormatError>(ids.where(), ": expected shape (B, T), found ", mf::shape_text(ids.shape));
  mf::Batch batch{.rows = ids.shape[0], .tokens = ids.shape[1], .ids = ids.read<mf::TokenId>()};
  if (auto const* const mask = file.find("attention_mask"); mask != nullptr) {
    mask->expect_shape(ids.shape);
    for (mf::TokenId const bit : mask->read<mf::TokenId>()) {
      if (bit != 0 && bit != 1) mf::fail<mf::FormatError>(mask->where(), ": expected zeros and ones, found ", bit);
      batch.mask.push_back(static_cast<std::uint8_t>(bit));
    }
  }
  if (auto const* const labels = file.find("labels"); labels != nullptr) batch.labels = labels->read<mf::TokenId>();
  return batch;
}

/// Tensors with the memory that they are written from.
template <class S>
class Output {
 public:
  void add(std::string name, std::vector<mf::Index> shape, std::vector<S> values) {
    values_.push_back(std::move(values));
    tensors_.push_back(mf::output_tensor<S>(std::move(name), mf::storage_type_of<S>, std::move(shape), values_.back().data()));
  }
  void write(std::string const& path) const { mf::write_safetensors(path, tensors_); }

 private:
  std::deque<std::vector<S>> values_;
  std::vector<mf::OutputTensor> tensors_;
};

struct LogitsCommand {
  std::string model, input, output;
  bool gradients = false, in_double = false;
  int threads = 0;

  explicit LogitsCommand(CLI::App& command) {
    command.add_option("--model", model, "folder of the model")->required()->type_name("DIR");
    command.add_option("--input", input, "input_ids (B,T), and if wanted attention_mask (B,T) and labels: (B,T), position t is scored\n"
                                         "against label t+1, -100 does not count; (B) for a classifier")
        ->required()
        ->type_name("IN.safetensors");
    command.add_option("--output", output, "logits (B,T,V), of a classifier (B,labels); aux_loss, the unweighted sum over routers; with\n"
                                           "labels also loss, the total")
        ->required()
        ->type_name("OUT.safetensors");
    command.add_flag("--gradients", gradients, "also write grad.<parameter> of the total loss, for every parameter");
    command.add_flag("--double", in_double, "compute and write in double precision");
    command.add_option("--threads", threads, "threads, 0 for all")->capture_default_str()->check(CLI::NonNegativeNumber)->type_name("INTEGER");
  }

  int run() {
    bool const classifies = mf::describe_folder(model).classifies();
    if (in_double) classifies ? compute<Classifier<double>>() : compute<LanguageModel<double>>();
    else classifies ? compute<Classifier<float>>() : compute<LanguageModel<float>>();
    return success;
  }

  template <class Model>
  void compute() const {
    using S = typename Model::Scalar;
    auto const loaded = mf::load<Model>(model);
    mf::Batch const batch = read_batch(input);
    if (gradients && batch.labels.empty()) throw UsageError("--gradients: " + input + " has no tensor labels");
    mf::Session session{loaded, {.threads = threads}};
    Output<S> out;
    mf::Observation<S> seen;
    auto result = loaded.logits(session, batch, {.observation = &seen});
    std::vector<mf::Index> shape{result.rows, result.tokens, result.outputs};
    if constexpr (Model::HeadType::classifies) shape = {result.rows, result.outputs};
    out.add("logits", shape, std::move(result.values));
    double auxiliary = 0;
    for (auto const& router : seen.routers) auxiliary += router.loss;
    out.add("aux_loss", {1}, {static_cast<S>(auxiliary)});
    if (gradients) {
      auto gradient = loaded.make_gradient();
      fill(session.backend(), gradient.values(), S(0));
      out.add("loss", {1}, {static_cast<S>(loaded.gradients(session, batch, gradient).total)});
      for (mf::Segment const& segment : loaded.table().segments()) {
        auto const values = gradient.segment(segment);
        out.add("grad." + segment.name, segment.shape, std::vector<S>(values.begin(), values.end()));
      }
    } else if (!batch.labels.empty()) {
      out.add("loss", {1}, {static_cast<S>(loaded.loss(session, batch).total)});
    }
    out.write(output);
  }
};

}  // namespace

Command logits_command(CLI::App& app) {
  auto* const command = app.add_subcommand("logits", "Run a batch of ids through a model of either kind: logits, losses, gradients.");
  auto const logits = std::make_shared<LogitsCommand>(*command);
  return {command, [logits] { return logits->run(); }};
}

}  // namespace cli
