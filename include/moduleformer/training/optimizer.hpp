// SPDX-License-Identifier: MIT
#pragma once
// AdamW (Loshchilov and Hutter, arXiv 1711.05101) over the trainable rows of a parameter table. With g the
// gradient, c = min(1, clip_norm / (|g| + 1e-6)) as PyTorch clips it, and t the update's number from 1:
//   m = b1 m + (1-b1) c g ;  v = b2 v + (1-b2) (c g)^2
//   w = w - rate (m / (1-b1^t) / (sqrt(v / (1-b2^t)) + epsilon) + weight_decay w)

#include <moduleformer/backend/backend.hpp>
#include <moduleformer/backend/buffer.hpp>
#include <moduleformer/backend/remote_vector.hpp>
#include <moduleformer/core/platform.hpp>
#include <moduleformer/nn/parameters.hpp>
#include <moduleformer/nn/row_map.hpp>
#include <moduleformer/training/visit_checked.hpp>

#include <cmath>
#include <memory>
#include <string>
#include <string_view>

namespace moduleformer {

/// Which parameters weight decay pulls to zero: tensors of two and more dimensions (embedding and head
/// included; not biases, norms and temperatures), or all.
enum class Decay { matrices, everything };

/// The optimizer's numbers.
struct AdamW {
  static constexpr std::string_view name = "adamw";
  double learning_rate = 3e-4;  // times the schedule's factor
  double beta1 = 0.9;
  double beta2 = 0.95;
  double epsilon = 1e-8;
  double weight_decay = 0.1;
  double clip_norm = 1.0;  // of the whole gradient; 0: no clipping
  Decay decay = Decay::matrices;

  template <class Self, class Visitor>
  static constexpr void visit(Self& self, Visitor&& visit) {
    visit("learning_rate", self.learning_rate);
    visit("beta1", self.beta1);
    visit("beta2", self.beta2);
    visit("epsilon", self.epsilon);
    visit("weight_decay", self.weight_decay);
    visit("clip_norm", self.clip_norm);
  }

  /// Throws Error naming the number that is out of range.
  void check() const {
    auto from_zero = [](char const* what, double x) {
      expects(x >= 0 && std::isfinite(x), "AdamW: ", what, ": expected a finite number from 0, found ", x);
    };
    from_zero("learning_rate", learning_rate);
    from_zero("weight_decay", weight_decay);
    from_zero("clip_norm", clip_norm);
    expects(beta1 >= 0 && beta1 < 1, "AdamW: beta1: expected a number in [0, 1), found ", beta1);
    expects(beta2 >= 0 && beta2 < 1, "AdamW: beta2: expected a number in [0, 1), found ", beta2);
    expects(epsilon > 0 && std::isfinite(epsilon), "AdamW: epsilon: expected a finite number above 0, found ", epsilon);
  }

  /// All numbers as text.
  [[nodiscard]] std::string describe() const {
    return detail::describe(name, *this) + (decay == Decay::everything ? " decay=everything" : " decay=matrices");
  }
  /// What an update reads in backend memory: the rate and the number of the update, from 1. Not clipped yet.
  [[nodiscard]] AdamWStep step_numbers(double rate, Index number) const {
    expects(number > 0, "AdamW: updates count from 1, found ", number);
    auto const t = static_cast<double>(number);
    return {rate, 1 - std::pow(beta1, t), 1 - std::pow(beta2, t), 1};
  }
  [[nodiscard]] bool decays(Segment const& segment) const { return decay == Decay::everything || segment.is_matrix(); }
};

/// Both moments of the trainable rows, zero at first; laid out as gradients are.
template <Backend B>
class AdamWState {
 public:
  using S = typename B::Accumulator;

  AdamWState(B& backend, ParameterTable const& table) : first_(table.training_size()), second_(table.training_size()) {
    fill(backend, first_.view(), S(0));
    fill(backend, second_.view(), S(0));
    // Whoever writes them next by another backend, as visit() does, must find the zeros there: wait for them.
    S last{};
    if (size() > 0) to_host(backend, Vector<S const>(second_.view()).rows(size() - 1, 1), &last);
  }

  /// Those of a model after surgery: rows that were there and trained keep theirs, others have none yet.
  AdamWState(B& backend, ParameterTable const& table, RowMap const& rows, AdamWState const& old,
             ParameterTable const& old_table)
      : AdamWState(backend, table) {
    expects(rows.tensors.size() == table.count(), "optimizer state: expected a map of the rows of ", table.count(),
            " tensors, found ", rows.tensors.size());
    for (std::size_t i = 0; i < table.count(); ++i) {
      if (rows.tensors[i].old == RowMap::none) continue;
      Segment const &from = old_table[rows.tensors[i].old], &to = table[i];
      copy_rows(backend, rows, i, to.row_size(), from.trainable_begin, from.trainable_end, old.first(from), to.trainable_begin,
                to.trainable_end, first(to));
      copy_rows(backend, rows, i, to.row_size(), from.trainable_begin, from.trainable_end, old.second(from), to.trainable_begin,
                to.trainable_end, second(to));
    }
  }

  [[nodiscard]] Vector<S> first(Segment const& s) { return {first_.data() + s.gradient_offset, {s.trainable_size()}}; }
  [[nodiscard]] Vector<S> second(Segment const& s) { return {second_.data() + s.gradient_offset, {s.trainable_size()}}; }
  [[nodiscard]] Vector<S const> first(Segment const& s) const {
    return {first_.data() + s.gradient_offset, {s.trainable_size()}};
  }
  [[nodiscard]] Vector<S const> second(Segment const& s) const {
    return {second_.data() + s.gradient_offset, {s.trainable_size()}};
  }
  /// Elements of each moment.
  [[nodiscard]] Index size() const { return first_.size(); }

