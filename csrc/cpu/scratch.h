// Scratch memory for one kernel call: aligned to a cache line, not initialised. A thread keeps what it gives back for
// its next call: fresh memory costs a page fault (0.25 to 2.5 us) every 4 KB,
// which is more than many kernels do with it.
#pragma once
#include <cstddef>
#include <cstdint>
#include <memory>
#include <new>
#include <utility>

namespace torchext::cpu {
inline constexpr std::align_val_t kScratchAlign{64};

struct KeptScratch {
  static constexpr int kBlocks = 16;
  static constexpr size_t kLargest = size_t{1} << 20;
  struct Block {
    void* data = nullptr;
    size_t bytes = 0;
  };
  Block blocks[kBlocks];

  ~KeptScratch() {
    for (Block& b : blocks) ::operator delete(b.data, kScratchAlign);
  }
  Block take(size_t bytes) {
    if (bytes == 0) return {};
    Block* best = nullptr;
    for (Block& b : blocks)
      if (b.bytes >= bytes && b.data && (!best || b.bytes < best->bytes)) best = &b;
    return best ? std::exchange(*best, Block{}) : Block{::operator new(bytes, kScratchAlign), bytes};
  }
  void give(Block given) {  // the smallest goes
    if (given.bytes <= kLargest)
      for (Block& b : blocks)
        if (b.bytes < given.bytes) std::swap(b, given);
    ::operator delete(given.data, kScratchAlign);
  }
};
inline thread_local KeptScratch kept_scratch;

template <typename T>
class Scratch {
 public:
  explicit Scratch(int64_t count) : block_(kept_scratch.take(static_cast<size_t>(count) * sizeof(T))) {}
  ~Scratch() { kept_scratch.give(block_); }
  Scratch(const Scratch&) = delete;
  Scratch& operator=(Scratch&& other) noexcept { return std::swap(block_, other.block_), *this; }
  operator T*() const { return static_cast<T*>(block_.data); }

 private:
  KeptScratch::Block block_;
};
}  // namespace torchext::cpu
