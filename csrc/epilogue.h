// What happens to each sum of a product or a convolution, its bias added, before it is rounded and stored.
#pragma once
#include <cstdint>

namespace torchext {
enum class Epilogue : uint8_t { kNone, kRelu };  // kRelu: max(., 0); NaN stays NaN
}  // namespace torchext
