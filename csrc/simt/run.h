// A launch: the blocks one after another, in random order. One launch runs at a time, on the thread that asks for it.
#pragma once
#include <cstddef>
#include <mutex>
#include <numeric>
#include <string_view>
#include <utility>
#include <vector>

#include "async.h"
#include "block.h"
#include "counters.h"

namespace simt {
template <typename Body>
void run(const char* kernel, dim3 grid, dim3 block_size, size_t shared_bytes, const Body& body) {
  static std::mutex one_at_a_time;
  std::lock_guard lock(one_at_a_time);
  running = kernel;
  blockIdx = {0, 0, 0};
  const uint64_t threads = uint64_t(block_size.x) * block_size.y * block_size.z;
  const uint64_t blocks = uint64_t(grid.x) * grid.y * grid.z;
  if (threads == 0 || threads > kMaxThreads || block_size.z > 64)
    fail_block(threads, " threads in a block; 1 to ", kMaxThreads, " are possible");
  if (blocks == 0 || grid.x > 0x7FFFFFFF || grid.y > 0xFFFF || grid.z > 0xFFFF)
    fail_block("a grid of ", grid.x, " x ", grid.y, " x ", grid.z,
               " blocks; 1 to 2147483647 x 65535 x 65535 are possible");
  gridDim = grid, blockDim = block_size;
  bytes_read = bytes_written = 0;
  std::vector<uint32_t> numbers(blocks);
  std::iota(numbers.begin(), numbers.end(), 0u);
  for (uint64_t left = blocks; left > 0; --left) {
    std::swap(numbers[order.below(static_cast<uint32_t>(left))], numbers[left - 1]);
    const uint32_t number = numbers[left - 1];
    blockIdx = {number % grid.x, number / grid.x % grid.y, number / grid.x / grid.y};
    shared_memory.begin_block(shared_bytes);
    copies.begin_block();
    block.run([](const void* body) { (*static_cast<const Body*>(body))(); }, &body);
    copies.end_block();
    shared_memory.end_block();
  }
  if (recording) launches.push_back({kernel, blocks, threads, shared_bytes, bytes_read, bytes_written});
}

// "f [with auto kKernel = ns::kernel<float>; ...]" -> "kernel<float>"
inline std::string kernel_name(std::string_view pretty) {
  constexpr std::string_view kBefore = "kKernel = ";
  if (const size_t at = pretty.find(kBefore); at != pretty.npos) pretty.remove_prefix(at + kBefore.size());
  pretty = pretty.substr(0, pretty.find(';'));
  std::string name(pretty);
  for (const char* noise : {"torchext::cuda::", "{anonymous}::", "(anonymous namespace)::", "torchext::", "c10::"})
    for (size_t at; (at = name.find(noise)) != name.npos;) name.erase(at, std::string_view(noise).size());
  return name;
}
}  // namespace simt
