// cp.async: a copy happens only when its thread waits for it. Until then the destination holds poison, so that a
// missing wait, a missing barrier after it, and a buffer refilled while others still read it all show.
#pragma once
#include <cstring>
#include <vector>

#include "block.h"
#include "counters.h"

namespace simt {
class Copies {
 public:
  void begin_block() { threads_.assign(blockDim.x * blockDim.y * blockDim.z, {}); }
  void end_block() const {
    for (const Thread& thread : threads_)
      if (thread.done < thread.copies.size()) fail_block("a thread ended without waiting for its asynchronous copies");
  }

  // `valid` bytes are copied, the rest of `bytes` become 0.
  void begin(void* shared, const void* global, size_t bytes, size_t valid) {
    if (bytes != 4 && bytes != 8 && bytes != 16)
      fail("an asynchronous copy of ", bytes, " bytes; 4, 8 or 16 are possible");
    if (valid > bytes) fail("an asynchronous copy of ", valid, " of ", bytes, " bytes");
    if (!shared_memory.holds(shared)) fail("an asynchronous copy to memory that is not shared");
    check_aligned(shared, bytes, "an asynchronous copy to shared memory");
    if (valid) check_aligned(global, bytes, "an asynchronous copy from global memory");
    bytes_read += valid;
    std::memset(shared, kPoison, bytes);
    mine().copies.push_back({shared, global, static_cast<uint32_t>(bytes), static_cast<uint32_t>(valid)});
  }
  void commit() {
    Thread& thread = mine();
    thread.groups.push_back(thread.copies.size());
  }
  // Until at most `pending` of the latest groups are under way.
  void wait(size_t pending) {
    Thread& thread = mine();
    if (thread.groups.size() > pending) finish(thread, thread.groups[thread.groups.size() - pending - 1]);
  }
  void wait_all() { finish(mine(), mine().copies.size()); }

 private:
  struct Copy {
    void* to;
    const void* from;
    uint32_t bytes, valid;
  };
  struct Thread {
    std::vector<Copy> copies;    // in the order they began
    std::vector<size_t> groups;  // copies begun when each group was committed
    size_t done = 0;
  };
  Thread& mine() { return threads_[block.current()]; }
  static void finish(Thread& thread, size_t until) {
    for (; thread.done < until; ++thread.done) {
      const Copy& copy = thread.copies[thread.done];
      if (copy.valid) std::memcpy(copy.to, copy.from, copy.valid);
      std::memset(static_cast<char*>(copy.to) + copy.valid, 0, copy.bytes - copy.valid);
    }
  }
  std::vector<Thread> threads_;
};
inline Copies copies;
}  // namespace simt
