// SPDX-License-Identifier: MIT
// A process that replaces a folder is killed before and after each of its system calls in turn. Whatever
// the moment, the folder is the old one or the new one, never neither or mixed, the user's own files
// are there, and the next save works and leaves nothing behind.
// ctest labels: kill uninstrumented

#if defined(__linux__)

#include "support.hpp"

#include <moduleformer/io/folder_commit.hpp>
#include <moduleformer/io/json_file.hpp>
#include <moduleformer/io/tensor_source.hpp>

#include <boost/test/unit_test.hpp>
#include <signal.h>
#include <sys/ptrace.h>
#include <sys/wait.h>

#include <exception>
#include <filesystem>
#include <string>
#include <vector>

namespace mf = moduleformer;
namespace fs = std::filesystem;

BOOST_AUTO_TEST_SUITE(kill_save)

namespace {

/// Saves the number in config.json and four tensors: odd numbers as shards, even ones as one file.
void save(fs::path const& target, int number, bool use_exchange) {
  mf::FolderCommit commit{
      target,
      {.drops = [](std::string_view name) { return mf::is_tensor_file(name, "model"); }, .use_exchange = use_exchange}};
  std::vector<double> const values(24, number);
  std::vector<mf::OutputTensor> tensors;
  for (auto const* name : {"a", "b", "c", "d"}) {
    tensors.push_back(mf::output_tensor(name, mf::StorageType::f32, {4, 6}, values.data()));
  }
  std::string const id = mf::make_save_id();
  mf::write_file(commit.path("config.json"), R"({"number":)" + std::to_string(number) + R"(,"save_id":")" + id + "\"}");
  mf::write_tensors(commit.folder(), "model", tensors, {{"save_id", id}}, number % 2 == 1 ? 200 : 1000);
  commit.finish();
}

/// The number saved last. Throws if the folder is not wholly of one save, or lacks the user's files.
int load(fs::path const& target) {
  auto const folder = mf::resolve_folder(target);
  auto const config = mf::read_json(folder / "config.json");
  mf::TensorSource const source{folder};
  int const number = config.at("number");
  auto const id = config.at("save_id").get<std::string>();
  mf::expects(source.save_id() == id && !id.empty(), "mixed saves");
  mf::expects(source.tensors().size() == 4, "tensors are missing");
  for (auto const& [name, tensor] : source.tensors()) {
    mf::expects(tensor.read<double>() == std::vector<double>(24, number), "tensor ", name, " is of another save");
  }
  mf::expects(fs::exists(folder / "model.safetensors") != fs::exists(folder / "model.safetensors.index.json"),
              "two forms of the tensors");
  mf::expects(mf::test::read_text(folder / "notes.txt") == "mine" && mf::test::read_text(folder / "sub/data") == "mine",
              "the user's files are lost");
  return number;
}

/// How a killed save ended.
enum class Outcome { killed, finished, failed, not_traceable };

/// Runs the function in a child, which is killed at its n-th stop: system calls stop before and after they run.
template <class Function>
Outcome kill_at_stop(int n, Function const& function) {
  pid_t const child = ::fork();
  if (child == 0) {
    if (::ptrace(PTRACE_TRACEME, 0, nullptr, nullptr) != 0) ::_exit(1);
    ::raise(SIGSTOP);
    try {
      function();
    } catch (...) {
      ::_exit(1);
    }
    ::_exit(0);
  }
  int status = 0;
  ::waitpid(child, &status, 0);
  if (!WIFSTOPPED(status)) return Outcome::not_traceable;
  for (int stop = 0; stop < n; ++stop) {
    if (::ptrace(PTRACE_SYSCALL, child, nullptr, nullptr) != 0) return Outcome::not_traceable;
    ::waitpid(child, &status, 0);
    if (WIFEXITED(status)) return WEXITSTATUS(status) == 0 ? Outcome::finished : Outcome::failed;
    if (!WIFSTOPPED(status) || WSTOPSIG(status) != SIGTRAP) return Outcome::failed;
  }
  ::kill(child, SIGKILL);
  ::waitpid(child, &status, 0);
  return WIFSIGNALED(status) ? Outcome::killed : Outcome::failed;
}

