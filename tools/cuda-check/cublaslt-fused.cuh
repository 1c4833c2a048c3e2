// Products through cuBLASLt with bias and activation in the epilogue, all of whose choices can be run.
#pragma once
#include "cublaslt.cuh"

struct FusedLt : CublasLt {
  struct Plan {
    void *desc, *left, *right, *out;
    std::vector<Heuristic> found;
    int best = 0;
  };
  // out [m, n] = a [m, k] · op(b), b [n, k] where `transposed`, with bias and where `relu` the activation.
  Plan plan(int m, int n, int k, bool transposed, int type, bool relu, const void *bias) const {
    Plan p;
    auto must = [](int status, const char *what) {
      if (status) printf("%s failed: %d\n", what, status), exit(2);
    };
    must(desc_create(&p.desc, 68, 0), "cublasLtMatmulDescCreate");
    const int first = transposed, second = 0, epilogue = relu ? 2 + 4 : 4;
    must(desc_set(p.desc, 3, &first, 4), "TRANSA"), must(desc_set(p.desc, 4, &second, 4), "TRANSB");
    must(desc_set(p.desc, 7, &epilogue, 4), "EPILOGUE"), must(desc_set(p.desc, 8, &bias, 8), "BIAS");
    must(layout_create(&p.left, type, transposed ? k : n, transposed ? n : k, transposed ? k : n), "layout");
    must(layout_create(&p.right, type, k, m, k), "layout");
    must(layout_create(&p.out, type, n, m, n), "layout");
    void *preference;
    must(preference_create(&preference), "preference");
    const size_t bytes = WORKSPACE;
    must(preference_set(preference, 1, &bytes, 8), "workspace");
    p.found.resize(8);
    int count = 0;
    must(heuristic(handle, p.desc, p.left, p.right, p.out, p.out, preference, 8, p.found.data(), &count), "heuristic");
    p.found.resize(count);
    return p;
  }
  int run(const Plan &p, int which, const void *a, const void *b, void *out, cudaStream_t stream) const {
    const float one = 1, zero = 0;
    return matmul(handle, p.desc, &one, b, p.left, a, p.right, &zero, out, p.out, out, p.out, p.found[which].algo, workspace, WORKSPACE, stream);
  }
};
