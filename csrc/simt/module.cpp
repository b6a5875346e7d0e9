// torchext._simt: loading it registers the CUDA kernels, run on the CPU, as the `.simt` overloads; and it sets the
// order of threads and tells what the launches did.
#include <Python.h>

#include "run.h"

#ifndef SIMT_MODULE
#define SIMT_MODULE _simt
#endif
#define SIMT_JOIN_(a, b) a##b
#define SIMT_JOIN(a, b) SIMT_JOIN_(a, b)

namespace {
PyObject* seed(PyObject*, PyObject* number) {
  const unsigned long long value = PyLong_AsUnsignedLongLong(number);
  if (PyErr_Occurred()) return nullptr;
  simt::order = simt::Random(value);
  Py_RETURN_NONE;
}

PyObject* record(PyObject*, PyObject* on) {
  const int truth = PyObject_IsTrue(on);
  if (truth < 0) return nullptr;
  simt::recording = truth;
  simt::launches.clear();
  Py_RETURN_NONE;
}

PyObject* launches(PyObject*, PyObject*) {
  PyObject* list = PyList_New(0);
  for (const simt::Launch& l : simt::launches) {
    PyObject* item =
        Py_BuildValue("{s:s,s:K,s:K,s:K,s:K,s:K}", "kernel", l.kernel.c_str(), "blocks", l.blocks, "threads", l.threads,
                      "shared_bytes", l.shared_bytes, "read", l.read, "written", l.written);
    if (!list || !item || PyList_Append(list, item) != 0) Py_CLEAR(list);
    Py_XDECREF(item);
    if (!list) break;
  }
  return list;
}

PyMethodDef methods[] = {
    {"seed", seed, METH_O, "Begins anew the random order of threads and blocks."},
    {"record", record, METH_O, "Forgets the launches so far; records those to come if the argument is true."},
    {"launches", launches, METH_NOARGS,
     "The recorded launches: kernel, blocks, threads of a block, dynamic shared_bytes, global bytes read and written."},
    {nullptr, nullptr, 0, nullptr}};

PyModuleDef definition{
    PyModuleDef_HEAD_INIT, "torchext._simt", nullptr, -1, methods, nullptr, nullptr, nullptr, nullptr};
}  // namespace

PyMODINIT_FUNC SIMT_JOIN(PyInit_, SIMT_MODULE)() { return PyModule_Create(&definition); }
