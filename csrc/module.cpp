// torchext._C: loading it registers the kernels; it also names the CPU instruction sets, so that tests can run each.
#include <Python.h>

#include <cstdlib>

#include "cpu/isa.h"

namespace {
using namespace torchext;

PyObject* cpu_isa(PyObject*, PyObject*) { return PyUnicode_FromString(cpu::isa_name()); }

PyObject* cpu_isas(PyObject*, PyObject*) {
  PyObject* list = PyList_New(0);
  for (const char* const* name = cpu::isa_names(); list && *name; ++name) {
    PyObject* text = PyUnicode_FromString(*name);
    if (!text || PyList_Append(list, text) != 0) Py_CLEAR(list);
    Py_XDECREF(text);
  }
  return list;
}

bool choose(const char* name) {
  if (cpu::use_isa(name)) return true;
  PyErr_Format(PyExc_ValueError,
               "TORCHEXT_CPU is '%s', but this processor and build run only those that torchext info lists", name);
  return false;
}

PyObject* use_cpu_isa(PyObject*, PyObject* name) {
  PyObject* text = PyUnicode_AsUTF8String(name);
  if (!text) return nullptr;
  const bool chosen = choose(PyBytes_AsString(text));
  Py_DECREF(text);
  if (!chosen) return nullptr;
  Py_RETURN_NONE;
}

PyObject* cpu_family(PyObject*, PyObject*) { return PyUnicode_FromString(cpu::family()); }

PyMethodDef methods[] = {
    {"cpu_isa", cpu_isa, METH_NOARGS, "The instruction set the CPU kernels run on."},
    {"cpu_isas", cpu_isas, METH_NOARGS, "The instruction sets this processor and this build can run, narrowest first."},
    {"cpu_family", cpu_family, METH_NOARGS, "The processor's vendor and family, such as 'amd-19h'."},
    {"use_cpu_isa", use_cpu_isa, METH_O, "Runs the CPU kernels on the named instruction set from now on."},
    {nullptr, nullptr, 0, nullptr}};

PyModuleDef definition{PyModuleDef_HEAD_INIT, "torchext._C", nullptr, -1, methods, nullptr, nullptr, nullptr, nullptr};
}  // namespace

PyMODINIT_FUNC PyInit__C() {
  if (const char* name = std::getenv("TORCHEXT_CPU"); name && *name && !choose(name)) return nullptr;
  return PyModule_Create(&definition);
}
