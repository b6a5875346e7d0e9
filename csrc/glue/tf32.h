// Whether a float32 "matmul" or "conv" on the device may round its operands to TF32: torch's own switches, read when
// the kernel runs (torch.backends.cuda.matmul and torch.backends.cudnn: fp32_precision, allow_tf32). The stable ABI
// does not tell; Python does, in 0.2 us.
#pragma once
#include <Python.h>

namespace torchext {
inline bool allow_tf32(const char* op) {
  const PyGILState_STATE held = PyGILState_Ensure();
  static PyObject* getter = nullptr;
  if (!getter) {
    PyObject* torch = PyImport_ImportModule("torch._C");
    if (torch) getter = PyObject_GetAttrString(torch, "_get_fp32_precision_getter");
    Py_XDECREF(torch);
  }
  PyObject* precision = getter ? PyObject_CallFunction(getter, "ss", "cuda", op) : nullptr;
  PyObject* tf32 = precision ? PyUnicode_FromString("tf32") : nullptr;
  const bool allowed = tf32 && PyUnicode_Compare(precision, tf32) == 0;
  Py_XDECREF(tf32);
  Py_XDECREF(precision);
  PyErr_Clear();
  PyGILState_Release(held);
  return allowed;
}
}  // namespace torchext
