// SPDX-License-Identifier: MIT
#pragma once
// Trainer: one training step = gradients of one or more micro-batches, clipping, AdamW at the schedule's rate.
// Cross-entropy is averaged over the counted targets of all micro-batches, routing losses over the micro-batches.
// Everything a step draws or reads is a function of (seed, number of steps done, micro-batch), so weights and
// visited state are all that a stopped run needs to go on bit for bit.

#include <moduleformer/backend/buffer.hpp>
#include <moduleformer/backend/repeated.hpp>
#include <moduleformer/core/platform.hpp>
#include <moduleformer/model/model.hpp>
#include <moduleformer/training/divergence.hpp>
#include <moduleformer/training/optimizer.hpp>
#include <moduleformer/training/router_guard.hpp>
#include <moduleformer/training/routing_state.hpp>
#include <moduleformer/training/schedule.hpp>
#include <moduleformer/training/visit_checked.hpp>

#include <cmath>
#include <functional>
#include <span>
#include <string>
#include <utility>
#include <vector>

namespace moduleformer {

struct TrainerOptions {
  int threads = 0;                // 0: as many as the machine offers
  std::uint64_t seed = 0;         // of dropout and sampled slots
  bool accept_other_numbers = false;  // a stored state may come from other optimizer and schedule numbers
  // Where the backend can (CUDA graphs), record a step's work and repeat it while batches keep their sizes.
  bool record_steps = false;
  // step() does not wait for the backend and returns what the step before it did (nothing, step 0, for the first). A
  // step that fails is reported one later; neither it nor the later one has changed anything. Checkpoints wait.
  // finish() brings the last report.
  bool late_reports = false;
  bool observe_load = false;  // keep what routing_load() tells; changes no step
  RouterGuard guard{};        // of the routers that new experts joined
};

/// What one step did. Losses are those before its update.
struct StepReport {
  Index step = 0;            // its number, from 1
  double task = 0;           // cross-entropy per counted target, nats
  double auxiliary = 0;      // unweighted routing losses, mean over the micro-batches
  double guard = 0;          // unweighted divergence of guarded routers on old data, summed; mean over its micro-batches
  double total = 0;          // what was differentiated, but for a guard's l2
  double gradient_norm = 0;  // before clipping
  double learning_rate = 0;
  Index tokens = 0;          // real tokens that went through the model
  Index counted = 0;         // targets that count
};

namespace detail {

/// Random numbers of one micro-batch of one step: a family of their own for each.
inline RandomKey step_key(std::uint64_t seed, Index step, Index micro_batch) {
  auto const number = static_cast<std::uint64_t>(step);
  auto const words = random_words({seed, static_cast<std::uint32_t>(number >> 32), 0xffffffffu},
                                  static_cast<std::uint64_t>(micro_batch));
  return {(std::uint64_t{words[0]} << 32) | words[1], static_cast<std::uint32_t>(number), 0};
}

/// After a step that failed no later one changes anything, until the host has heard of it: step->clip stays not a number.
struct StayFailed {
  AdamWStep* step;
  double* failed;
  MODULEFORMER_HOST_DEVICE void operator()() const {
    *failed += step->clip - step->clip;
    step->clip += *failed;
  }
};

}  // namespace detail

/// mf::Trainer trainer{model, mf::AdamW{.learning_rate = 3e-3}, mf::WarmupCosine{.warmup = 50, .total = 1000}};
/// The model must outlive the trainer, and its parameters must lie in owned memory.
template <class Model, Schedule Rate = Constant>
class Trainer {
 public:
  using B = typename Model::BackendType;
  using A = typename B::Accumulator;
  using SessionType = typename Model::SessionType;

