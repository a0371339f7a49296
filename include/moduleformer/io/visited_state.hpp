// SPDX-License-Identifier: MIT
#pragma once
// States (a trainer's, or anything visitable) as one safetensors file: vectors become tensors, numbers and
// strings become JSON in the metadata key "state". A state has
//   template <class Self, class V> static void visit(Self& self, V&& v)
// that calls v("key", x) for each value: bool, an integer, a float or double, a std::string, a
// Vector<S> of host memory, or another visitable (its keys get the prefix "key."). It may have
//   static constexpr std::string_view file_stem  ("trainer" otherwise).
// Vectors of other memory have read(first, span) and, to be loaded, write(first, span) (backend/remote_vector.hpp).

#include <moduleformer/core/error.hpp>
#include <moduleformer/core/tensor_view.hpp>
#include <moduleformer/io/safetensors.hpp>
#include <moduleformer/io/safetensors_writer.hpp>

#include <nlohmann/json.hpp>

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <limits>
#include <set>
#include <span>
#include <string>
#include <string_view>
#include <type_traits>
#include <utility>
#include <vector>

namespace moduleformer {

namespace detail {

struct AnyVisitor {
  template <class T>
  void operator()(std::string_view, T&&) const {}
};

template <class T>
inline constexpr bool is_vector = false;
template <class S>
inline constexpr bool is_vector<TensorView<S, 1>> = true;
template <class T>
inline constexpr bool is_remote_vector =
    requires(T const& x, std::span<typename T::Element> host) { x.read(Index{}, host); };

}  // namespace detail

/// A type whose values can be saved and loaded.
template <class T>
concept Visitable = requires(T& state) { std::remove_cv_t<T>::visit(state, detail::AnyVisitor{}); };

/// The file's name without .safetensors.
template <class State>
constexpr std::string_view state_file_stem() {
  if constexpr (requires { State::file_stem; }) return State::file_stem;
  else return "trainer";
}

namespace detail {

/// JSON has no infinities and no NaN.
inline nlohmann::json json_number(double value) {
  if (std::isfinite(value)) return value;
  return std::isnan(value) ? "nan" : value > 0 ? "inf" : "-inf";
}

/// Gathers what a state visits.
class StateWriter {
 public:
  template <class T>
  void operator()(std::string_view key, T&& value) {
    using Value = std::remove_cvref_t<T>;
    std::string name = prefix_ + std::string(key);
    if constexpr (is_vector<Value>) {
      using S = std::remove_const_t<typename Value::Element>;
      tensors.push_back(output_tensor<S>(std::move(name), storage_type_of<S>, {value.size()}, value.data()));
    } else if constexpr (is_remote_vector<Value>) {
      using S = typename Value::Element;
      auto store = [value](Index first, std::span<std::byte> bytes) {
        value.read(first, {reinterpret_cast<S*>(bytes.data()), bytes.size() / sizeof(S)});
      };
      tensors.push_back({std::move(name), storage_type_of<S>, {value.size()}, std::move(store)});
    } else if constexpr (std::is_floating_point_v<Value>) {
      add(name, json_number(static_cast<double>(value)));
    } else if constexpr (std::is_arithmetic_v<Value> || std::is_same_v<Value, std::string>) {
      add(name, value);
    } else {
      static_assert(Visitable<std::remove_reference_t<T>>,
                    "moduleformer: a state visits numbers, strings, vectors of host memory, or visitable values");
      std::string const outer = std::exchange(prefix_, name + ".");
      Value::visit(value, *this);
      prefix_ = outer;
    }
  }

  std::vector<OutputTensor> tensors;
  nlohmann::json numbers = nlohmann::json::object();

 private:
  void add(std::string const& name, nlohmann::json value) {
    expects(numbers.emplace(name, std::move(value)).second, "state: the key ", name, " is visited twice");
  }

  std::string prefix_;
};

/// Compares what a state visits with a file, or takes it from there.
class StateReader {
 public:
  StateReader(SafetensorsFile const& file, nlohmann::json const& numbers, bool takes)
      : file_(file), numbers_(numbers), takes_(takes) {}

  template <class T>
  void operator()(std::string_view key, T&& value) {
    using Value = std::remove_cvref_t<T>;
    std::string const name = prefix_ + std::string(key);
    if constexpr (is_vector<Value>) {
      using S = typename Value::Element;
      static_assert(!std::is_const_v<S>, "moduleformer: a state that is loaded visits vectors that can be written");
      StoredTensor const& tensor = checked_tensor<S>(name, value.size());
      if (takes_) convert_elements<S, S>(tensor.data(), reinterpret_cast<std::byte*>(value.data()), tensor.size);
    } else if constexpr (is_remote_vector<Value>) {
      using S = typename Value::Element;
      StoredTensor const& tensor = checked_tensor<S>(name, value.size());
      if (takes_) write_remote<S>(tensor, value);
    } else if constexpr (std::is_arithmetic_v<Value> || std::is_same_v<Value, std::string>) {
      auto const place = numbers_.find(name);
      if (place == numbers_.end()) fail<FormatError>(file_.path(), ": the state has no key ", quoted_name(name));
      seen_.insert(name);
      Value const read = parse<Value>(name, *place);
      if (takes_) value = read;
    } else {
      static_assert(Visitable<std::remove_reference_t<T>>,
                    "moduleformer: a state visits numbers, strings, vectors of host memory, or visitable values");
      std::string const outer = std::exchange(prefix_, name + ".");
      Value::visit(value, *this);
      prefix_ = outer;
    }
  }