/// A process that runs kill_at_stop on request and allocates nothing, so that all its children start from
/// the same memory and make the same system calls: counting them up misses none.
class Killer {
 public:
  template <class Function>
  explicit Killer(Function const& function) {
    BOOST_TEST_REQUIRE(::pipe(requests_) == 0);
    BOOST_TEST_REQUIRE(::pipe(answers_) == 0);
    process_ = ::fork();
    BOOST_TEST_REQUIRE(process_ >= 0);
    if (process_ == 0) {
      ::close(requests_[1]);
      int n = 0;
      while (::read(requests_[0], &n, sizeof n) == sizeof n) {
        auto const outcome = kill_at_stop(n, function);
        if (::write(answers_[1], &outcome, sizeof outcome) != sizeof outcome) break;
      }
      ::_exit(0);
    }
    ::close(answers_[1]);
  }
  Killer(Killer const&) = delete;
  ~Killer() {
    for (int const end : {requests_[0], requests_[1], answers_[0]}) ::close(end);
    ::waitpid(process_, nullptr, 0);
  }

  Outcome operator()(int n) {
    auto outcome = Outcome::failed;
    BOOST_TEST_REQUIRE(::write(requests_[1], &n, sizeof n) == static_cast<ssize_t>(sizeof n));
    BOOST_TEST_REQUIRE(::read(answers_[0], &outcome, sizeof outcome) == static_cast<ssize_t>(sizeof outcome));
    return outcome;
  }

 private:
  int requests_[2]{}, answers_[2]{};
  pid_t process_ = -1;
};

void kill_everywhere(bool use_exchange, int old_number) {
  // In memory if possible: flushing to a disk hundreds of times would be most of the test's time.
  mf::test::TemporaryFolder const base{fs::is_directory("/dev/shm") ? "/dev/shm" : fs::temp_directory_path()};
  auto const origin = base / "origin", place = base / "place", target = base / "place/model";
  fs::create_directories(origin / "model/sub");
  mf::test::write_text(origin / "model/notes.txt", "mine");
  mf::test::write_text(origin / "model/sub/data", "mine");
  save(origin / "model", old_number, true);
  int const new_number = old_number + 1;
  Killer kill_save_at_stop{[&] { save(target, new_number, use_exchange); }};
  int stops = 0, kept = 0, replaced = 0, fell_back = 0;
  for (int n = 1;; ++n) {
    fs::remove_all(place);
    fs::copy(origin, place, fs::copy_options::recursive);
    auto const outcome = kill_save_at_stop(n);
    BOOST_TEST_REQUIRE((outcome != Outcome::not_traceable), "this system does not let a process trace its child");
    BOOST_TEST_REQUIRE((outcome != Outcome::failed), "stop " << n << ": the save failed");
    int found = -1;
    try {
      found = load(target);
    } catch (std::exception const& error) {
      BOOST_ERROR("killed at stop " << n << ": " << error.what());
    }
    BOOST_TEST((found == old_number || found == new_number), "stop " << n);
    (found == old_number ? kept : replaced) += 1;
    BOOST_TEST((found == new_number || replaced == 0), "stop " << n << ": the old folder came back");
    fell_back += mf::resolve_folder(target) != target;
    if (outcome == Outcome::finished) break;
    stops = n;
    save(target, new_number + 1, use_exchange);
    BOOST_TEST(load(target) == new_number + 1);
    BOOST_TEST(std::distance(fs::directory_iterator{place}, {}) == 1, "stop " << n << ": something is left behind");
  }
  BOOST_TEST_MESSAGE("killed at " << stops << " stops: " << kept << " times the old folder, " << replaced
                                  << " times the new one, read from .old " << fell_back << " times");
  BOOST_TEST(stops > 100);
  BOOST_TEST(kept > 50);
  BOOST_TEST(replaced > 5);
  BOOST_TEST((fell_back > 0) == !use_exchange);
}

}  // namespace

BOOST_AUTO_TEST_CASE(kill_at_every_call_of_an_exchange) {
  kill_everywhere(true, 1);
  kill_everywhere(true, 2);
}

BOOST_AUTO_TEST_CASE(kill_at_every_call_of_a_move_through_old) { kill_everywhere(false, 1); }

BOOST_AUTO_TEST_SUITE_END()

#endif
