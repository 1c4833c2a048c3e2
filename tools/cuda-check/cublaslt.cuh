// cuBLASLt as the check programs open it, by the same numbers that the binding for Node uses. They define CHECK.
#pragma once
#include <dlfcn.h>
#include <glob.h>

#include <cstdio>
#include <cstdlib>
#include <string>
#include <vector>

struct Heuristic {
  unsigned long long algo[8];
  size_t workspace;
  int state;
  float waves;
  int reserved[4];
};
struct CublasLt {
  void *library = nullptr, *handle = nullptr, *workspace = nullptr;
  int (*create)(void **);
  int (*desc_create)(void **, int, int);
  int (*desc_set)(void *, int, const void *, size_t);
  int (*layout_create)(void **, int, unsigned long long, unsigned long long, long long);
  int (*layout_set)(void *, int, const void *, size_t);
  int (*preference_create)(void **);
  int (*preference_set)(void *, int, const void *, size_t);
  int (*heuristic)(void *, void *, void *, void *, void *, void *, void *, int, Heuristic *, int *);
  int (*matmul)(void *, void *, const void *, const void *, void *, const void *, void *, const void *, const void *, void *, void *, void *,
                const unsigned long long *, void *, size_t, void *);
  static constexpr size_t WORKSPACE = 64u << 20;

  bool open() {
    std::vector<std::string> names;
    if (const char *named = getenv("D2DMOE_LIBCUBLASLT")) names.push_back(named);
    for (const char *name : {"libcublasLt.so.13", "libcublasLt.so.12"}) names.push_back(name);
    for (const char *pattern : {"/usr/local/cuda*/lib64/libcublasLt.so.1[23]", "/opt/*/.venv/lib/python3*/site-packages/nvidia/*/lib/libcublasLt.so.1[23]",
                                "/usr/lib/python3*/site-packages/nvidia/*/lib/libcublasLt.so.1[23]", "/usr/local/lib/python3*/*-packages/nvidia/*/lib/libcublasLt.so.1[23]"}) {
      glob_t found;
      if (glob(pattern, 0, nullptr, &found) == 0)
        for (size_t i = 0; i < found.gl_pathc; i++) names.push_back(found.gl_pathv[i]);
      globfree(&found);
    }
    for (const std::string &name : names)
      if ((library = dlopen(name.c_str(), RTLD_NOW | RTLD_LOCAL))) {
        printf("cuBLASLt: %s\n", name.c_str());
        break;
      }
    if (!library) return false;
    auto get = [&](const char *name) { return dlsym(library, name); };
    create = (decltype(create))get("cublasLtCreate");
    desc_create = (decltype(desc_create))get("cublasLtMatmulDescCreate");
    desc_set = (decltype(desc_set))get("cublasLtMatmulDescSetAttribute");
    layout_create = (decltype(layout_create))get("cublasLtMatrixLayoutCreate");
    layout_set = (decltype(layout_set))get("cublasLtMatrixLayoutSetAttribute");
    preference_create = (decltype(preference_create))get("cublasLtMatmulPreferenceCreate");
    preference_set = (decltype(preference_set))get("cublasLtMatmulPreferenceSetAttribute");
    heuristic = (decltype(heuristic))get("cublasLtMatmulAlgoGetHeuristic");
    matmul = (decltype(matmul))get("cublasLtMatmul");
    CHECK(cudaMalloc(&workspace, WORKSPACE));
    return create(&handle) == 0;
  }
};