  /// Throws FormatError for what the file has and the state did not visit.
  void expect_all_seen() const {
    for (auto const& [name, tensor] : file_.tensors())
      if (!seen_.contains(name)) fail<FormatError>(tensor.where(), ": the state has no vector of this name");
    for (auto const& [name, value] : numbers_.items())
      if (!seen_.contains(name)) fail<FormatError>(file_.path(), ": the state does not know the key ", quoted_name(name));
  }

 private:
  /// The same bits as saved, or nothing.
  template <class S>
  StoredTensor const& checked_tensor(std::string const& name, Index size) {
    StoredTensor const& tensor = file_.at(name);
    seen_.insert(name);
    if (tensor.data_type.type != storage_type_of<S>)
      fail<FormatError>(tensor.where(), ": expected ", data_type_name(storage_type_of<S>), ", found ", tensor.data_type.name);
    tensor.expect_shape(std::vector<Index>{size});
    return tensor;
  }

  template <class S, class Remote>
  static void write_remote(StoredTensor const& tensor, Remote const& value) {
    constexpr Index most = Index{1} << 20;
    std::vector<S> part(static_cast<std::size_t>(std::min(most, value.size())));
    for (Index first = 0; first < value.size(); first += most) {
      Index const count = std::min(most, value.size() - first);
      convert_elements<S, S>(tensor.data() + first * static_cast<Index>(sizeof(S)), reinterpret_cast<std::byte*>(part.data()), count);
      value.write(first, std::span<S const>(part).first(static_cast<std::size_t>(count)));
    }
  }

  template <class Value>
  [[nodiscard]] Value parse(std::string const& name, nlohmann::json const& found) const {
    auto refuse = [&](std::string_view expected) {
      fail<FormatError>(file_.path(), ": the state's key ", quoted_name(name), ": expected ", expected, ", found ",
                        quoted_name(found.dump(-1, ' ', true, nlohmann::json::error_handler_t::replace)));
    };
    if constexpr (std::is_same_v<Value, std::string>) {
      if (!found.is_string()) refuse("a string");
      return found.get<std::string>();
    } else if constexpr (std::is_same_v<Value, bool>) {
      if (!found.is_boolean()) refuse("true or false");
      return found.get<bool>();
    } else if constexpr (std::is_floating_point_v<Value>) {
      if (found == "nan") return std::numeric_limits<Value>::quiet_NaN();
      if (found == "inf" || found == "-inf") return (found == "inf" ? 1 : -1) * std::numeric_limits<Value>::infinity();
      if (!found.is_number()) refuse("a number");
      return found.get<Value>();
    } else {
      if (!found.is_number_integer()) refuse("an integer");
      bool const fits = found.is_number_unsigned() ? std::in_range<Value>(found.get<std::uint64_t>())
                                                   : std::in_range<Value>(found.get<std::int64_t>());
      if (!fits) refuse("an integer of " + std::to_string(8 * sizeof(Value)) + " bits");
      return found.get<Value>();
    }
  }

  SafetensorsFile const& file_;
  nlohmann::json const& numbers_;
  bool takes_;
  std::string prefix_;
  std::set<std::string, std::less<>> seen_;
};

inline constexpr std::string_view state_key = "state";

}  // namespace detail

/// Writes the state into a file.
template <Visitable State>
void write_state_file(std::filesystem::path const& file, State const& state, Metadata metadata = {}) {
  detail::StateWriter writer;
  State::visit(state, writer);
  metadata[std::string(detail::state_key)] = writer.numbers.dump();
  write_safetensors(file, writer.tensors, metadata);
}

/// Writes <stem>.safetensors into the folder.
template <Visitable State>
void write_state(std::filesystem::path const& folder, State const& state, Metadata metadata) {
  write_state_file(folder / (std::string(state_file_stem<State>()) + ".safetensors"), state, std::move(metadata));
}

/// Fills the state from the file. Throws FormatError, with the state unchanged, if a value is missing, of
/// another type or size, or unknown.
template <Visitable State>
void read_state(SafetensorsFile const& file, State& state) {
  auto const text = file.metadata(detail::state_key);
  auto const numbers = nlohmann::json::parse(text, nullptr, false);
  if (!numbers.is_object()) fail<FormatError>(file.path(), ": expected an object as metadata key 'state'");
  detail::StateReader check(file, numbers, false);
  State::visit(state, check);
  check.expect_all_seen();
  detail::StateReader take(file, numbers, true);
  State::visit(state, take);
}

}  // namespace moduleformer
