// SPDX-License-Identifier: MIT
#pragma once
// Parameters as a table of segments. A layer lists its tensors once, in visit_parameters; visitors
// over that list declare the table, bind views of values or gradients, and count. Everything else
// (initialising, updating, saving, loading) is a loop over the table.

#include <moduleformer/core/error.hpp>
#include <moduleformer/core/tensor_view.hpp>

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace moduleformer {

/// How a tensor starts: N(0, initializer_range), N(0, 1), U(-1/n, 1/n) with n its middle extent
/// (an expert's fan-in), or a constant. `state`: zero, and never trained by gradients; a policy of the model keeps it.
enum class Initial { normal, standard_normal, expert_uniform, zero, one, state };

/// One named tensor of a model. Rows are indices of its first dimension.
struct Segment {
  std::string name;
  std::vector<Index> shape;
  Initial initial = Initial::zero;
  Index active_rows = 0;        // the others, at the end, are dormant: kept, and nothing computes with them
  Index trainable_begin = 0;    // rows [begin, end) have gradients, moments and updates
  Index trainable_end = 0;
  Index gradient_offset = 0;    // of the trainable rows, in elements, in every training arena

  [[nodiscard]] Index size() const {
    Index product = 1;
    for (Index const extent : shape) product *= extent;
    return product;
  }
  [[nodiscard]] Index rows() const { return shape.front(); }
  [[nodiscard]] Index row_size() const { return rows() == 0 ? 0 : size() / rows(); }
  [[nodiscard]] Index trainable_size() const { return (trainable_end - trainable_begin) * row_size(); }
  [[nodiscard]] bool is_matrix() const { return shape.size() > 1; }
};

/// The segments of a model, in the order in which its layers list them.
class ParameterTable {
 public:
  [[nodiscard]] std::vector<Segment> const& segments() const { return segments_; }
  [[nodiscard]] std::size_t count() const { return segments_.size(); }
  [[nodiscard]] Segment const& operator[](std::size_t i) const { return segments_[i]; }

  /// Elements of all tensors.
  [[nodiscard]] Index size() const {
    Index total = 0;
    for (Segment const& s : segments_) total += s.size();
    return total;
  }
  /// Elements of a training arena (gradients, moments): trainable rows, each segment aligned.
  [[nodiscard]] Index training_size() const { return training_size_; }

  /// The segment's index, or count() if there is none.
  [[nodiscard]] std::size_t find(std::string_view name) const {
    std::size_t i = 0;
    while (i < segments_.size() && segments_[i].name != name) ++i;
    return i;
  }

  void add(Segment segment) {
    segment.active_rows = segment.rows();
    segment.trainable_begin = 0;
    segment.trainable_end = segment.initial == Initial::state ? 0 : segment.rows();
    segments_.push_back(std::move(segment));
    lay_out();
  }

  /// Makes rows [begin, end) of a segment the trainable ones; an empty range freezes it.
  void set_trainable(std::size_t i, Index begin, Index end) {
    Segment& s = segments_.at(i);
    expects(begin >= 0 && begin <= end && end <= s.rows(), s.name, ": expected trainable rows within 0 to ", s.rows(),
            ", found ", begin, " to ", end);
    expects(begin == end || end <= s.active_rows, s.name, ": rows from ", s.active_rows,
            " on are dormant, activate them before training them");
    expects(begin == end || s.initial != Initial::state, s.name, ": is kept by the selection, gradients cannot train it");
    s.trainable_begin = begin;
    s.trainable_end = end;
    lay_out();
  }

  /// Makes the rows from `count` on dormant; they do not train.
  void set_active(std::size_t i, Index count) {
    Segment& s = segments_.at(i);
    expects(count >= 0 && count <= s.rows(), s.name, ": expected active rows up to ", s.rows(), ", found ", count);
    s.active_rows = count;
    s.trainable_end = s.trainable_end < count ? s.trainable_end : count;
    s.trainable_begin = s.trainable_begin < s.trainable_end ? s.trainable_begin : s.trainable_end;
    lay_out();
  }

 private:
  static constexpr Index alignment = 16;  // elements, a cache line of floats

  void lay_out() {
    training_size_ = 0;
    for (Segment& s : segments_) {
      s.gradient_offset = training_size_;
      training_size_ += (s.trainable_size() + alignment - 1) / alignment * alignment;
    }
  }

  std::vector<Segment> segments_;
  Index training_size_ = 0;
};

/// Access to values: views of constant elements.
template <class S>
struct Values {
  using Scalar = S;
  template <int Rank>
  using View = TensorView<S const, Rank>;
};

/// A view of the gradient of a segment's trainable rows, which begin at row `first`. Null if frozen.
template <class S, int Rank>
struct GradientView : TensorView<S, Rank> {
  Index first = 0;
};

/// Access to gradients.
template <class S>
struct Gradients {
  using Scalar = S;
  template <int Rank>
  using View = GradientView<S, Rank>;
};

/// Whether a visitor wants tensors with the rows of dormant experts, or, as all others, what a model computes with.
template <class Visitor>
inline constexpr bool lists_dormant = requires { requires Visitor::lists_dormant; };

/// Base of visitors over visit_parameters: keeps the name's prefix. A layer's
///   visit_parameters(views, visit)  calls  visit("name", views.member, Initial, extents...)
/// and visit.inside("prefix.", [&] { ... }) around a part.
class NamePrefix {
 public:
  template <class Body>
  void inside(std::string_view prefix, Body&& body) {
    std::size_t const length = prefix_.size();
    prefix_ += prefix;
    body();
    prefix_.resize(length);
  }

 protected:
  std::string prefix_;
};

/// Appends every tensor to a table.
class DeclareParameters : public NamePrefix {
 public:
  static constexpr bool lists_dormant = true;
  explicit DeclareParameters(ParameterTable& table) : table_(table) {}

  template <class View, class... Sizes>
  void operator()(std::string_view name, View&, Initial initial, Sizes... sizes) {
    Index product = 1;
    for (Index const extent : {static_cast<Index>(sizes)...}) {
      expects(extent > 0 && product <= largest / extent, prefix_, name, ": its size overflows or is empty");
      product *= extent;
    }
    table_.add({.name = prefix_ + std::string(name), .shape = {static_cast<Index>(sizes)...}, .initial = initial});
  }

 private:
  static constexpr Index largest = Index{1} << 46;  // elements of one tensor
  ParameterTable& table_;
};

/// Tells a declared table which rows are dormant.
class DeclareActive : public NamePrefix {
 public:
  explicit DeclareActive(ParameterTable& table) : table_(table) {}

  template <class View, class First, class... Sizes>
  void operator()(std::string_view, View&, Initial, First rows, Sizes...) {
    table_.set_active(next_++, static_cast<Index>(rows));
  }

 private:
  ParameterTable& table_;
  std::size_t next_ = 0;
};

/// Declares a table: bind(visitor) visits all parameters.
template <class Bind>
void declare_parameters(ParameterTable& table, Bind const& bind) {
  DeclareParameters all(table);
  bind(all);
  DeclareActive active(table);
  bind(active);
}

/// Points every view at its segment's place: `place(i)` is the first element of segment i.
template <class S, class Place>
class BindValues : public NamePrefix {
 public:
  explicit BindValues(Place place) : place_(place) {}

  template <int Rank, class... Sizes>
  void operator()(std::string_view, TensorView<S const, Rank>& view, Initial, Sizes... sizes) {
    view = {place_(next_++), {static_cast<Index>(sizes)...}};
  }

 private:
  Place place_;
  std::size_t next_ = 0;
};

/// Points every gradient view at its trainable rows in a training arena.
template <class S>
class BindGradients : public NamePrefix {
 public:
  BindGradients(ParameterTable const& table, S* arena) : table_(table), arena_(arena) {}

  template <int Rank, class... Sizes>
  void operator()(std::string_view, GradientView<S, Rank>& view, Initial, Sizes... sizes) {
    Segment const& s = table_[next_++];
    typename TensorView<S, Rank>::Extents shape{static_cast<Index>(sizes)...};
    shape[0] = s.trainable_end - s.trainable_begin;
    view = {{shape[0] > 0 ? arena_ + s.gradient_offset : nullptr, shape}, s.trainable_begin};
  }

 private:
  ParameterTable const& table_;
  S* arena_;
  std::size_t next_ = 0;
};

/// Counts elements, at compile time too.
class CountParameters {
 public:
  static constexpr bool lists_dormant = true;
  template <class Body>
  constexpr void inside(std::string_view, Body&& body) {
    body();
  }
  template <class View, class... Sizes>
  constexpr void operator()(std::string_view, View&, Initial, Sizes... sizes) {
    total += (Index{1} * ... * static_cast<Index>(sizes));
  }

  Index total = 0;
};

/// Number of elements that visit_parameters of a layer lists.
template <class Views, class Layer>
constexpr Index count_parameters(Layer const& layer) {
  CountParameters count;
  Views views{};
  layer.visit_parameters(views, count);
  return count.total;
}

}  // namespace moduleformer
