// Kernels for tests/test_simt.py: small ones that use the stand-in runtime correctly, and the same with one fault
// planted. Each is reached through a C function that returns null, or what was thrown.
#include <cassert>

#include "../../csrc/cuda/async.cuh"
#include "../../csrc/cuda/mma.cuh"
#include "../../csrc/cuda/reduce.cuh"

using namespace torchext;
using namespace torchext::cuda;

namespace {
enum Fault {
  kNone,
  kNoBarrier,
  kOverrun,
  kNoWait,
  kEarlyRefill,
  kWrongMask,
  kOwnLaneMissing,
  kEndedLane,
  kAtomic,
  kDivergent,
  kUneven,
  kUnaligned,
  kAssertion,
  kTrap,
  kUnwritten,
  kOverrunDynamic,
  kNeverWaits
};

constexpr int kThreads = 128;

// y = x backwards, through shared memory.
template <Fault kFault>
__global__ void reverse_kernel(float* y, const float* x) {
  struct Scratch {
    float x[kThreads];
  };
  Scratch& scratch = shared<Scratch>();
  const int i = threadIdx.x;
  scratch.x[i] = load(x + i);
  if (kFault == kOverrun && i == 7) scratch.x[kThreads + (y != nullptr)] = 1;
  if (kFault == kOverrunDynamic && i == 7) dynamic_shared<float>()[-1] = 1;
  if (kFault != kNoBarrier) __syncthreads();
  if (kFault == kDivergent && i % 2) __syncthreads();
  if (kFault == kDivergent && i % 2 == 0) __syncthreads();
  if (kFault == kUneven && i == 3) {
    __syncwarp(0xFFFFFFFF);
  } else if (kFault == kUneven) {
    __syncthreads();
  }
  if (kFault == kAssertion) assert(i != 5);
  if (kFault == kTrap && i == 5) __trap();
  if (kFault == kUnaligned) store(y, load<2>(x + 1 + (i & 1)));
  if (kFault != kUnwritten || i != 9) store(y + i, scratch.x[kThreads - 1 - i]);
}

// y = x backwards in each of several pieces, fetched one piece ahead.
template <Fault kFault>
__global__ void pipeline_kernel(float* y, const float* x, int pieces) {
  float* buffer = dynamic_shared<float>();
  const int i = threadIdx.x;
  copy_async<4>(buffer + i, x + i);
  copy_async_commit();
  for (int piece = 0; piece < pieces; ++piece) {
    const float* here = buffer + piece % 2 * kThreads;
    if (kFault != kNoWait && kFault != kNeverWaits) copy_async_wait<0>();
    __syncthreads();
    if (piece + 1 < pieces)
      copy_async<4>(buffer + (kFault == kEarlyRefill ? piece : piece + 1) % 2 * kThreads + i,
                    x + (piece + 1) * kThreads + i);
    copy_async_commit();
    store(y + piece * kThreads + i, here[kThreads - 1 - i]);
  }
  if (kFault != kNeverWaits) copy_async_wait<0>();
}

// y[0] = the sum of x.
template <Fault kFault>
__global__ void sum_kernel(float* y, const float* x, int blocks_of_x) {
  const int lane = threadIdx.x % 32;
  if (kFault == kAtomic) {
    atomicAdd(y, load(x + blockIdx.x * kThreads + threadIdx.x));
    return;
  }
  float sum = 0;
  for (int i = 0; i < blocks_of_x; ++i) sum += load(x + i * kThreads + threadIdx.x);
  if (kFault == kWrongMask && lane < 16) sum = __shfl_xor_sync(0xFFFFFFFF, sum, 1);
  if (kFault == kOwnLaneMissing) sum = __shfl_xor_sync(0x0000FFFF, sum, 1);
  if (kFault == kEndedLane && lane == 31) return;
  if (kFault == kEndedLane) sum = __shfl_down_sync(0xFFFFFFFF, sum, 1);
  sum = block_reduce<kThreads>(sum);
  if (threadIdx.x == 0) store(y, sum);
}

// What each lane gets: 16 results per lane.
__global__ void collectives_kernel(int* y, const int* x) {
  const int lane = threadIdx.x % 32, v = x[threadIdx.x];
  int* to = y + threadIdx.x * 16;
  to[0] = __shfl_sync(0xFFFFFFFF, v, 5);
  to[1] = __shfl_sync(0xFFFFFFFF, v, lane + 3, 8);
  to[2] = __shfl_up_sync(0xFFFFFFFF, v, 3);
  to[3] = __shfl_up_sync(0xFFFFFFFF, v, 3, 16);
  to[4] = __shfl_down_sync(0xFFFFFFFF, v, 5);
  to[5] = __shfl_down_sync(0xFFFFFFFF, v, 5, 8);
  to[6] = __shfl_xor_sync(0xFFFFFFFF, v, 12);
  to[7] = __shfl_xor_sync(0xFFFFFFFF, v, 12, 8);
  to[8] = lane % 2 ? __shfl_sync(0xAAAAAAAA, v, 7) : __shfl_sync(0x55555555, v, 8);
  to[9] = lane < 4 ? __shfl_down_sync(0xF, v, 2) : 0;
  to[10] = static_cast<int>(__ballot_sync(0xFFFFFFFF, v % 3 == 0));
  to[11] = __any_sync(0xFFFFFFFF, v == x[40]);
  to[12] = lane < 8 ? static_cast<int>(__ballot_sync(0xFF, v & 1)) : __all_sync(0xFFFFFF00, v >= 0);
  to[13] = __syncthreads_count(v & 1);
  to[14] = __syncthreads_or(v == x[40]) * 2 + __syncthreads_and(v >= 0);
  to[15] = static_cast<int>(__activemask()) >> lane & 1;
}

template <typename T>
__global__ void mma_kernel(float* d, const uint32_t* a, const uint32_t* b) {
  uint32_t ra[4], rb[2];
  float rd[4];
  for (int i = 0; i < 4; ++i) ra[i] = a[threadIdx.x * 4 + i], rd[i] = d[threadIdx.x * 4 + i];
  for (int i = 0; i < 2; ++i) rb[i] = b[threadIdx.x * 2 + i];
  if constexpr (sizeof(T) == 4)
    mma_m16n8k8_tf32(rd, ra, rb);
  else
    mma_m16n8k16<T>(rd, ra, rb);
  for (int i = 0; i < 4; ++i) d[threadIdx.x * 4 + i] = rd[i];
}
__global__ void mma_double_kernel(double* d, const double* a, const double* b) {
  double rd[2] = {d[threadIdx.x * 2], d[threadIdx.x * 2 + 1]};
  mma_m8n8k4(rd, a[threadIdx.x], b[threadIdx.x]);
  d[threadIdx.x * 2] = rd[0], d[threadIdx.x * 2 + 1] = rd[1];
}
// x: four 8 x 8 matrices of 16 bits.
template <bool kTransposed>
__global__ void load_matrix_kernel(uint32_t* y, const uint16_t* x) {
  struct alignas(16) Scratch {
    uint16_t x[32][8];
  };
  Scratch& scratch = shared<Scratch>();
  for (int i = 0; i < 8; ++i) scratch.x[threadIdx.x][i] = x[threadIdx.x * 8 + i];
  __syncwarp();
  uint32_t r[4];
  load_matrix_x4<kTransposed>(r, scratch.x[threadIdx.x]);
  for (int i = 0; i < 4; ++i) y[threadIdx.x * 4 + i] = r[i];
}

// The order in which threads ran.
__global__ void order_kernel(int* y, unsigned* count) {
  y[atomicAdd(count, 1u)] = static_cast<int>(blockIdx.x * blockDim.x + threadIdx.x);
}

template <Fault kFault>
void run(int fault, float* y, const float* x, int pieces) {
  if (fault != kFault) return;
  constexpr bool kSums = kFault == kWrongMask || kFault == kOwnLaneMissing || kFault == kEndedLane || kFault == kAtomic;
  if constexpr (kFault == kNoWait || kFault == kEarlyRefill || kFault == kNeverWaits)
    launch<pipeline_kernel<kFault>>(1, kThreads, 2 * kThreads * sizeof(float), nullptr, y, x, pieces);
  else if constexpr (kSums)
    launch<sum_kernel<kFault>>(kFault == kAtomic ? pieces : 1, kThreads, 0, nullptr, y, x, pieces);
  else
    launch<reverse_kernel<kFault>>(1, kThreads, kFault == kOverrunDynamic ? 64 : 0, nullptr, y, x);
}
template <int... kFaults>
void run_any(int fault, float* y, const float* x, int pieces, std::integer_sequence<int, kFaults...>) {
  (run<static_cast<Fault>(kFaults)>(fault, y, x, pieces), ...);
}

template <class F>
const char* attempt(F&& f) {
  static std::string thrown;
  try {
    f();
    return nullptr;
  } catch (const std::exception& error) {
    return (thrown = error.what()).c_str();
  }
}
}  // namespace

