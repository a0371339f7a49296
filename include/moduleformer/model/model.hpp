// SPDX-License-Identifier: MIT
#pragma once
// Model<Head, shape, Policies, Backend>: parameters, policies and settings of a transformer with a head.
// It is immutable while it runs; a Session holds what a run needs. CausalLM and SequenceClassifier are
// the two models of the published code.

#include <moduleformer/model/given_routes.hpp>
#include <moduleformer/model/heads.hpp>
#include <moduleformer/model/kept_rows.hpp>
#include <moduleformer/model/kv_cache.hpp>
#include <moduleformer/model/reports.hpp>
#include <moduleformer/model/session.hpp>
#include <moduleformer/model/transformer.hpp>
#include <moduleformer/nn/parameter_storage.hpp>

#include <array>
#include <memory>
#include <span>
#include <string>
#include <vector>

namespace moduleformer {

template <class Head, Shape shape, class PolicySet, Backend B>
class Model {
 public:
  using BackendType = B;
  using Scalar = typename B::Scalar;
  using Accumulator = typename B::Accumulator;  // of values that leave the model: logits, observations, weights
  using S = Scalar;
  using A = Accumulator;
  using PoliciesType = PolicySet;
  using HeadType = Head;
  using TransformerType = Transformer<shape, PolicySet, B>;
  using SessionType = Session<B>;
  static constexpr Shape static_shape = shape;

  /// Views of every parameter, or of every gradient.
  template <class Access>
  struct Parameters {
    typename TransformerType::template Parameters<Access> transformer;
    detail::HeadParameters<Access> head;
  };
  using Gradient = GradientStorage<B, Parameters<Gradients<A>>>;

  /// A model with the given values' places; `declare` gives the table they follow. Throws Error for
  /// sizes, settings or policies that no model can have.
  Model(Config config, Settings settings, PolicySet policies = {}) : state_(std::make_unique<State>(config, settings, policies)) {
    set_storage(ParameterStorage<B>(table()));
  }
  Model(Config config, Settings settings, PolicySet policies, ParameterStorage<B> storage)
      : state_(std::make_unique<State>(config, settings, policies)) {
    set_storage(std::move(storage));
    check_kept_rows(state_->config, state_->table, state_->storage);
    if constexpr (ParameterStorage<B>::has_copies) {
      B backend(1);
      refresh(backend);
    }
  }
  /// The table of a model that is not made yet.
  static ParameterTable declare(Config const& config, Settings const& settings, PolicySet const& policies) {
    return State(config, settings, policies).table;
  }

  /// Fresh parameters: a pure function of the seed. For shapes without dynamic extents.
  static Model random(std::uint64_t seed, Settings settings = {}, PolicySet policies = {}) {
    return random(seed, Config::of(shape), settings, policies);
  }
  /// Fresh parameters for a shape whose dynamic extents come from the config.
  static Model random(std::uint64_t seed, Config config, Settings settings = {}, PolicySet policies = {}) {
    check_is_whole(config);
    Model model(std::move(config), settings, std::move(policies));
    B backend(1);
    std::vector<A> host;
    for (std::size_t i = 0; i < model.table().count(); ++i) {
      Segment const& segment = model.table()[i];
      host.resize(static_cast<std::size_t>(segment.size()));
      initialize(segment, i, seed, settings.initializer_range, host.data());
      from_host(backend, static_cast<A const*>(host.data()), model.writable(i));
    }
    model.refresh(backend);
    return model;
  }

  [[nodiscard]] Config const& config() const { return state_->config; }
  [[nodiscard]] Settings const& settings() const { return state_->settings; }
  /// Changes the numbers that may change between runs; throws Error for one out of range.
  void set_settings(Settings settings) {
    check_settings(config(), policies(), settings);
    state_->settings = settings;
    state_->serial_number = new_serial_number();
  }
  [[nodiscard]] PolicySet const& policies() const { return state_->policies; }
  /// For numbers of policies and dynamic checkpointing; changing the kind of a router is not possible.
  [[nodiscard]] PolicySet& policies() {
    state_->serial_number = new_serial_number();
    return state_->policies;
  }
  [[nodiscard]] ParameterTable const& table() const { return state_->table; }
  /// Rows [begin, end) of a segment are the ones that train; none freezes it. Gradient storage and trainers
  /// follow the table they were made with, so this comes before them.
  void set_trainable(std::size_t segment, Index begin, Index end) { state_->table.set_trainable(segment, begin, end); }
  /// Changes whenever work on this model that was recorded must be recorded anew.
  [[nodiscard]] std::uint64_t serial_number() const { return state_->serial_number; }
  [[nodiscard]] Index parameter_count() const { return table().size(); }
  [[nodiscard]] TransformerType const& transformer() const { return state_->transformer; }
  [[nodiscard]] Index outputs() const { return Head::outputs(config()); }

