// One block's shared memory: poisoned when the block first asks for it, fenced on both sides, and the fences looked at
// when the block ends (under AddressSanitizer at once). One block runs at a time, so there is one such memory.
#pragma once
#include <cstring>
#include <vector>

#include "error.h"
#include "fiber.h"

namespace simt {
constexpr int kPoison = 0xFF;  // every float, double, bfloat16 and float16 of such bytes is NaN; every int is -1

class Shared {
 public:
  static constexpr size_t kStaticLimit = 48 << 10, kLimit = 227 << 10;  // per block, sm_90

  void begin_block(size_t dynamic_bytes) {
    unfence();
    parts_.clear();
    used_ = static_bytes_ = 0;
    dynamic_ = nullptr;
    if (dynamic_bytes > kLimit) fail_block(dynamic_bytes, " bytes of dynamic shared memory; there are ", kLimit);
    dynamic_bytes_ = dynamic_bytes;
    if (dynamic_bytes) dynamic_ = take(&dynamic_, dynamic_bytes, 16);
  }
  void end_block() {
    unfence();
    for (const Part& part : parts_)
      for (size_t i = 0; i < kFence; ++i) {  // nearest first
        const unsigned char before = arena_[part.begin - 1 - i], after = arena_[part.end + i];
        if (before != kFenced || after != kFenced)
          fail_block("a write ", i + 1, " bytes ", before != kFenced ? "before" : "beyond", " shared memory of ",
                     part.end - part.begin, " bytes");
      }
  }

  void* dynamic() {
    if (!dynamic_) fail("uses dynamic shared memory, but the launch gave none");
    return dynamic_;
  }
  // The block's one object under this key.
  void* object(const void* key, size_t bytes, size_t align) {
    for (const Part& part : parts_)
      if (part.key == key) return arena_ + part.begin;
    static_bytes_ += bytes;
    if (static_bytes_ > kStaticLimit) fail(static_bytes_, " bytes of static shared memory; there are ", kStaticLimit);
    if (static_bytes_ + dynamic_bytes_ > kLimit)
      fail(static_bytes_, " + ", dynamic_bytes_, " bytes of shared memory; there are ", kLimit);
    return take(key, bytes, align);
  }
  bool holds(const void* p) const { return p >= arena_ && p < arena_ + sizeof arena_; }

 private:
  static constexpr size_t kFence = 256;
  static constexpr unsigned char kFenced = 0xA5;
  struct Part {
    const void* key;
    size_t begin, end;
  };

  unsigned char* take(const void* key, size_t bytes, size_t align) {
    // Aligned as asked and no better: what happens to be better aligned here need not be so on a device.
    const size_t begin = (used_ + kFence + 2 * align - 1) / (2 * align) * (2 * align) + align;
    used_ = begin + bytes + kFence;
    if (used_ > sizeof arena_) fail("more shared memory than the stand-in holds");
    parts_.push_back({key, begin, begin + bytes});
    std::memset(arena_ + begin - kFence, kFenced, kFence);
    std::memset(arena_ + begin, kPoison, bytes);
    std::memset(arena_ + begin + bytes, kFenced, kFence);
#if SIMT_ASAN
    ASAN_POISON_MEMORY_REGION(arena_ + begin - kFence, kFence);
    ASAN_POISON_MEMORY_REGION(arena_ + begin + bytes, kFence);
#endif
    return arena_ + begin;
  }
  void unfence() {
#if SIMT_ASAN
    ASAN_UNPOISON_MEMORY_REGION(arena_, sizeof arena_);
#endif
  }

  std::vector<Part> parts_;
  size_t used_ = 0, static_bytes_ = 0, dynamic_bytes_ = 0;
  unsigned char* dynamic_ = nullptr;
  alignas(1024) unsigned char arena_[kLimit + (16 << 10)];
};
inline Shared shared_memory;

template <typename T>
T& shared() {
  static const char key = 0;
  return *static_cast<T*>(shared_memory.object(&key, sizeof(T), alignof(T) < 16 ? 16 : alignof(T)));
}
}  // namespace simt