extern "C" {
void seed(uint64_t number) { simt::order = simt::Random(number); }
const char* faulty(int fault, float* y, const float* x, int pieces) {
  return attempt([&] { run_any(fault, y, x, pieces, std::make_integer_sequence<int, kNeverWaits + 1>()); });
}
const char* reverse(float* y, const float* x) {
  return attempt([&] { launch<reverse_kernel<kNone>>(1, kThreads, 0, nullptr, y, x); });
}
const char* pipeline(float* y, const float* x, int pieces) {
  return attempt([&] { launch<pipeline_kernel<kNone>>(1, kThreads, 2 * kThreads * 4, nullptr, y, x, pieces); });
}
const char* sum(float* y, const float* x, int pieces) {
  return attempt([&] { launch<sum_kernel<kNone>>(1, kThreads, 0, nullptr, y, x, pieces); });
}
const char* collectives(int* y, const int* x) {
  return attempt([&] { launch<collectives_kernel>(1, 64, 0, nullptr, y, x); });
}
const char* mma_bfloat16(float* d, const uint32_t* a, const uint32_t* b) {
  return attempt([&] { launch<mma_kernel<BFloat16>>(1, 32, 0, nullptr, d, a, b); });
}
const char* mma_float16(float* d, const uint32_t* a, const uint32_t* b) {
  return attempt([&] { launch<mma_kernel<Half>>(1, 32, 0, nullptr, d, a, b); });
}
const char* mma_tf32(float* d, const uint32_t* a, const uint32_t* b) {
  return attempt([&] { launch<mma_kernel<float>>(1, 32, 0, nullptr, d, a, b); });
}
const char* mma_float64(double* d, const double* a, const double* b) {
  return attempt([&] { launch<mma_double_kernel>(1, 32, 0, nullptr, d, a, b); });
}
const char* load_matrix(uint32_t* y, const uint16_t* x, int transposed) {
  return attempt([&] {
    if (transposed)
      launch<load_matrix_kernel<true>>(1, 32, 0, nullptr, y, x);
    else
      launch<load_matrix_kernel<false>>(1, 32, 0, nullptr, y, x);
  });
}
const char* order(int* y, int blocks, int threads) {
  unsigned count = 0;
  return attempt([&] { launch<order_kernel>(blocks, threads, 0, nullptr, y, &count); });
}
}
