// The machine behind fibers.h: it runs the threads of a cluster's blocks as fibers of one processor thread,
// keeps their shared memory, and reports faults.
//
// Clusters run one after the other, in random order; the blocks of a cluster run together. A thread runs
// until it waits at a barrier or for the other lanes of its warp. In one half of the clusters the next thread
// is random. In the other half one warp runs as far as it can before the next one starts, which exposes
// missing barriers. Shared memory is filled with NaN before each block. Each shared variable has a heap
// allocation of its own, so that AddressSanitizer sees its bounds.
//
// The variable EK_FIBER_SEED chooses another order.

#pragma once

#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <ucontext.h>

#include <algorithm>
#include <deque>
#include <functional>
#include <mutex>
#include <random>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include "copies.h"

#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/asan_interface.h>
#include <sanitizer/common_interface_defs.h>
// For functions that do not return: AddressSanitizer would clear the stack there.
#define FIBERS_UNCHECKED __attribute__((no_sanitize_address))
#else
#define FIBERS_UNCHECKED
#endif

struct dim3 {
  unsigned x = 1, y = 1, z = 1;
};

inline dim3 threadIdx, blockIdx, blockDim, gridDim;

namespace fibers {

constexpr int kWarp = 32;
constexpr size_t kStackBytes = 64 << 10;

// A barrier or collective, where threads wait for each other.
struct Meeting {
  int expected = 0;
  int line = 0;  // source line at which the first thread waits
  std::vector<int> waiting = {};
};

struct Warp {
  Meeting meeting;
  uint64_t given[kWarp];  // value of each lane that has arrived
  uint64_t taken[kWarp];  // copy of the values when the last lane arrived
};

struct Fiber {
  ucontext_t context;  // the entry of the fiber
  void* resume[5];     // the point to resume at, for __builtin_longjmp
  bool is_started = false;
  char* stack = nullptr;
  size_t stack_bytes = 0;
  void* fake_stack = nullptr;
};

// A block of the running cluster.
struct Block {
  Meeting meeting;
  bool has_begun = false;
};

struct SharedVariable {
  const void* key;
  int rank;  // rank of its block in the cluster
  void* memory;
  size_t bytes;
};

inline std::string environment(const char* name) {
  const char* const value = getenv(name);
  return value == nullptr ? "" : value;
}

class Machine {
 public:
  Machine() : random_(strtoul(environment("EK_FIBER_SEED").c_str(), nullptr, 10) + 1) {
#if defined(__SANITIZE_ADDRESS__)
    __asan_set_error_report_callback(
        [](const char* report) { sanitizer_report() += std::string(report, strnlen(report, 1500)); });
#endif
  }

  // Calls body() once for each thread of each block, and first() when a thread waits for the kernel before
  // this one. Without `first` that kernel has run already.
  template <typename Body>
  void launch(int64_t blocks, int threads, int cluster, size_t dynamic_bytes, size_t most_shared,
              const Body& body, std::function<void()> first = nullptr) {
    const std::lock_guard<std::mutex> lock(mutex_);
    if (cluster < 1 || cluster > 8 || blocks % cluster != 0) {
      throw std::runtime_error("fibers: " + std::to_string(blocks) + " blocks in clusters of " +
                               std::to_string(cluster) + ", which should be 1 to 8 and divide them");
    }
    if (threads < kWarp || threads > 1024 || threads % kWarp != 0) {
      throw std::runtime_error("fibers: a block should have whole warps and at most 1024 threads, it has " +
                               std::to_string(threads));
    }
    if (blocks > 0) ++launches_;
    first_ = std::move(first);
    is_second_ = first_ != nullptr;
    body_ = &body;
    invoke_ = [](const void* function) { (*static_cast<const Body*>(function))(); };
    threads_ = threads;
    most_shared_ = most_shared;
    blocks_.resize(cluster);
    warps_.resize(cluster * threads / kWarp);
    prepare(cluster * threads);
    host_.stack = nullptr;  // another thread of the host may have been here before
    host_.is_started = true;
    gridDim = {static_cast<unsigned>(blocks), 1, 1};
    blockDim = {static_cast<unsigned>(threads), 1, 1};
    for (int rank = 0; rank < cluster; ++rank) add_shared(nullptr, rank, dynamic_bytes, 128);
    for (const int index : shuffled(static_cast<int>(blocks / cluster))) {
      first_block_ = index * cluster;
      run_cluster();
      if (is_broken()) break;
    }
    for (const SharedVariable& variable : shared_) free(variable.memory);
    shared_.clear();
    if (first_ != nullptr) note("fibers: a kernel that should wait for the one before it does not");
    report_failure();
  }