  /// Throws Error for numbers out of range, and for a model whose trainable values lie in a mapped file.
  explicit Trainer(Model& model, AdamW optimizer = {}, Rate schedule = {}, TrainerOptions options = {})
      : model_(&model),
        optimizer_(optimizer),
        schedule_(std::move(schedule)),
        options_(options),
        session_(SessionOptions{.threads = options.threads, .seed = options.seed}),
        gradient_(model.make_gradient()),
        moments_(session_.backend(), model.table()),
        totals_(detail::make_routing_totals(session_.backend(), model, options.observe_load)) {
    session_.totals = totals_.routers();
    fill_zero(failed_);
    optimizer_.check();
    options_.guard.check();
    if (options_.guard.active()) old_rows_ = detail::old_router_rows(model);
    if constexpr (requires { schedule_.check(); }) schedule_.check();
    expects(moments_.size() > 0, "Trainer: every parameter of the model is frozen");
    for (std::size_t i = 0; i < model.table().count(); ++i)
      if (model.table()[i].trainable_size() > 0) (void)model.writable(i);
    detail::for_selection_states(model.table(), std::as_const(model).policies().selection,
                                 [&](std::size_t i) { (void)model.writable(i); });
  }

  /// Goes on after surgery (modular/): the steps, the numbers and the moments of a trainer of the old model. Statistics of
  /// routing over more than a step begin anew. Throws Error while a step's report is outstanding.
  template <class OldModel>
  Trainer(Model& model, Trainer<OldModel, Rate> const& before, RowMap const& rows)
      : Trainer(model, before.optimizer(), before.schedule(), before.options()) {
    before.expect_reported();
    moments_ = AdamWState<B>(session_.backend(), model.table(), rows, before.moments(), before.model().table());
    steps_ = before.steps();
  }

  /// One step on one batch, on the recorded routes if given.
  StepReport step(Batch const& batch, Replay replay = {}) {
    return step(std::span<Batch const>(&batch, 1), std::span<Replay const>(&replay, replay ? 1 : 0));
  }

  /// One step on micro-batches that together form one batch. Throws Error, with weights and optimizer as they
  /// were, for batches that do not fit, without a label that counts, and when a loss or gradient is not finite.
  /// The host waits for the backend at the end at the earliest: an update that is not finite changes nothing there.
  /// `replays`: one for each micro-batch, or none; their record must live until the step's report. `old_data`, for a guard's
  /// kl: batches that only the routers are compared on.
  StepReport step(std::span<Batch const> micro_batches, std::span<Replay const> replays = {},
                  std::span<Batch const> old_data = {}) {
    Pending& now = next_;
    now.report = check(micro_batches);
    expects(replays.empty() || replays.size() == micro_batches.size(), "training step ", now.report.step,
            ": expected a replay for each of ", micro_batches.size(), " micro-batches or none, found ", replays.size());
    expects(old_data.empty() != (options_.guard.kl > 0), "training step ", now.report.step,
            ": expected batches of old data if the guard has a kl, and only then, found ", old_data.size());
    now.replays.assign(replays.begin(), replays.end());
    now.counted.clear();
    now.scale = {.counted = static_cast<double>(now.report.counted), .auxiliary = 1 / static_cast<double>(micro_batches.size())};
    B& backend = session_.backend();
    auto const losses = losses_of(micro_batches.size() + old_data.size());
    now.report.learning_rate = optimizer_.learning_rate * static_cast<double>(schedule_.factor(steps_));
    AdamWStep const numbers = optimizer_.step_numbers(now.report.learning_rate, now.report.step);
    from_host(backend, &numbers, step_numbers_.view());
    fill(backend, gradient_.values(), A(0));
    totals_.begin_step(backend);
    if (span_of(std::as_const(*model_).policies().statistics) == Span::whole_batch)
      for (std::size_t i = 0; i < micro_batches.size(); ++i) {
        session_.random = detail::step_key(options_.seed, steps_, static_cast<Index>(i));
        model_->add_to_totals(session_, micro_batches[i], now.replay(i), options_.record_steps ? &recorded_totals_[i] : nullptr);
      }
    for (std::size_t i = 0; i < micro_batches.size(); ++i) {
      session_.random = detail::step_key(options_.seed, steps_, static_cast<Index>(i));
      now.counted.push_back(model_->accumulate_gradients(session_, micro_batches[i], gradient_, now.scale, true,
                                                         losses.rows(2 * static_cast<Index>(i), 2),
                                                         options_.record_steps ? &recorded_[i] : nullptr, now.replay(i)));
      now.report.tokens += session_.packed.tokens();
    }
    session_.old_rows = old_rows_;
    for (std::size_t i = 0; i < old_data.size(); ++i) {
      std::size_t const place = micro_batches.size() + i;
      model_->accumulate_gradients(session_, old_data[i], gradient_, options_.guard.scale(old_data.size()), false,
                                   losses.rows(2 * static_cast<Index>(place), 2),
                                   options_.record_steps ? &recorded_[place] : nullptr);
    }
    session_.old_rows = {};
    now.old_batches = old_data.size();
    update_weights(losses);
    steps_ = now.report.step;
    bool const checkpoint = checkpoint_ && steps_ % checkpoint_every_ == 0;
    if (options_.late_reports) now.batches.assign(micro_batches.begin(), micro_batches.end());
    StepReport before = finish();
    std::swap(pending_, next_);
    is_pending_ = true;
    mailbox_.send(backend, Vector<double const>(numbers_.view().rows(0, losses.size() + 1)));
    if (options_.late_reports && !checkpoint) return before;
    StepReport const report = receive(options_.late_reports ? std::span<Batch const>(pending_.batches) : micro_batches);
    if (checkpoint) checkpoint_(report);
    if (!options_.late_reports) return report;
    known_ = report;
    return before;
  }