  /// Values of one segment, in backend memory.
  [[nodiscard]] Vector<A const> values(std::size_t segment) const {
    return {state_->storage.place(segment), {table()[segment].size()}};
  }
  /// The same for writing, followed by refresh(); throws Error if they lie in a mapped file.
  [[nodiscard]] Vector<A> writable(std::size_t segment) {
    return {state_->storage.writable(table(), segment), {table()[segment].size()}};
  }
  /// The values rounded to what products read; null where these read the values themselves.
  [[nodiscard]] Vector<S> rounded(std::size_t segment) {
    S* const place = state_->storage.copy(segment);
    return {place, {place != nullptr ? table()[segment].size() : 0}};
  }
  /// Makes the rounded values anew after writing.
  void refresh(B& backend) {
    for (std::size_t i = 0; i < table().count(); ++i)
      if (auto const to = rounded(i)) convert(backend, values(i), to);
  }
  /// Gradient storage for this model, uninitialised.
  [[nodiscard]] Gradient make_gradient() const {
    Parameters<Gradients<A>> views{};
    return Gradient(table(), std::move(views), [this](auto& v, auto& visitor) { state_->visit_parameters(v, visitor); });
  }

  /// Logits of every token (or row). Throws Error for a batch that does not fit.
  [[nodiscard]] Logits<A> logits(SessionType& session, Batch const& batch, ForwardOptions<A> options = {}) const {
    Run run(*this, session, batch, false, options);
    run.forward();
    auto const result = detail::head_logits(run.pass, state_->parameters.head, Matrix<S const>(run.context.hidden), run.head);
    return to_host_logits(session, batch, result);
  }

  /// The transformer alone, for what an observation sees of it.
  void forward(SessionType& session, Batch const& batch, ForwardOptions<A> options) const {
    Run run(*this, session, batch, false, options);
    run.forward();
  }

  /// Losses without gradients; as in evaluation (no dropout, no sampled slots).
  [[nodiscard]] LossReport loss(SessionType& session, Batch const& batch, ForwardOptions<A> options = {}) const {
    Run run(*this, session, batch, true, options);
    check_counted(run.counted);
    run.forward();
    Vector<double> const sums = run.pass.template allocate<double>(2);
    detail::head_loss<B, S, A>(run.pass, state_->parameters.head, nullptr, Matrix<S const>(run.context.hidden), run.head, {},
                               sums.rows(0, 1));
    invoke(run.pass.backend, detail::SumUp{run.context.losses, sums.data() + 1});
    return read_report(session, run.counted, sums, {});
  }

  /// Losses, and their gradients accumulated into `gradient`; `training` switches dropout and sampled
  /// slots on, drawn from the session's random key.
  LossReport gradients(SessionType& session, Batch const& batch, Gradient& gradient, GradientScale scale = {},
                       bool training = false, ForwardOptions<A> options = {}) const {
    Run run(*this, session, batch, true, options, true, training, scale);
    Vector<double> const sums = run.pass.template allocate<double>(2);
    differentiate(run, gradient, sums);
    return read_report(session, run.counted, sums, scale);
  }

  /// A training forward without a head, for the session's totals of the step.
  void add_to_totals(SessionType& session, Batch const& batch, Replay replay, Repeated<B>* repeated) const {
    Run run(*this, session, batch, false, {.replay = replay}, false, true);
    repeat(repeated, run, {}, [&] { run.forward(); });
  }

  /// The same without waiting for the backend: returns the targets that count; sums[0] becomes the summed
  /// cross-entropy, sums[1] the routing losses' sum, both in backend memory. report() makes a LossReport of them.
  /// With `repeated`, the work after the batch was brought to the backend is recorded where that is possible, and
  /// only repeated for batches of the same sizes.
  Index accumulate_gradients(SessionType& session, Batch const& batch, Gradient& gradient, GradientScale scale, bool training,
                             Vector<double> sums, Repeated<B>* repeated = nullptr, Replay replay = {}) const {
    Run run(*this, session, batch, true, {.replay = replay}, true, training, scale);
    repeat(repeated, run, {gradient.values().data(), sums.data()}, [&] { differentiate(run, gradient, sums); });
    return run.counted;
  }

  /// From what accumulate_gradients left, brought to the host.
  [[nodiscard]] LossReport report(Index counted, double cross_entropy, double auxiliary, GradientScale scale) const {
    double const divisor = scale.counted == 0 ? static_cast<double>(counted) : scale.counted;
    return {.task = counted == 0 ? 0 : cross_entropy / static_cast<double>(counted),
            .auxiliary = auxiliary,
            .total = cross_entropy / divisor + routing_weight() * scale.auxiliary * auxiliary,
            .counted = counted};
  }