  // A shared variable of the current thread's block.
  void* shared(const void* key, size_t bytes, size_t alignment) {
    for (const SharedVariable& variable : shared_) {
      if (variable.key == key && variable.rank == rank()) return variable.memory;
    }
    return add_shared(key, rank(), bytes, alignment);
  }

  // Maps an address in this block's shared memory to the same address in that of another block of the
  // cluster.
  void* shared_of(const void* address, int rank) {
    const Block& block = blocks_.at(rank);
    if (!block.has_begun || block.meeting.expected == 0) {
      note("fibers: shared memory of a block that " +
           std::string(block.has_begun ? "has ended" : "has not begun"));
    }
    const char* const byte = static_cast<const char*>(address);
    for (const SharedVariable& own : shared_) {
      const char* const begin = static_cast<const char*>(own.memory);
      if (own.rank != this->rank() || byte < begin || byte >= begin + own.bytes) continue;
      for (const SharedVariable& other : shared_) {
        if (other.key == own.key && other.rank == rank) {
          return static_cast<char*>(other.memory) + (byte - begin);
        }
      }
    }
    note("fibers: what is asked of another block is not in shared memory, or not in that block's");
    return const_cast<void*>(address);
  }

  void wait_for_block(int line) { wait(blocks_[rank()].meeting, line); }

  void wait_for_cluster(int line) { wait(cluster_, line); }

  // Gives a value to the warp and returns the values of all lanes.
  const uint64_t* wait_for_warp(uint64_t value, int line) {
    Warp& warp = warps_[current_ / kWarp];
    warp.given[current_ % kWarp] = value;
    if (static_cast<int>(warp.meeting.waiting.size()) == kWarp - 1) {
      memcpy(warp.taken, warp.given, sizeof(warp.taken));
    }
    wait(warp.meeting, line);
    return warp.taken;
  }

  void wait_for_first() {
    has_waited_[current_] = true;
    if (first_ == nullptr) return;
    ready_.push_back(current_);
    is_first_wanted_ = true;
    next();
  }

  int lane() const { return current_ % kWarp; }

  // The copies of the current thread.
  Copies& copies() { return copies_[current_]; }

  // Launches so far that had blocks.
  int64_t launches() const { return launches_; }

  // Records a fault. The thread runs to its next barrier or collective, then `launch` throws.
  void note(const std::string& message) {
    if (failure_.empty()) failure_ = message;
  }

 private:
  static constexpr int kHost = -1;

  static std::string& sanitizer_report() {
    static std::string report;
    return report;
  }

  std::string where() const {
    return "block " + std::to_string(blockIdx.x) + ", thread " + std::to_string(threadIdx.x);
  }

  int rank() const { return current_ / threads_; }

  std::vector<int> shuffled(int count) {
    std::vector<int> order(count);
    for (int i = 0; i < count; ++i) order[i] = i;
    std::shuffle(order.begin(), order.end(), random_);
    return order;
  }

  void* add_shared(const void* key, int rank, size_t bytes, size_t alignment) {
    void* memory = nullptr;
    if (posix_memalign(&memory, std::max<size_t>(alignment, 16), std::max<size_t>(bytes, 1)) != 0) abort();
    memset(memory, 0xff, bytes);
    shared_.push_back({key, rank, memory, bytes});
    check_shared(rank);
    return memory;
  }

  // Dynamic shared memory begins at a multiple of 128 bytes after the kernel's own shared variables.
  void check_shared(int rank) {
    size_t own = 0, dynamic = 0;
    for (const SharedVariable& variable : shared_) {
      if (variable.rank == rank) (variable.key == nullptr ? dynamic : own) += variable.bytes;
    }
    const size_t bytes = (own + 127) / 128 * 128 + dynamic;
    if (bytes <= most_shared_) return;
    note("fibers: a block with " + std::to_string(bytes) + " bytes of shared memory, which has " +
         std::to_string(most_shared_));
  }