  /// With late_reports: waits for the last step and returns what it did; step 0 if that is known already.
  StepReport finish() { return is_pending_ ? receive(pending_.batches) : std::exchange(known_, {}); }

  /// Calls back after every `every`-th step, when weights and state are those of a complete step.
  void on_checkpoint(Index every, std::function<void(StepReport const&)> callback) {
    expects(every > 0, "on_checkpoint: expected a positive number of steps, found ", every);
    checkpoint_every_ = every;
    checkpoint_ = std::move(callback);
  }

  /// Steps done, also those before a resume: where a run goes on (BatchOptions::begin_step).
  [[nodiscard]] Index steps() const { return steps_; }
  [[nodiscard]] Model& model() const { return *model_; }
  [[nodiscard]] SessionType& session() { return session_; }
  [[nodiscard]] AdamW const& optimizer() const { return optimizer_; }
  [[nodiscard]] Rate const& schedule() const { return schedule_; }
  [[nodiscard]] TrainerOptions const& options() const { return options_; }
  /// Throws Error while a step's report is outstanding: its work may not be done.
  void expect_reported() const {
    expects(!is_pending_, "training state: step ", steps_, " has not reported yet, call finish() first");
  }
  /// Of the last step, before clipping.
  [[nodiscard]] typename Model::Gradient const& gradient() const { return gradient_; }
  [[nodiscard]] AdamWState<B> const& moments() const { return moments_; }
  /// With observe_load: for each router (attention and feed-forward of each layer in turn) how many tokens of the last step's
  /// batch chose each of its experts, shared ones left out. Waits for the backend.
  /// With late_reports it is of the step after the reported one.
  [[nodiscard]] std::vector<std::vector<double>> routing_load() {
    expects(options_.observe_load, "routing_load: expected a trainer with observe_load");
    std::vector<std::vector<double>> load;
    for (RouterTotals const& router : totals_.routers()) {
      auto& of_router = load.emplace_back(static_cast<std::size_t>(router.experts()));
      to_host(session_.backend(), Vector<double const>(router.count), of_router.data());
    }
    for (std::size_t r = 0; r < load.size(); ++r) {  // rows of removed experts
      Index const layer = static_cast<Index>(r / 2);
      auto const kept = kept_rows(*model_, layer, r % 2 == 0, static_cast<Index>(load[r].size()));
      std::size_t row = 0;
      std::erase_if(load[r], [&](double) { return !kept[row++]; });
    }
    return load;
  }

  /// The state beside the weights: numbers that a stored state must agree with, the steps done, both moments.
  /// Nothing is taken over before the numbers were found to agree. Throws Error while a step's report is outstanding.
  template <class Self, class Visitor>
  static void visit(Self& self, Visitor&& visit) {
    self.expect_reported();
    bool const any = self.options_.accept_other_numbers;
    detail::visit_checked(visit, "seed", self.options_.seed);
    detail::visit_checked(visit, "optimizer", self.optimizer_.describe(), any);
    detail::visit_checked(visit, "schedule", describe(self.schedule_), any);
    visit(std::string_view("step"), self.steps_);
    expects(self.steps_ >= 0, "stored training state: step: expected a number from 0, found ", self.steps_);
    AdamWState<B>::visit(self.moments_, self.model_->table(), visit);
    if (span_of(std::as_const(*self.model_).policies().statistics) == Span::streaming)
      RoutingTotals<B>::visit(self.totals_, visit);
  }