  /// visit("m.<parameter>", values) and visit("v.<parameter>", values) for each segment with trainable rows;
  /// where those are not all rows, the name ends in [first:end]. On a device the values are RemoteVectors; what was
  /// asked of the device must be done.
  template <class Self, class Visitor>
  static void visit(Self& self, ParameterTable const& table, Visitor&& visit) {
    std::shared_ptr<B> backend;
    if constexpr (!has_host_memory<B>) backend = std::make_shared<B>(1);
    for (Segment const& s : table.segments()) {
      if (s.trainable_size() == 0) continue;
      std::string rows;
      if (s.trainable_end - s.trainable_begin != s.rows())
        rows = '[' + std::to_string(s.trainable_begin) + ':' + std::to_string(s.trainable_end) + ']';
      visit_vector(visit, "m." + s.name + rows, backend, self.first(s));
      visit_vector(visit, "v." + s.name + rows, backend, self.second(s));
    }
  }

 private:
  Buffer<S, typename B::Memory> first_, second_;
};

namespace detail {

struct SetZero {
  Vector<double> x;
  MODULEFORMER_HOST_DEVICE void operator()() const {
    for (Index i = 0; i < x.size(); ++i) x[i] = 0;
  }
};

/// step->clip = the clip factor of a gradient whose squared norm is given; not a number if that or one of the `losses`
/// is not finite, so that an update with it changes nothing.
struct ClipFactor {
  double clip_norm;
  Vector<double const> losses;
  double const* squared_norm;
  AdamWStep* step;
  MODULEFORMER_HOST_DEVICE void operator()() const {
    double const norm = std::sqrt(*squared_norm), bound = clip_norm / (norm + 1e-6);
    double zero = norm - norm;  // 0, or not a number
    for (Index i = 0; i < losses.size(); ++i) zero += losses[i] - losses[i];
    step->clip = (clip_norm > 0 && bound < 1 ? bound : 1.0) + zero;
  }
};

}  // namespace detail

/// sum[0] = the squared norm of the gradient of all trainable rows; step[0].clip = the clip factor, not a number if the
/// norm or one of the losses is not finite. All in backend memory. What lies between the segments must be 0.
template <Backend B, class Gradient>
void measure_gradient(B& backend, AdamW const& optimizer, Gradient const& gradient, Vector<double const> losses,
                      Vector<double> sum, Vector<AdamWStep> step) {
  invoke(backend, detail::SetZero{sum});
  if (gradient.values().size() > 0) squared_norm(backend, gradient.values(), sum);
  invoke(backend, detail::ClipFactor{optimizer.clip_norm, losses, sum.data(), step.data()});
}

namespace detail {

/// What an update of some rows reads and writes.
template <Backend B>
struct UpdatedRange {
  using A = typename B::Accumulator;
  Vector<A const> gradient;
  Vector<A> weight;
  Vector<typename B::Scalar> rounded;  // or null
  Vector<A> first, second;
  bool decays = false;

  /// Takes what follows in every array, if the same decay is for it.
  [[nodiscard]] bool join(UpdatedRange const& next) {
    auto const follows = [&](auto const& mine, auto const& theirs) { return mine.data() + mine.size() == theirs.data(); };
    if (decays != next.decays || !follows(gradient, next.gradient) || !follows(weight, next.weight) ||
        !follows(first, next.first) || !follows(second, next.second) ||
        (rounded ? !next.rounded || !follows(rounded, next.rounded) : static_cast<bool>(next.rounded)))
      return false;
    auto const grow = [&](auto& mine, auto const& theirs) { mine = {mine.data(), {mine.size() + theirs.size()}}; };
    grow(gradient, next.gradient);
    grow(weight, next.weight);
    if (rounded) grow(rounded, next.rounded);
    grow(first, next.first);
    grow(second, next.second);
    return true;
  }
};

}  // namespace detail

/// One update of a model's trainable rows by what step[0], in backend memory, says; see AdamW::step_numbers.
template <Backend B, class Model>
void update(B& backend, AdamW const& optimizer, Vector<AdamWStep const> step, typename Model::Gradient const& gradient,
            AdamWState<B>& state, Model& model) {
  using A = typename B::Accumulator;
  detail::UpdatedRange<B> range;
  auto const run = [&] {
    if (range.gradient.size() > 0)
      adamw(backend, {optimizer.beta1, optimizer.beta2, optimizer.epsilon, range.decays ? optimizer.weight_decay : 0}, step,
            range.gradient, range.weight, range.rounded, range.first, range.second);
  };
  for (std::size_t i = 0; i < model.table().count(); ++i) {
    Segment const& s = model.table()[i];
    if (s.trainable_size() == 0) continue;
    auto const rows = [&]<class T>(Vector<T> all) {
      return all ? all.rows(s.trainable_begin * s.row_size(), s.trainable_size()) : all;
    };
    detail::UpdatedRange<B> const next{gradient.segment(s), Vector<A>(rows(model.writable(i))), rows(model.rounded(i)),
                                       state.first(s),      state.second(s),                    optimizer.decays(s)};
    if (range.join(next)) continue;
    run();
    range = next;
  }
  run();
}

}  // namespace moduleformer
