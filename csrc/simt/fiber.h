// A fiber: a stack and a place to go on from. switch_to() is a dozen instructions and no system call (swapcontext makes
// one, to save the signal mask), because a block of 256 threads switches 256 times at every barrier.
#pragma once
#include <pthread.h>
#include <sys/mman.h>

#include <cstddef>
#include <cstdint>
#include <new>

#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/asan_interface.h>
#include <sanitizer/common_interface_defs.h>
#define SIMT_ASAN 1
#else
#define SIMT_ASAN 0
#endif

#if defined(__ELF__) && (defined(__x86_64__) || defined(__aarch64__))
#define SIMT_ASSEMBLY 1
// Saves what a call must preserve on the old stack, leaves its top in *save,
// and takes up the stack whose top is `load`.
extern "C" __attribute__((visibility("hidden"))) void torchext_simt_switch(void** save, void* load);
asm(R"(
.pushsection .text.torchext_simt_switch, "axG", %progbits, torchext_simt_switch, comdat
.weak torchext_simt_switch
.hidden torchext_simt_switch
.type torchext_simt_switch, %function
torchext_simt_switch:
)"
#if defined(__x86_64__)
    R"(
  pushq %rbp
  pushq %rbx
  pushq %r12
  pushq %r13
  pushq %r14
  pushq %r15
  movq %rsp, (%rdi)
  movq %rsi, %rsp
  popq %r15
  popq %r14
  popq %r13
  popq %r12
  popq %rbx
  popq %rbp
  ret
)"
#else
    R"(
  sub sp, sp, #160
  stp x19, x20, [sp, #0]
  stp x21, x22, [sp, #16]
  stp x23, x24, [sp, #32]
  stp x25, x26, [sp, #48]
  stp x27, x28, [sp, #64]
  stp x29, x30, [sp, #80]
  stp d8, d9, [sp, #96]
  stp d10, d11, [sp, #112]
  stp d12, d13, [sp, #128]
  stp d14, d15, [sp, #144]
  mov x9, sp
  str x9, [x0]
  mov sp, x1
  ldp x19, x20, [sp, #0]
  ldp x21, x22, [sp, #16]
  ldp x23, x24, [sp, #32]
  ldp x25, x26, [sp, #48]
  ldp x27, x28, [sp, #64]
  ldp x29, x30, [sp, #80]
  ldp d8, d9, [sp, #96]
  ldp d10, d11, [sp, #112]
  ldp d12, d13, [sp, #128]
  ldp d14, d15, [sp, #144]
  add sp, sp, #160
  ret
)"
#endif
    R"(
.size torchext_simt_switch, . - torchext_simt_switch
.popsection
)");
#else
#define SIMT_ASSEMBLY 0
#include <ucontext.h>
#endif

namespace simt {
class Fiber {
 public:
  Fiber() = default;  // stands for the stack of whoever calls run()
  explicit Fiber(int number) {
    void* memory = mmap(nullptr, kStack, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (memory == MAP_FAILED) throw std::bad_alloc();
    base_ = static_cast<char*>(memory);
    mprotect(base_, kPage, PROT_NONE);  // an overflow of the stack stops here
    colour_ = number * 7 % 32 * 128;    // equal offsets in all stacks would fall into the same few cache sets
  }
  Fiber(Fiber&& other) noexcept { *this = static_cast<Fiber&&>(other); }
  Fiber& operator=(Fiber&& other) noexcept {
    char* mine = base_;
    base_ = other.base_, other.base_ = mine;
    colour_ = other.colour_;
    return *this;
  }
  ~Fiber() {
    if (base_) munmap(base_, kStack);
  }

  // Whatever ran here is forgotten; the next switch starts `entry`, which must never return.
  void start_at(void (*entry)()) {
#if SIMT_ASAN
    ASAN_UNPOISON_MEMORY_REGION(base_ + kPage, kStack - kPage);
    fake_ = nullptr;
#endif
#if SIMT_ASSEMBLY
    char* top = base_ + kStack - colour_;
#if defined(__x86_64__)
    void** frame = reinterpret_cast<void**>(top - 64);  // six registers, the return address, and its empty caller
    for (int i = 0; i < 8; ++i) frame[i] = nullptr;
    frame[6] = reinterpret_cast<void*>(entry);
#else
    void** frame = reinterpret_cast<void**>(top - 160);
    for (int i = 0; i < 20; ++i) frame[i] = nullptr;
    frame[11] = reinterpret_cast<void*>(entry);  // x30
#endif
    top_ = frame;
#else
    getcontext(&context_);
    context_.uc_stack.ss_sp = base_ + kPage;
    context_.uc_stack.ss_size = kStack - kPage - colour_;
    makecontext(&context_, entry, 0);
#endif
  }

  static void switch_to(Fiber& from, Fiber& to) {
#if SIMT_ASAN
    char* bottom = to.base_ ? to.base_ + kPage : thread_stack().bottom;
    __sanitizer_start_switch_fiber(&from.fake_, bottom, to.base_ ? kStack - kPage : thread_stack().size);
#endif
#if SIMT_ASSEMBLY
    torchext_simt_switch(&from.top_, to.top_);
#else
    swapcontext(&from.context_, &to.context_);
#endif
    arrived(from);
  }
  // To be called first thing on a fiber just started.
  static void arrived([[maybe_unused]] Fiber& here) {
#if SIMT_ASAN
    __sanitizer_finish_switch_fiber(here.fake_, nullptr, nullptr);
#endif
  }

 private:
  static constexpr size_t kPage = 1 << 16, kStack = (SIMT_ASAN ? 512 : 256) << 10;  // pages of Arm may be 64 KB
#if SIMT_ASAN
  struct Stack {
    char* bottom;
    size_t size;
  };
  static const Stack& thread_stack() {
    static thread_local const Stack stack = [] {
      pthread_attr_t attributes;
      void* bottom = nullptr;
      size_t size = 0;
      pthread_getattr_np(pthread_self(), &attributes);
      pthread_attr_getstack(&attributes, &bottom, &size);
      pthread_attr_destroy(&attributes);
      return Stack{static_cast<char*>(bottom), size};
    }();
    return stack;
  }
  void* fake_ = nullptr;
#endif
  char* base_ = nullptr;
  int colour_ = 0;
#if SIMT_ASSEMBLY
  void* top_ = nullptr;
#else
  ucontext_t context_;
#endif
};
}  // namespace simt