 private:
  void fill_zero(Buffer<double, typename B::Memory>& number) {
    double const zero = 0;
    from_host(session_.backend(), &zero, number.view());
  }

  /// What is known of a step before it runs; throws Error for batches that do not fit.
  StepReport check(std::span<Batch const> micro_batches) const {
    StepReport report{.step = steps_ + 1};
    expects(!micro_batches.empty(), "training step ", report.step, ": expected at least one batch");
    expects(model_->table().training_size() == moments_.size(), "training step ", report.step,
            ": the model's trainable parameters changed, make a new Trainer");
    check_policies(std::as_const(*model_).policies());
    bool const keeps = options_.observe_load || detail::needs_routing_totals(std::as_const(*model_));
    expects(keeps == !totals_.routers().empty(), "training step ", report.step,
            ": the model's policies changed, make a new Trainer");
    for (Batch const& batch : micro_batches) {
      batch.check(model_->config().vocab_size);
      report.counted += Model::HeadType::classifies ? batch.counted_labels() : batch.counted_targets();
    }
    expects(report.counted > 0, "training step ", report.step, ": no label counts, expected at least one target that is not ",
            ignore_label);
    return report;
  }

  /// Room for two sums of each micro-batch, behind the squared norm.
  Vector<double> losses_of(std::size_t micro_batches) {
    Index const count = 2 * static_cast<Index>(micro_batches);
    if (numbers_.size() < count + 1) {
      numbers_ = Buffer<double, typename B::Memory>(count + 1);
      if (options_.record_steps) recorded_.resize(micro_batches), recorded_totals_.resize(micro_batches);
    }
    return numbers_.view().rows(1, count);
  }

  /// A step whose numbers are on their way to the host.
  struct Pending {
    StepReport report;
    GradientScale scale{};
    std::vector<Index> counted{};  // targets of each micro-batch
    std::vector<Batch> batches{};  // for late reports
    std::vector<Replay> replays{};
    std::size_t old_batches = 0;
    [[nodiscard]] Replay replay(std::size_t i) const { return replays.empty() ? Replay{} : replays[i]; }
  };

  /// The norm of the gradient and the update, recorded where that is wanted.
  void update_weights(Vector<double const> losses) {
    B& backend = session_.backend();
    backend.workspace().release({});  // scratch lies at the same places after batches of any size: see Repeated
    auto const work = [&] {
      if (options_.guard.l2 > 0) detail::add_guard_decay(backend, *model_, options_.guard.l2, gradient_);
      measure_gradient(backend, optimizer_, gradient_, losses, numbers_.view().rows(0, 1), step_numbers_.view());
      invoke(backend, detail::StayFailed{step_numbers_.data(), failed_.data()});
      update(backend, optimizer_, step_numbers_.view(), gradient_, moments_, *model_);
      totals_.end_step(backend, step_numbers_.view());
      detail::update_selections(backend, *model_, totals_, Vector<AdamWStep const>(step_numbers_.view()));
    };
    if (!options_.record_steps) return work();
    std::uint64_t const key[] = {model_->serial_number(), static_cast<std::uint64_t>(losses.size()),
                                 reinterpret_cast<std::uintptr_t>(numbers_.data())};
    recorded_update_(backend, key, work);
  }