  /// Appends new tokens to the cached sequences and returns the logits (active, V) of each one's last
  /// token; valid until the session's next use. See KvCache. `repeated`: as for accumulate_gradients.
  [[nodiscard]] Matrix<A const> extend(SessionType& session, KvCache<B>& cache, std::span<CacheExtension const> extensions,
                                       Repeated<B>* repeated = nullptr) const
    requires(!Head::classifies)
  {
    auto& backend = session.backend();
    backend.workspace().release({});
    cache.prepare(extensions, config().vocab_size, session.packed, session.rows);
    Pass<B> pass{backend, state_->settings};
    pass.losses = false;
    pass.most_keys = cache.capacity();
    typename TransformerType::Input input = upload(pass, session.packed);
    input.caches = cache.layers().data();
    HeadInput const head{{}, upload_vector(pass, session.rows)};
    pass.numbers = upload_numbers(pass, {session.random});
    Matrix<A> const logits = pass.template allocate<A>(head.rows.size(), outputs());
    auto const work = [&] {
      auto const context = transformer().forward(pass, state_->parameters.transformer, input, nullptr);
      detail::write_logits(pass, state_->parameters.head, Matrix<S const>(context.hidden), head, logits);
    };
    if (repeated == nullptr) {
      work();
    } else {
      std::uint64_t const key[] = {serial_number(), session.serial_number(), cache.serial_number(),
                                   static_cast<std::uint64_t>(input.ids.size()), static_cast<std::uint64_t>(input.sequences.size())};
      (*repeated)(backend, key, work);
    }
    cache.commit(extensions);
    return logits;
  }

  /// Copies values that lie in mapped files into owned memory, so that the model can be trained.
  void own_values() {
    ParameterStorage<B> owned(table());
    B backend(1);
    for (std::size_t i = 0; i < table().count(); ++i)
      copy(backend, values(i), Vector<A>{owned.writable(table(), i), {table()[i].size()}});
    set_storage(std::move(owned));
  }

 private:
  /// Everything that must keep its address when the model moves.
  struct State {
    State(Config c, Settings s, PolicySet p)
        : config((c.check(), std::move(c))), settings(s), policies(std::move(p)), transformer(config, policies) {
      check_settings(config, policies, settings);
      declare_parameters(table, [this](auto& visitor) { visit_parameters(parameters, visitor); });
    }
    template <class Views, class Visitor>
    void visit_parameters(Views& views, Visitor& visitor) const {
      transformer.visit_parameters(views.transformer, visitor);
      Head::visit_parameters(Head::outputs(config), config.hidden_size, views.head, visitor);
    }

    Config config;
    Settings settings;
    PolicySet policies;
    TransformerType transformer;
    std::uint64_t serial_number = new_serial_number();
    ParameterTable table;
    ParameterStorage<B> storage;
    Parameters<Values<S>> parameters;
  };

  /// One forward of a batch through the transformer.
  struct Run {
    /// Brings the batch and the pass's numbers to the backend. Throws Error for a batch that does not fit.
    Run(Model const& model_, SessionType& session, Batch const& batch, bool with_targets, ForwardOptions<A> options,
        bool keep = false, bool training = false, GradientScale scale = {})
        : model(model_), pass{session.backend(), model.state_->settings, keep, training}, session_number(session.serial_number()),
          observation(options.observation) {
      pass.backend.workspace().release({});
      batch.check(model.config().vocab_size);
      session.packed.pack(batch, model.config().vocab_size, with_targets && !Head::classifies);
      pass.most_keys = session.packed.most_keys();
      if (training) pass.totals = session.totals;
      pass.old_rows = session.old_rows;
      // Totals of the whole batch are complete before a pass differentiates.
      pass.adds_to_totals = !(keep && span_of(model.policies().statistics) == Span::whole_batch);
      input = model.upload(pass, session.packed);
      pass.documents = input.sequences;
      input.kept = &session.kept;
      counted = session.packed.counted;
      if constexpr (Head::classifies) {
        Head::pool(batch, session.packed, model.config().pad_token_id, session.rows);
        head.rows = model.upload_vector(pass, session.rows);
        if (with_targets) {
          head.targets = model.upload_vector(pass, batch.checked_labels(model.outputs()));
          counted = batch.counted_labels();
        }
      } else {
        head.targets = model.upload_vector(pass, session.packed.targets);
      }
      if (options.replay) {
        expects(options.routes.empty(), "forward: routes and replay are both given, expected one of them");
        replayed = upload_routes(pass, model.transformer().blocks(), batch, session.packed.tokens(), options.replay);
        input.routes = replayed.data();
      } else if (!options.routes.empty()) {
        check_routes(pass, model.transformer().blocks(), options.routes, session.packed.tokens());
        input.routes = options.routes.data();
      }
      if (keep && scale.counted == 0) check_counted(counted);
      double const divisor = scale.counted == 0 ? static_cast<double>(counted) : scale.counted;
      double const routing_weight = pass.old_rows.empty() ? model.routing_weight() : 1;
      pass.numbers = model.upload_numbers(pass, {session.random, 1 / divisor, routing_weight * scale.auxiliary});
      if (observation != nullptr) observation->begin(batch);
    }
    void forward() {
      context = model.transformer().forward(pass, model.state_->parameters.transformer, input, observation);
    }

