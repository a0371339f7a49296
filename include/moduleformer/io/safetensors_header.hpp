// SPDX-License-Identifier: MIT
#pragma once
// The header of a safetensors file: 8 bytes of length n, n bytes of JSON (possibly padded with spaces),
// then the tensors' bytes without gaps. The JSON is read event by event, so that a hostile header is
// refused where it goes wrong, and every error can name its byte. Nothing of the data is touched.

#include <moduleformer/core/error.hpp>
#include <moduleformer/core/types.hpp>
#include <moduleformer/io/stored_tensor.hpp>

#include <nlohmann/json.hpp>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <iterator>
#include <limits>
#include <map>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace moduleformer {

/// Key-value pairs of a file or an index.
using Metadata = std::map<std::string, std::string, std::less<>>;

/// Longer headers are refused, as other readers do.
inline constexpr Index max_safetensors_header = 100'000'000;  // bytes

struct SafetensorsHeader {
  Metadata metadata;
  TensorTable tensors;  // without the file
};

/// Reads and checks the header of a whole file's bytes; the name is for messages.
/// Throws FormatError, naming file, tensor and byte.
SafetensorsHeader read_safetensors_header(std::span<std::byte const> file, std::string_view file_name);

namespace detail {

/// An input iterator that reports how far the parser has read.
class TrackedByte {
 public:
  using iterator_category = std::input_iterator_tag;
  using value_type = char;
  using difference_type = std::ptrdiff_t;
  using pointer = char const*;
  using reference = char const&;

  TrackedByte(char const* place, char const** read_to) : place_(place), read_to_(read_to) {}
  reference operator*() const { return *place_; }
  TrackedByte& operator++() {
    *read_to_ = ++place_;
    return *this;
  }
  TrackedByte operator++(int) {
    auto const before = *this;
    ++*this;
    return before;
  }
  friend bool operator==(TrackedByte const& a, TrackedByte const& b) { return a.place_ == b.place_; }
  friend bool operator!=(TrackedByte const& a, TrackedByte const& b) { return a.place_ != b.place_; }

 private:
  char const* place_;
  char const** read_to_;
};

/// Receives the JSON parser's events (the interface is nlohmann's) and fills the header.
class HeaderEvents {
 public:
  HeaderEvents(SafetensorsHeader& header, std::span<std::byte const> file, std::string_view file_name, Index length)
      : header_(header), file_(file), file_name_(file_name), data_begin_(8 + length), read_to_(json_begin()) {}

  [[nodiscard]] char const* json_begin() const { return reinterpret_cast<char const*>(file_.data()) + 8; }
  [[nodiscard]] char const** read_to() { return &read_to_; }

  bool null() { return unexpected("null"); }
  bool boolean(bool) { return unexpected("a truth value"); }
  bool number_integer(std::int64_t value) { return bad_number(value); }
  bool number_unsigned(std::uint64_t value);
  bool number_float(double, std::string const& text) { return bad_number(quoted_name(text)); }
  bool string(std::string& value);
  bool binary(nlohmann::json::binary_t&) { return unexpected("binary data"); }
  bool start_object(std::size_t);
  bool start_array(std::size_t);
  bool key(std::string& value);
  bool end_object() { return end(); }
  bool end_array() { return end(); }
  bool parse_error(std::size_t position, std::string const& token, nlohmann::json::exception const&);

 private:
  enum class At { start, top, metadata, tensor, shape, offsets, done };
  enum class Field { none, data_type, shape, offsets, unknown };

  bool end();
  void finish_tensor();
  bool unexpected(std::string_view found);
  template <class Number>
  bool bad_number(Number const& value);
  [[nodiscard]] std::string_view expected() const;
  /// Whether we are inside a value whose key this version does not know.
  [[nodiscard]] bool is_skipping() const { return at_ == At::tensor && field_ == Field::unknown; }
  template <class... Parts>
  [[noreturn]] void refuse(Parts const&... parts) const;

