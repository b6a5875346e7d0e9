// What each epilogue makes of a sum.
#pragma once
#include "../epilogue.h"
#include "launch.cuh"

namespace torchext::cuda {
template <typename A>
__device__ __forceinline__ A apply(Epilogue epilogue, A x) {
  switch (epilogue) {
    case Epilogue::kNone:
      break;
    case Epilogue::kRelu:
      return x < 0 ? A(0) : x;
  }
  return x;
}
}  // namespace torchext::cuda
