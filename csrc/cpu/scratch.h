// Scratch memory for one kernel call: aligned to a cache line, not initialised.
#pragma once
#include <cstddef>
#include <cstdint>
#include <memory>
#include <new>

namespace torchext::cpu {
template <typename T>
class Scratch {
 public:
  explicit Scratch(int64_t count)
      : data_(static_cast<T*>(::operator new(static_cast<size_t>(count) * sizeof(T), kAlign))) {}
  operator T*() const { return data_.get(); }

 private:
  static constexpr std::align_val_t kAlign{64};
  struct Free {
    void operator()(T* p) const { ::operator delete(p, kAlign); }
  };
  std::unique_ptr<T, Free> data_;
};
}  // namespace torchext::cpu
