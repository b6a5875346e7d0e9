// One block: a thread is a fiber that runs until it must wait, and the next to run is drawn at random. A thread that
// never waits costs no switch of its own: the fiber goes on with the next one that has not begun.
//
// Drawn from all, the warps advance together, and a missing barrier that shows only when one runs far ahead is not
// seen. So in half of the blocks a random half of the warps is favoured: the others run only when none of these can,
// and these are as far ahead as barriers let them be.
//
// Waiting is of two kinds. At a barrier of the block every live thread waits. In a collective of a warp (shuffle, vote,
// ldmatrix, mma, __syncwarp) the lanes that its mask names lay down their operands; the last to come does the work for
// all. If nobody can go on and somebody waits, the block is deadlocked.
#pragma once
#include <exception>
#include <memory>
#include <vector>

#include "error.h"
#include "fiber.h"
#include "random.h"
#include "shared.h"

namespace simt {
constexpr int kMaxThreads = 1024, kWarp = 32;

// What the lanes of a collective bring: `operation` tells one kind from another, `run` serves all lanes at once, given
// each lane's operands (null for lanes not in the mask).
struct Collective {
  const char* operation;
  void (*run)(void* const* operands, unsigned mask);
};

class Block {
 public:
  int current() const { return current_; }
  int lane() const { return current_ % kWarp; }

  void run(void (*body)(const void*), const void* arguments) {
    body_ = body, arguments_ = arguments;
    count_ = live_ = static_cast<int>(blockDim.x * blockDim.y * blockDim.z);
    at_barrier_ = 0, votes_ = 0, error_ = nullptr;
    threads_.assign(count_, {});
    warps_.resize((count_ + kWarp - 1) / kWarp);
    for (Warp& warp : warps_) warp.exited = 0, warp.open.clear();
    favoured_ = order.below(2) ? static_cast<uint32_t>(order.next()) : 0;
    for (auto& threads : ready_) threads.clear();
    for (int i = 0; i < count_; ++i) make_ready(i);
    uint3 index{0, 0, 0};
    for (Thread& thread : threads_) {
      thread.index = index;
      if (++index.x == blockDim.x) index.x = 0, ++index.y;
      if (index.y == blockDim.y) index.y = 0, ++index.z;
    }
    Fiber::switch_to(main_, fiber_of(draw()));
    if (live_ == 0 && !error_) return;
    free_.clear();  // every fiber starts anew: some were left in the middle of a thread
    for (auto& fiber : fibers_) fiber->start_at(fiber_main), free_.push_back(fiber.get());
    if (error_) std::rethrow_exception(error_);
    deadlock();
  }

  // Every live thread must come, to the same place in the source. Returns the sum of all threads' `vote`.
  int barrier(int vote, const char* file, int line) {
    if (at_barrier_ == 0) file_ = file, line_ = line;
    if (line != line_ || file != file_)
      fail("at the barrier of ", file, ":", line, " while others wait at that of ", file_, ":", line_);
    votes_ += vote;
    if (++at_barrier_ == live_)
      release_barrier();
    else
      suspend(kBarrier);
    return counted_;
  }

  // Every lane that `mask` names must come, with that mask and that operation.
  void collective(const Collective& what, unsigned mask, void* operands) {
    Warp& warp = warps_[current_ / kWarp];
    const unsigned self = 1u << lane();
    if (!(mask & self)) fail(what.operation, ": the mask ", Hex{mask}, " does not name the calling lane ", lane());
    if (mask & (warp.exited | ~exists(current_ / kWarp)))
      fail(what.operation, ": the mask ", Hex{mask}, " names lanes that have ended or do not exist");
    Open* open = nullptr;
    for (Open& other : warp.open)
      if (other.mask == mask && other.what == &what) open = &other;
    if (!open) open = &warp.open.emplace_back(Open{mask, 0, &what, {}});
    open->arrived |= self;
    open->operands[lane()] = operands;
    if (open->arrived != mask) return suspend(what.operation);
    const Open complete = *open;
    *open = warp.open.back();
    warp.open.pop_back();
    what.run(complete.operands, mask);
    for (int other = 0; other < kWarp; ++other)
      if (mask & ~self & 1u << other) make_ready(current_ / kWarp * kWarp + other);
  }

