// SPDX-License-Identifier: MIT
// Micro-batches: m of them are the big batch, to rounding, without a routing loss and with one over the whole batch.

#include "training/support.hpp"

#include <moduleformer/model/sequence_classifier.hpp>

#include <boost/mpl/list.hpp>
#include <boost/test/unit_test.hpp>

#include <cmath>
#include <type_traits>

namespace mf = moduleformer;
using namespace mf::test;
using mf::Index;

namespace {

using Double = mf::Cpu<double>;
using Model = mf::CausalLM<tiny_shape, mf::Policies<>, Double>;

/// Rows [begin, end) of a batch with targets.
mf::Batch some_rows(mf::Batch const& all, Index begin, Index end) {
  auto cut = [&](auto const& from) {
    return std::remove_cvref_t<decltype(from)>(from.begin() + begin * all.tokens, from.begin() + end * all.tokens);
  };
  return {.rows = end - begin, .tokens = all.tokens, .ids = cut(all.ids), .targets = cut(all.targets)};
}

/// The gradient and the report of one step.
template <class Model>
std::pair<std::vector<double>, mf::StepReport> one_step(std::vector<mf::Batch> const& batches, mf::Settings settings,
                                                        mf::Config const& config) {
  settings.initializer_range = 0.4;
  auto model = Model::random(5, config, settings);
  mf::Trainer trainer{model, {}, mf::Constant{}, {.threads = 2}};
  auto const report = trainer.step(batches);
  std::vector<double> gradient;
  for (auto const& segment : model.table().segments())
    for (double const x : trainer.gradient().segment(segment)) gradient.push_back(x);
  return {gradient, report};
}

void check_same(std::pair<std::vector<double>, mf::StepReport> const& a, std::pair<std::vector<double>, mf::StepReport> const& b) {
  BOOST_REQUIRE_EQUAL(a.first.size(), b.first.size());
  double largest = 0, difference = 0;
  for (std::size_t i = 0; i < a.first.size(); ++i) {
    largest = std::max(largest, std::abs(a.first[i]));
    difference = std::max(difference, std::abs(a.first[i] - b.first[i]));
  }
  BOOST_TEST(largest > 1e-3);
  BOOST_TEST(difference <= 1e-12 * largest);
  BOOST_CHECK_CLOSE_FRACTION(a.second.task, b.second.task, 1e-13);
  BOOST_CHECK_CLOSE_FRACTION(a.second.total, b.second.total, 1e-13);
  BOOST_CHECK_CLOSE_FRACTION(a.second.gradient_norm, b.second.gradient_norm, 1e-12);
  BOOST_TEST(a.second.tokens == b.second.tokens);
  BOOST_TEST(a.second.counted == b.second.counted);
}

mf::Batch big_batch() {
  mf::Batch batch;
  mf::ByteBatches::of_texts({repetitive_text}, {.rows = 6, .tokens = 7, .seed = 3}).read(0, batch);
  return batch;
}

}  // namespace

BOOST_AUTO_TEST_CASE(micro_batches_are_the_big_batch) {
  auto const all = big_batch();
  auto const config = mf::Config::of(tiny_shape);
  auto const whole = one_step<Model>({all}, {}, config);
  BOOST_TEST(whole.second.counted == 42);
  check_same(whole, one_step<Model>({some_rows(all, 0, 2), some_rows(all, 2, 4), some_rows(all, 4, 6)}, {}, config));
  check_same(whole, one_step<Model>({some_rows(all, 0, 1), some_rows(all, 1, 6)}, {}, config));
}

