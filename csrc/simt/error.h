// Whatever a kernel does that the CUDA guide leaves undefined ends here: an exception that names the kernel, the block
// and the thread. Thrown on a fiber it leaves through run(), and becomes a RuntimeError in Python.
#pragma once
#include <cassert>
#include <sstream>
#include <stdexcept>
#include <string>

#include "vectors.h"

namespace simt {
struct Error : std::runtime_error {
  using std::runtime_error::runtime_error;
};

inline const char* running = "";  // the kernel's name

inline std::string place(uint3 i) {
  return "(" + std::to_string(i.x) + ", " + std::to_string(i.y) + ", " + std::to_string(i.z) + ")";
}

template <typename... Parts>
[[noreturn]] __attribute__((noinline)) void fail_block(const Parts&... parts) {
  std::ostringstream text;
  text << "simt: " << running << ", block " << place(blockIdx) << ": ";
  (text << ... << parts);
  throw Error(text.str());
}
template <typename... Parts>
[[noreturn]] __attribute__((noinline)) void fail(const Parts&... parts) {
  fail_block("thread ", place(threadIdx), ": ", parts...);
}
}  // namespace simt

// Later headers may include <cassert> again and so redefine assert; this holds for every definition of glibc's.
#define __assert_fail(condition, ...) simt::fail("assertion failed: ", condition)
inline void __trap() { simt::fail("trap"); }