    Model const& model;
    Pass<B> pass;
    std::uint64_t session_number;
    Observation<A>* observation;
    typename TransformerType::Input input{};
    std::vector<BlockRoutes> replayed;
    typename TransformerType::Context context{};
    HeadInput head{};
    Index counted = 0;
  };

  static void check_counted(Index counted) {
    expects(counted > 0, "batch: no label counts, expected at least one target that is not ", ignore_label);
  }
  template <class T>
  static Vector<T const> upload_vector(Pass<B>& pass, std::vector<T> const& host) {
    Vector<T> const place = pass.template allocate<T>(static_cast<Index>(host.size()));
    from_host(pass.backend, host.data(), place);
    return place;
  }
  static PassNumbers const* upload_numbers(Pass<B>& pass, PassNumbers const& numbers) {
    Vector<PassNumbers> const place = pass.template allocate<PassNumbers>(1);
    from_host(pass.backend, &numbers, place);
    return place.data();
  }
  static typename TransformerType::Input upload(Pass<B>& pass, PackedTokens const& packed) {
    return {.ids = upload_vector(pass, packed.ids), .sequences = upload_vector(pass, packed.sequences), .packed = &packed};
  }

  /// work() on a staged run and these places, recorded if that is wanted.
  template <class Work>
  void repeat(Repeated<B>* repeated, Run const& run, std::array<void const*, 2> places, Work const& work) const {
    if (repeated == nullptr) return work();
    auto const number = [](void const* place) { return static_cast<std::uint64_t>(reinterpret_cast<std::uintptr_t>(place)); };
    std::uint64_t const key[] = {serial_number(), run.session_number, static_cast<std::uint64_t>(run.input.ids.size()),
                                 static_cast<std::uint64_t>(run.input.sequences.size()), number(places[0]), number(places[1]),
                                 static_cast<std::uint64_t>(run.pass.most_keys), run.pass.training ? 1u : 0u,
                                 run.input.routes != nullptr ? 1u : 0u};
    (*repeated)(run.pass.backend, key, work);
  }

  /// Forward and backward of a staged run.
  void differentiate(Run& run, Gradient& gradient, Vector<double> sums) const {
    run.forward();
    auto const& views = gradient.views();
    Matrix<S> const dhidden = run.pass.template allocate<S>(run.context.hidden.extent(0), run.context.hidden.extent(1));
    detail::head_loss<B, S, A>(run.pass, state_->parameters.head, &views.head, Matrix<S const>(run.context.hidden), run.head,
                               dhidden, sums.rows(0, 1));
    invoke(run.pass.backend, detail::SumUp{run.context.losses, sums.data() + 1});
    transformer().backward(run.pass, state_->parameters.transformer, views.transformer, run.context, run.input, dhidden);
  }

  LossReport read_report(SessionType& session, Index counted, Vector<double const> sums, GradientScale scale) const {
    double host[2];
    to_host(session.backend(), sums, host);
    return report(counted, host[0], host[1], scale);
  }

  Logits<A> to_host_logits(SessionType& session, Batch const& batch, Matrix<A const> result) const {
    Index const outputs = result.extent(1);
    std::vector<A> host(static_cast<std::size_t>(result.size()));
    to_host(session.backend(), result.reshape(result.size()), host.data());
    if constexpr (Head::classifies) return {result.extent(0), 1, outputs, std::move(host)};
    Logits<A> logits{batch.rows, batch.tokens, outputs, std::vector<A>(batch.ids.size() * static_cast<std::size_t>(outputs))};
    for (Index i = 0; i < session.packed.tokens(); ++i)
      std::copy_n(host.begin() + i * outputs, outputs,
                  logits.values.begin() + session.packed.positions[static_cast<std::size_t>(i)] * outputs);
    return logits;
  }

  [[nodiscard]] double routing_weight() const { return Head::adds_routing_loss ? state_->settings.aux_loss_weight : 0; }

  void set_storage(ParameterStorage<B> storage) {
    state_->storage = std::move(storage);
    state_->serial_number = new_serial_number();
    BindValues<S, PlaceOf> bind(PlaceOf{&state_->storage});
    state_->visit_parameters(state_->parameters, bind);
  }
  struct PlaceOf {
    ParameterStorage<B> const* storage;
    S const* operator()(std::size_t i) const { return storage->readable(i); }
  };

  std::unique_ptr<State> state_;
};

}  // namespace moduleformer