BOOST_AUTO_TEST_CASE(micro_batches_with_uneven_counts_of_labels) {
  auto all = big_batch();
  // Row 0 predicts nothing, row 1 one token, the others all but a few.
  for (std::size_t i = 0; i < 14; ++i) all.targets[i] = i == 9 ? all.targets[i] : mf::ignore_label;
  all.targets[20] = all.targets[30] = all.targets[31] = mf::ignore_label;
  auto const config = mf::Config::of(tiny_shape);
  auto const whole = one_step<Model>({all}, {}, config);
  BOOST_TEST(whole.second.counted == 26);
  check_same(whole, one_step<Model>({some_rows(all, 0, 1), some_rows(all, 1, 2), some_rows(all, 2, 6)}, {}, config));
  // Labels instead of targets, and a mask.
  mf::Batch labels = all;
  labels.labels = labels.ids;
  labels.targets.clear();
  labels.mask.assign(labels.ids.size(), 1);
  for (std::size_t i = 0; i < 5; ++i) labels.mask[i] = 0;
  mf::Batch first = labels, second = labels;
  for (auto* half : {&first, &second}) {
    half->rows = 3;
    auto const middle = static_cast<std::ptrdiff_t>(21);
    auto keep = [&](auto& v) {
      if (half == &first) v.resize(21);
      else v.erase(v.begin(), v.begin() + middle);
    };
    keep(half->ids);
    keep(half->labels);
    keep(half->mask);
  }
  auto const expected = one_step<Model>({labels}, {}, config);
  BOOST_TEST(expected.second.counted == 31);
  BOOST_TEST(expected.second.tokens == 37);
  check_same(expected, one_step<Model>({first, second}, {}, config));
}

BOOST_AUTO_TEST_CASE(micro_batches_of_a_classifier) {
  constexpr mf::Shape shape{.vocab_size = 20, .hidden_size = 8, .layers = 1, .router_hidden_size = 4,
                            .attention = {.experts = 2, .top_k = 1, .heads = 2, .hidden_size = 8},
                            .feed_forward = {.experts = 2, .top_k = 2, .hidden_size = 5}, .labels = 3};
  using Classifier = mf::SequenceClassifier<shape, mf::Policies<>, Double>;
  mf::Batch const all{.rows = 3, .tokens = 2, .ids = {1, 2, 3, 4, 5, 6}, .labels = {2, 0, 1}};
  mf::Batch const first{.rows = 1, .tokens = 2, .ids = {1, 2}, .labels = {2}};
  mf::Batch const second{.rows = 2, .tokens = 2, .ids = {3, 4, 5, 6}, .labels = {0, 1}};
  auto const whole = one_step<Classifier>({all}, {}, mf::Config::of(shape));
  BOOST_TEST(whole.second.counted == 3);
  check_same(whole, one_step<Classifier>({first, second}, {}, mf::Config::of(shape)));
}

BOOST_AUTO_TEST_CASE(routing_losses_are_averaged_over_micro_batches) {
  auto const all = big_batch();
  auto const config = mf::Config::of(tiny_shape);
  mf::Settings const settings{.aux_loss_weight = 0.5};
  auto const first = some_rows(all, 0, 2), second = some_rows(all, 2, 6);
  auto const a = one_step<Model>({first}, settings, config).second, b = one_step<Model>({second}, settings, config).second;
  auto const both = one_step<Model>({first, second}, settings, config).second;
  BOOST_CHECK_CLOSE_FRACTION(both.auxiliary, (a.auxiliary + b.auxiliary) / 2, 1e-13);
  BOOST_CHECK_CLOSE_FRACTION(both.task, (a.task * 14 + b.task * 28) / 42, 1e-13);
  BOOST_CHECK_CLOSE_FRACTION(both.total, both.task + 0.5 * both.auxiliary, 1e-13);
}

using Losses = boost::mpl::list<mf::MutualInformationLoss, mf::LoadConcentrationLoss, mf::ExactSwitchLoss, mf::RouterZLoss, mf::ImportanceLoss>;

// The statistics are those of the big batch, and so is the loss, whose gradient each micro-batch has its share of.
BOOST_AUTO_TEST_CASE_TEMPLATE(a_loss_over_the_whole_batch_is_that_of_the_big_batch, Loss, Losses) {
  auto const all = big_batch();
  auto const config = mf::Config::of(tiny_shape);
  mf::Settings const settings{.aux_loss_weight = 0.7};
  using Whole = mf::CausalLM<tiny_shape, mf::Policies<Loss, mf::WholeBatchStatistics>, Double>;
  auto const big = one_step<mf::CausalLM<tiny_shape, mf::Policies<Loss>, Double>>({all}, settings, config);
  auto check = [&](auto const& parts) {
    check_same(big, parts);
    BOOST_CHECK_CLOSE_FRACTION(parts.second.auxiliary, big.second.auxiliary, 1e-12);
  };
  check(one_step<Whole>({all}, settings, config));
  check(one_step<Whole>({some_rows(all, 0, 2), some_rows(all, 2, 4), some_rows(all, 4, 6)}, settings, config));
  check(one_step<Whole>({some_rows(all, 0, 1), some_rows(all, 1, 6)}, settings, config));
}