  void prepare(int count) {
    while (static_cast<int>(fibers_.size()) < count) {
      fibers_.emplace_back();
      Fiber& fiber = fibers_.back();
      // A protected page in front of the stack stops an overflow.
      const size_t page = 4096;
      char* const memory = static_cast<char*>(mmap(nullptr, kStackBytes + page, PROT_READ | PROT_WRITE,
                                                   MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0));
      if (memory == MAP_FAILED) throw std::runtime_error("fibers: out of memory");
      mprotect(memory, page, PROT_NONE);
      fiber.stack = memory + page;
      fiber.stack_bytes = kStackBytes;
      start(fiber);
    }
  }

  static void start(Fiber& fiber) {
#if defined(__SANITIZE_ADDRESS__)
    __asan_unpoison_memory_region(fiber.stack, fiber.stack_bytes);
#endif
    fiber.is_started = false;
    fiber.fake_stack = nullptr;
    getcontext(&fiber.context);
    fiber.context.uc_stack.ss_sp = fiber.stack;
    fiber.context.uc_stack.ss_size = fiber.stack_bytes;
    fiber.context.uc_link = nullptr;
    makecontext(&fiber.context, &Machine::fiber_main, 0);
  }

  static void fiber_main();

  void live() {
    arrived();
    for (;;) {
      blocks_[rank()].has_begun = true;
      invoke_(body_);
      if (is_second_ && !has_waited_[current_]) {
        note("fibers: " + where() + " ends without having waited for the kernel before this one");
      }
      if (copies().are_pending()) note("fibers: " + where() + " ends before its copies to shared memory");
      for (Meeting* meeting : {&blocks_[rank()].meeting, &cluster_}) {
        --meeting->expected;
        release_if_complete(*meeting);
      }
      next();
    }
  }

  void run_cluster() {
    for (const SharedVariable& variable : shared_) memset(variable.memory, 0xff, variable.bytes);
    const int blocks = static_cast<int>(blocks_.size()), warps = static_cast<int>(warps_.size());
    for (Block& block : blocks_) block = {{threads_, 0, {}}, false};
    cluster_ = {blocks * threads_, 0, {}};
    for (Warp& warp : warps_) warp.meeting = {kWarp, 0, {}};
    copies_.assign(fibers_.size(), {});
    has_waited_.assign(fibers_.size(), false);
    is_hasty_ = random_() % 2 == 0;
    ready_.clear();
    for (const int warp : shuffled(warps)) {
      for (const int lane : shuffled(kWarp)) ready_.push_back(warp * kWarp + lane);
    }
    next();
    for (; is_first_wanted_; next()) run_first();
    if (cluster_.expected == 0) return;
    if (!is_broken()) note("fibers: threads wait for others that never come, " + waiting_threads());
    // The waiting fibers are abandoned; all start anew.
    for (Fiber& fiber : fibers_) start(fiber);
  }

  // The threads of this kernel stay where they are meanwhile.
  void run_first() {
    const dim3 grid = gridDim, block = blockDim;
    try {
      first_();
    } catch (const std::runtime_error& error) {
      note(error.what());
    }
    gridDim = grid;
    blockDim = block;
    first_ = nullptr;
    is_first_wanted_ = false;
  }

  std::string waiting_threads() const {
    std::string description = "blocks from " + std::to_string(first_block_);
    const auto add = [&description](const Meeting& meeting, const char* of) {
      if (meeting.waiting.empty()) return;
      description += "; " + std::to_string(meeting.waiting.size()) + " of " +
                     std::to_string(meeting.expected) + " threads at the barrier of " + of + "line " +
                     std::to_string(meeting.line);
    };
    for (const Block& block : blocks_) add(block.meeting, "");
    add(cluster_, "the cluster, ");
    for (size_t i = 0; i < warps_.size(); ++i) {
      const Meeting& meeting = warps_[i].meeting;
      if (meeting.waiting.empty()) continue;
      description += "; " + std::to_string(meeting.waiting.size()) + " lanes of warp " + std::to_string(i) +
                     " at the collective of line " + std::to_string(meeting.line);
    }
    return description;
  }