  /// Takes the pending step's numbers; throws Error if one is not finite (the update has then changed nothing).
  StepReport receive(std::span<Batch const> micro_batches) {
    std::span<double const> const numbers = mailbox_.receive();
    Pending const& done = pending_;
    is_pending_ = false;
    StepReport report = done.report;
    report.gradient_norm = std::sqrt(numbers[0]);
    auto const loss_of = [&](std::size_t i) {
      return model_->report(done.counted[i], numbers[2 * i + 1], numbers[2 * i + 2], done.scale);
    };
    for (std::size_t i = 0; i < done.counted.size(); ++i) {
      LossReport const loss = loss_of(i);
      report.task += loss.task * static_cast<double>(loss.counted) / done.scale.counted;
      report.auxiliary += loss.auxiliary * done.scale.auxiliary;
      report.total += loss.total;
    }
    for (std::size_t i = done.counted.size(); i < done.counted.size() + done.old_batches; ++i)
      report.guard += numbers[2 * i + 2] / static_cast<double>(done.old_batches);
    report.total += options_.guard.kl * report.guard;
    if (!std::isfinite(report.total)) {
      // A loss over the whole batch fails in every micro-batch: one whose cross-entropy fails is to blame first.
      std::size_t failed = 0;
      for (bool const by_task : {false, true})
        for (std::size_t i = done.counted.size(); i-- > 0;)
          if (!std::isfinite(by_task ? loss_of(i).task : loss_of(i).total)) failed = i;
      fail_loss(micro_batches, failed, done, loss_of(failed).total);
    }
    if (!std::isfinite(report.gradient_norm)) {
      go_back(done);
      if (options_.late_reports) repeat_gradients(done);
      fail<Error>("training step ", report.step, ": the gradient's norm is ", report.gradient_norm, ", first not finite: ",
                  detail::first_non_finite(session_.backend(), model_->table(), gradient_));
    }
    return report;
  }

  /// Updates work again, and the step that failed is the next.
  void go_back(Pending const& done) {
    steps_ = done.report.step - 1;
    fill_zero(failed_);
  }

  /// The gradients of a step that a later one has overwritten since.
  void repeat_gradients(Pending const& done) {
    fill(session_.backend(), gradient_.values(), A(0));
    for (std::size_t i = 0; i < done.batches.size(); ++i) {
      session_.random = detail::step_key(options_.seed, steps_, static_cast<Index>(i));
      (void)model_->gradients(session_, done.batches[i], gradient_, done.scale, true, {.replay = done.replay(i)});
    }
  }

  /// Runs the forward that failed again, with the same random numbers.
  [[noreturn]] void fail_loss(std::span<Batch const> batches, std::size_t i, Pending const& done, double loss) {
    go_back(done);
    Observation<A> seen{.want_hidden_states = true, .want_routing = true};
    session_.random = detail::step_key(options_.seed, steps_, static_cast<Index>(i));
    (void)model_->gradients(session_, batches[i], gradient_, done.scale, true,
                            {.observation = &seen, .replay = done.replay(i)});
    fail<Error>("training step ", done.report.step, ": the loss is ", loss, ", first not finite: ", detail::first_non_finite(seen));
  }

  static std::string describe(Rate const& schedule) {
    return with_policy(schedule, []<class Concrete>(Concrete const& concrete) {
      if constexpr (requires { Concrete::name; }) return detail::describe(Concrete::name, concrete);
      else return detail::describe("own", concrete);
    });
  }

  Model* model_;
  AdamW optimizer_;
  Rate schedule_;
  TrainerOptions options_;
  SessionType session_;
  std::vector<Index> old_rows_;  // of each router, if they are guarded
  typename Model::Gradient gradient_;
  AdamWState<B> moments_;
  RoutingTotals<B> totals_;
  Buffer<double, typename B::Memory> numbers_;  // in backend memory: squared norm, two sums of each micro-batch
  Buffer<AdamWStep, typename B::Memory> step_numbers_{1};
  std::vector<Repeated<B>> recorded_;           // of each micro-batch, and of the update
  std::vector<Repeated<B>> recorded_totals_;    // the forwards for the totals of the whole batch
  Repeated<B> recorded_update_;
  typename B::Mailbox mailbox_;
  Buffer<double, typename B::Memory> failed_{1};  // in backend memory: 0, or not a number since a step failed
  Pending next_, pending_;                      // memory that is used in turn
  StepReport known_;                            // with late_reports: of a step that was waited for
  bool is_pending_ = false;
  Index steps_ = 0;
  Index checkpoint_every_ = 0;
  std::function<void(StepReport const&)> checkpoint_;
};

}  // namespace moduleformer