 private:
  static constexpr char kBarrier[] = "__syncthreads";
  struct Thread {
    uint3 index;
    Fiber* fiber;       // null until it begins
    const char* waits;  // in what; null if it can go on
  };
  struct Open {  // a collective some lanes have come to
    unsigned mask, arrived;
    const Collective* what;
    void* operands[kWarp];
  };
  struct Warp {
    unsigned exited;
    std::vector<Open> open;
  };
  struct Hex {
    unsigned value;
    friend std::ostream& operator<<(std::ostream& out, Hex h) { return out << "0x" << std::hex << h.value << std::dec; }
  };

  unsigned exists(int warp) const {
    const int lanes = count_ - warp * kWarp;
    return lanes >= kWarp ? ~0u : (1u << lanes) - 1;
  }

  void make_ready(int thread) { ready_[favoured_ >> thread / kWarp & 1].push_back(thread); }
  // The next thread to run, made current; -1 if none can.
  int draw() {
    auto& ready = ready_[!ready_[1].empty()];
    if (ready.empty()) return -1;
    int& drawn = ready[order.below(static_cast<uint32_t>(ready.size()))];
    current_ = drawn;
    drawn = ready.back();
    ready.pop_back();
    threadIdx = threads_[current_].index;
    return current_;
  }
  Fiber& fiber_of(int thread) {
    Fiber*& fiber = threads_[thread].fiber;
    if (!fiber) {
      if (free_.empty()) {
        fibers_.push_back(std::make_unique<Fiber>(static_cast<int>(fibers_.size())));
        fibers_.back()->start_at(fiber_main);
        free_.push_back(fibers_.back().get());
      }
      fiber = free_.back();
      free_.pop_back();
    }
    return *fiber;
  }
  void suspend(const char* waits) {
    Thread& self = threads_[current_];
    self.waits = waits;
    const int next = draw();
    Fiber::switch_to(*self.fiber, next < 0 ? main_ : fiber_of(next));
    self.waits = nullptr;
  }
  void release_barrier() {
    counted_ = votes_;  // kept until all have come to the next barrier, and so have read it
    at_barrier_ = votes_ = 0;
    for (int i = 0; i < count_; ++i)
      if (threads_[i].waits == kBarrier) make_ready(i);
  }
  void end_thread() {
    Warp& warp = warps_[current_ / kWarp];
    warp.exited |= 1u << lane();
    --live_;
    for (const Open& open : warp.open)
      if (open.mask & warp.exited) fail("ends while others of its warp wait for it in ", open.what->operation);
    if (live_ > 0 && at_barrier_ == live_) release_barrier();
  }
  [[noreturn]] void deadlock() {
    std::ostringstream text;
    int waiting = 0;
    for (const Thread& thread : threads_)
      if (thread.waits && waiting++ < 4) text << "; thread " << place(thread.index) << " waits in " << thread.waits;
    fail_block("deadlock: ", waiting, " of ", count_, " threads wait for others that never come", text.str());
  }

  static void fiber_main();

  void (*body_)(const void*) = nullptr;
  const void* arguments_ = nullptr;
  int count_ = 0, live_ = 0, current_ = 0, at_barrier_ = 0, votes_ = 0, counted_ = 0, line_ = 0;
  const char* file_ = nullptr;
  std::exception_ptr error_;
  std::vector<Thread> threads_;
  std::vector<Warp> warps_;
  uint32_t favoured_ = 0;      // a bit a warp
  std::vector<int> ready_[2];  // threads that can go on: of other warps, of favoured ones
  std::vector<std::unique_ptr<Fiber>> fibers_;
  std::vector<Fiber*> free_;
  Fiber main_;
};
inline Block block;

inline void Block::fiber_main() {
  Fiber& here = *block.threads_[block.current_].fiber;
  Fiber::arrived(here);
  for (;;) {
    try {
      block.body_(block.arguments_);
      block.end_thread();
    } catch (...) {
      block.error_ = std::current_exception();
    }
    if (block.error_) {
      Fiber::switch_to(here, block.main_);
      continue;
    }
    const int next = block.draw();
    if (next >= 0 && !block.threads_[next].fiber) {
      block.threads_[next].fiber = &here;
      continue;
    }
    block.free_.push_back(&here);
    Fiber::switch_to(here, next < 0 ? block.main_ : block.fiber_of(next));
  }
}
}  // namespace simt