  void wait(Meeting& meeting, int line) {
    if (meeting.waiting.empty()) meeting.line = line;
    if (meeting.line != line) {
      note("fibers: " + where() + " waits at line " + std::to_string(line) + ", others at line " +
           std::to_string(meeting.line));
    }
    meeting.waiting.push_back(current_);
    release_if_complete(meeting);
    next();
  }

  void release_if_complete(Meeting& meeting) {
    if (static_cast<int>(meeting.waiting.size()) != meeting.expected) return;
    ready_.insert(ready_.end(), meeting.waiting.begin(), meeting.waiting.end());
    meeting.waiting.clear();
  }

  Fiber& fiber_at(int thread) { return thread == kHost ? host_ : fibers_[thread]; }

  bool is_broken() const { return !failure_.empty() || !sanitizer_report().empty(); }

  // Switches to a thread that can run: a random one, or in haste one of the warp that arrived last. Switches
  // to the host if there is no such thread, or after a fault.
  FIBERS_UNCHECKED void next() {
    int chosen = kHost;
    if (!ready_.empty() && !is_broken() && !is_first_wanted_) {
      const size_t i = is_hasty_ ? ready_.size() - 1 : random_() % ready_.size();
      chosen = ready_[i];
      ready_[i] = ready_.back();
      ready_.pop_back();
    }
    if (chosen == current_) return;
    Fiber& from = fiber_at(current_);
    Fiber& to = fiber_at(chosen);
    current_ = chosen;
#if defined(__SANITIZE_ADDRESS__)
    __sanitizer_start_switch_fiber(&from.fake_stack, to.stack, to.stack_bytes);
#endif
    // swapcontext would make a system call for the signal mask, and make AddressSanitizer clear the whole
    // stack.
    if (__builtin_setjmp(from.resume) == 0) go_to(to);
    arrived();
  }

  FIBERS_UNCHECKED [[gnu::noinline]] static void go_to(Fiber& fiber) {
    if (fiber.is_started) __builtin_longjmp(fiber.resume, 1);
    fiber.is_started = true;
    setcontext(&fiber.context);
  }

  // Called on the stack that has just been switched to.
  void arrived() {
#if defined(__SANITIZE_ADDRESS__)
    const void* bottom = nullptr;
    size_t bytes = 0;
    __sanitizer_finish_switch_fiber(fiber_at(current_).fake_stack, &bottom, &bytes);
    if (host_.stack == nullptr) {
      // The first switch comes from the host.
      host_.stack = static_cast<char*>(const_cast<void*>(bottom));
      host_.stack_bytes = bytes;
    }
#endif
    if (current_ == kHost) return;
    threadIdx = {static_cast<unsigned>(current_ % threads_), 0, 0};
    blockIdx = {static_cast<unsigned>(first_block_ + rank()), 0, 0};
  }

  void report_failure() {
    std::string report = std::exchange(sanitizer_report(), "");
    std::string failure = std::exchange(failure_, "");
    if (!report.empty()) throw std::runtime_error("fibers: out of bounds, " + report);
    if (!failure.empty()) throw std::runtime_error(failure);
  }

  std::mutex mutex_;
  int64_t launches_ = 0;
  std::minstd_rand random_;
  std::deque<Fiber> fibers_;  // a deque, because a context must not move
  std::vector<Warp> warps_;
  std::vector<Copies> copies_;    // of each fiber
  std::vector<bool> has_waited_;  // for the kernel before this one
  std::function<void()> first_;
  bool is_second_ = false, is_first_wanted_ = false;
  std::vector<int> ready_;
  std::vector<SharedVariable> shared_;
  size_t most_shared_ = 0;  // bytes per block
  std::vector<Block> blocks_;
  Meeting cluster_;
  int threads_ = kWarp;  // threads per block
  int64_t first_block_ = 0;
  bool is_hasty_ = false;
  Fiber host_;
  int current_ = kHost;
  const void* body_ = nullptr;
  void (*invoke_)(const void*) = nullptr;
  std::string failure_;
};

// The machine that runs now: the other one, when a kernel waits for the one before it.
inline Machine machines[2];
inline Machine* machine = machines;

inline void Machine::fiber_main() { machine->live(); }

}  // namespace fibers