  SafetensorsHeader& header_;
  std::span<std::byte const> file_;
  std::string_view file_name_;
  Index data_begin_;
  char const* read_to_;
  At at_ = At::start;
  Field field_ = Field::none;
  std::string key_;  // the current tensor's name or metadata key
  StoredTensor tensor_;
  std::vector<Index> offsets_;
  bool has_metadata_ = false, has_data_type_ = false, has_shape_ = false, has_offsets_ = false;
  Index skipped_depth_ = 0;
};

template <class... Parts>
[[noreturn]] void HeaderEvents::refuse(Parts const&... parts) const {
  bool const in_tensor = at_ == At::tensor || at_ == At::shape || at_ == At::offsets;
  fail<FormatError>(file_name_, ": header at byte ", 8 + (read_to_ - json_begin()),
                    in_tensor ? ": tensor " + quoted_name(key_) : std::string{}, ": ", parts...);
}

inline std::string_view HeaderEvents::expected() const {
  switch (at_) {
    case At::start: return "an object";
    case At::top: return key_ == "__metadata__" ? "an object of strings as __metadata__" : "an object for each tensor";
    case At::metadata: return "a string for each key of __metadata__";
    case At::shape: return "non-negative integers in shape";
    case At::offsets: return "non-negative integers in data_offsets";
    case At::done: return "the header's end";
    case At::tensor: break;
  }
  switch (field_) {
    case Field::data_type: return "a string as dtype";
    case Field::shape: return "an array as shape";
    default: return "an array as data_offsets";
  }
}

inline bool HeaderEvents::unexpected(std::string_view found) {
  if (!is_skipping()) refuse("expected ", expected(), ", found ", found);
  return true;
}

template <class Number>
bool HeaderEvents::bad_number(Number const& value) {
  if (!is_skipping()) refuse("expected ", expected(), ", found the number ", value);
  return true;
}

inline bool HeaderEvents::number_unsigned(std::uint64_t value) {
  if (at_ != At::shape && at_ != At::offsets) return bad_number(value);
  if (value > static_cast<std::uint64_t>(std::numeric_limits<Index>::max())) {
    refuse(at_ == At::shape ? "shape" : "data_offsets", " overflows: ", value);
  }
  auto& list = at_ == At::shape ? tensor_.shape : offsets_;
  list.push_back(static_cast<Index>(value));
  return true;
}

inline bool HeaderEvents::string(std::string& value) {
  if (at_ == At::metadata) {
    header_.metadata[key_] = std::move(value);
  } else if (at_ == At::tensor && field_ == Field::data_type) {
    auto const known = std::ranges::find(data_types, value, &DataType::name);
    if (known == data_types.end()) refuse("unknown dtype ", quoted_name(value));
    tensor_.data_type = *known;
  } else {
    return unexpected("a string");
  }
  return true;
}

inline bool HeaderEvents::key(std::string& value) {
  if (skipped_depth_ > 0) return true;
  switch (at_) {
    case At::top:
      key_ = std::move(value);
      if (header_.tensors.contains(key_)) refuse("two tensors are named ", quoted_name(key_));
      break;
    case At::metadata:
      key_ = std::move(value);
      if (!header_.metadata.emplace(key_, "").second) refuse("__metadata__ has the key ", quoted_name(key_), " twice");
      break;
    default: {
      field_ = value == "dtype"          ? Field::data_type
               : value == "shape"        ? Field::shape
               : value == "data_offsets" ? Field::offsets
                                         : Field::unknown;
      bool ignored = false;
      bool& seen = field_ == Field::data_type ? has_data_type_
                   : field_ == Field::shape   ? has_shape_
                   : field_ == Field::offsets ? has_offsets_
                                              : ignored;
      if (std::exchange(seen, true)) refuse("the key ", quoted_name(value), " stands twice");
    }
  }
  return true;
}

inline bool HeaderEvents::start_object(std::size_t) {
  if (is_skipping()) {
    ++skipped_depth_;
  } else if (at_ == At::start) {
    at_ = At::top;
  } else if (at_ == At::top && key_ == "__metadata__") {
    if (std::exchange(has_metadata_, true)) refuse("__metadata__ stands twice");
    at_ = At::metadata;
  } else if (at_ == At::top) {
    at_ = At::tensor;
    field_ = Field::none;
    tensor_ = {};
    offsets_.clear();
    has_data_type_ = has_shape_ = has_offsets_ = false;
  } else {
    unexpected("an object");
  }
  return true;
}

inline bool HeaderEvents::start_array(std::size_t) {
  if (is_skipping()) {
    ++skipped_depth_;
  } else if (at_ == At::tensor && field_ == Field::shape) {
    at_ = At::shape;
  } else if (at_ == At::tensor && field_ == Field::offsets) {
    at_ = At::offsets;
  } else {
    unexpected("an array");
  }
  return true;
}

inline bool HeaderEvents::end() {
  if (skipped_depth_ > 0) {
    --skipped_depth_;
    return true;
  }
  if (at_ == At::tensor) finish_tensor();
  at_ = at_ == At::shape || at_ == At::offsets ? At::tensor : at_ == At::top ? At::done : At::top;
  return true;
}

inline void HeaderEvents::finish_tensor() {
  if (!has_data_type_) refuse("dtype is missing");
  if (!has_shape_) refuse("shape is missing");
  if (!has_offsets_) refuse("data_offsets is missing");
  Index const data_size = static_cast<Index>(file_.size()) - data_begin_;
  Index elements = 1;
  // Each product is bounded by the byte count's limit, so bytes cannot overflow either.
  Index const limit = std::numeric_limits<Index>::max() / tensor_.data_type.bytes;
  for (Index const extent : tensor_.shape) {
    if (extent != 0 && elements > limit / extent) refuse("shape ", shape_text(tensor_.shape), " overflows");
    elements *= extent;
  }
  if (offsets_.size() != 2) refuse("data_offsets has ", offsets_.size(), " numbers, expected 2");
  Index const begin = offsets_[0], end = offsets_[1], bytes = elements * tensor_.data_type.bytes;
  std::string const range = "data_offsets [" + std::to_string(begin) + ", " + std::to_string(end) + "]";
  if (begin > end) refuse(range, " are reversed");
  if (end > data_size) {
    refuse(range, " reach beyond the file, whose data are bytes ", data_begin_, " to ", file_.size());
  }
  if (end - begin != bytes) {
    refuse(range, " hold ", end - begin, " bytes, but shape ", shape_text(tensor_.shape), " of ",
           tensor_.data_type.name, " needs ", bytes);
  }
  tensor_.name = key_;
  tensor_.size = elements;
  tensor_.begin = data_begin_ + begin;
  tensor_.end = data_begin_ + end;
  header_.tensors.emplace(key_, std::move(tensor_));
}

inline bool HeaderEvents::parse_error(std::size_t, std::string const& token, nlohmann::json::exception const&) {
  at_ = At::top;
  refuse("not JSON near ", quoted_name(token));
}

/// Every byte of the data belongs to exactly one tensor.
inline void check_coverage(TensorTable const& tensors, Index data_begin, Index file_size, std::string_view file_name) {
  std::vector<StoredTensor const*> by_place;
  for (auto const& [name, tensor] : tensors) by_place.push_back(&tensor);
  std::ranges::sort(by_place, {}, [](StoredTensor const* tensor) { return std::pair{tensor->begin, tensor->end}; });
  Index place = data_begin;
  StoredTensor const* before = nullptr;
  for (auto const* tensor : by_place) {
    if (tensor->begin < place) {
      fail<FormatError>(file_name, ": tensor ", quoted_name(tensor->name), " at byte ", tensor->begin, " overlaps ",
                        quoted_name(before->name), ", which ends at byte ", place);
    }
    if (tensor->begin > place) {
      fail<FormatError>(file_name, ": gap of ", tensor->begin - place, " bytes at byte ", place, ", before tensor ",
                        quoted_name(tensor->name));
    }
    place = tensor->end;
    before = tensor;
  }
  if (place != file_size) {
    fail<FormatError>(file_name, ": ", file_size - place, " bytes at byte ", place, " belong to no tensor");
  }
}

}  // namespace detail

