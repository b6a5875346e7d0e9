// What each epilogue makes of a vector of sums.
#ifndef TORCHEXT_EPILOGUE
#define TORCHEXT_EPILOGUE

namespace torchext::cpu::ISA {
template <typename V>
inline V apply(Epilogue epilogue, V v) {
  switch (epilogue) {
    case Epilogue::kNone:
      break;
    case Epilogue::kRelu:
      return v < 0 ? V{} : v;
  }
  return v;
}
}  // namespace torchext::cpu::ISA
#endif