BOOST_AUTO_TEST_CASE(streaming_statistics) {
  auto const all = big_batch();
  auto const config = mf::Config::of(tiny_shape);
  mf::Settings const settings{.aux_loss_weight = 0.7};
  auto const first = some_rows(all, 0, 1), second = some_rows(all, 1, 6);
  // Counts so far are those of the only micro-batch; in the first step its probabilities are its own.
  using Switch = mf::CausalLM<tiny_shape, mf::Policies<mf::ExactSwitchLoss>, Double>;
  using StreamingSwitch = mf::CausalLM<tiny_shape, mf::Policies<mf::ExactSwitchLoss, mf::StreamingStatistics>, Double>;
  check_same(one_step<Switch>({all}, settings, config), one_step<StreamingSwitch>({all}, settings, config));
  using StreamingMi = mf::CausalLM<tiny_shape, mf::Policies<mf::StreamingStatistics>, Double>;
  check_same(one_step<Model>({first, second}, settings, config), one_step<StreamingMi>({first, second}, settings, config));
  // With two, the second is differentiated by the counts of both: another gradient, the same report.
  auto const own = one_step<Switch>({first, second}, settings, config), streamed = one_step<StreamingSwitch>({first, second}, settings, config);
  BOOST_TEST(own.first != streamed.first);
  BOOST_TEST(own.second.auxiliary == streamed.second.auxiliary);
  BOOST_TEST(std::abs(own.second.gradient_norm / streamed.second.gradient_norm - 1) < 0.1);
}

BOOST_AUTO_TEST_CASE(streaming_uses_the_step_before) {
  // With weights that do not move, the second step's p(e) before is the first step's p(e): the gradient is that of both alike.
  auto const all = big_batch();
  mf::Settings settings{.aux_loss_weight = 0.7, .initializer_range = 0.4};
  auto const gradient_of_second = [&]<class M>(std::type_identity<M>, mf::Batch const& before) {
    auto model = M::random(5, settings);
    mf::Trainer trainer{model, mf::AdamW{.learning_rate = 0, .weight_decay = 0}, mf::Constant{}, {.threads = 2}};
    trainer.step(before);
    trainer.step(all);
    return std::vector<double>(trainer.gradient().values().begin(), trainer.gradient().values().end());
  };
  using Streaming = mf::CausalLM<tiny_shape, mf::Policies<mf::StreamingStatistics>, Double>;
  auto const own = gradient_of_second(std::type_identity<Model>{}, all), same = gradient_of_second(std::type_identity<Streaming>{}, all);
  double difference = 0, largest = 0;
  for (std::size_t i = 0; i < own.size(); ++i) difference = std::max(difference, std::abs(own[i] - same[i])), largest = std::max(largest, std::abs(own[i]));
  BOOST_TEST(difference < 1e-12 * largest);
  BOOST_TEST(own != gradient_of_second(std::type_identity<Streaming>{}, some_rows(all, 0, 1)));
}

BOOST_AUTO_TEST_CASE(nothing_to_learn_from) {
  auto model = Model::random(1);
  mf::Trainer trainer{model};
  auto batch = big_batch();
  auto const before = weights(model);
  BOOST_TEST(complaint([&] { (void)trainer.step(std::span<mf::Batch const>{}); }) ==
             "training step 1: expected at least one batch");
  batch.targets.assign(batch.targets.size(), mf::ignore_label);
  BOOST_TEST(complaint([&] { (void)trainer.step(batch); }) ==
             "training step 1: no label counts, expected at least one target that is not -100");
  batch.targets[3] = 256;
  BOOST_TEST(complaint([&] { (void)trainer.step(batch); }).find("expected an id from 0 to 255 or -100, found 256") !=
             std::string::npos);
  BOOST_TEST(trainer.steps() == 0);
  BOOST_TEST(same_bits(before, weights(model)));
}