inline SafetensorsHeader read_safetensors_header(std::span<std::byte const> file, std::string_view file_name) {
  auto const file_size = static_cast<Index>(file.size());
  if (file_size < 8) {
    fail<FormatError>(file_name, ": ", file_size, " bytes, too short for the 8 bytes of a safetensors header's length");
  }
  std::uint64_t length = 0;
  std::memcpy(&length, file.data(), 8);
  if (length > static_cast<std::uint64_t>(max_safetensors_header)) {
    fail<FormatError>(file_name, ": header length ", length, " at byte 0 is over the limit of ", max_safetensors_header,
                      "; not a safetensors file?");
  }
  if (static_cast<Index>(length) > file_size - 8) {
    fail<FormatError>(file_name, ": header length ", length, " at byte 0 reaches beyond the file's ", file_size,
                      " bytes");
  }
  SafetensorsHeader header;
  detail::HeaderEvents events{header, file, file_name, static_cast<Index>(length)};
  char const* const json = events.json_begin();
  if (length == 0 || *json != '{') fail<FormatError>(file_name, ": header at byte 8: expected an object");
  // The JSON parser takes a zero byte for the end of its input.
  if (auto const* const zero = std::memchr(json, 0, length); zero != nullptr) {
    fail<FormatError>(file_name, ": zero byte in the header at byte ", 8 + (static_cast<char const*>(zero) - json));
  }
  detail::TrackedByte const begin{json, events.read_to()}, end{json + length, events.read_to()};
  nlohmann::json::sax_parse(begin, end, &events);
  detail::check_coverage(header.tensors, 8 + static_cast<Index>(length), file_size, file_name);
  return header;
}

}  // namespace moduleformer
