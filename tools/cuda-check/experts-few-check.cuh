// One check of a path for few rows against float64. Included behind `Few`, a way through the op, and `Variant`, how a launch
// of it is cut up.
#pragma once
#include "experts-layer.cuh"

// The router's experts by its own scores, its hidden layer rounded as the kernel does.
// `margin` is the least relative distance between the last that runs and the first that does not.
static std::vector<unsigned char> reference_route(const Shape &s, const Weights &w, const float *x, int rows, int storage, float share, double &margin) {
  margin = 1;
  const std::vector<float> xs = host(x, (size_t)rows * s.d), wh = host(w.plain_router_hidden, (size_t)s.router * s.d), wo = host(w.plain_router_output, (size_t)s.experts() * s.router);
  const int n = s.experts(), k = (int)std::max(1.0f, std::round(share * n));
  std::vector<unsigned char> mask((size_t)rows * n);
  for (int r = 0; r < rows; r++) {
    std::vector<double> h(s.router), norm(n);
    for (int j = 0; j < s.router; j++) {
      double sum = 0;
      for (int i = 0; i < s.d; i++) sum += (double)xs[(size_t)r * s.d + i] * wh[(size_t)j * s.d + i];
      const float v = (float)std::max(0.0, sum);
      h[j] = storage == BFLOAT16 ? (double)__bfloat162float(__float2bfloat16(v)) : storage == TF32 || storage == FLOAT32 ? (double)v : (double)__half2float(__float2half(v));
    }
    for (int e = 0; e < n; e++) {
      double sum = 0;
      for (int j = 0; j < s.router; j++) sum += h[j] * wo[(size_t)e * s.router + j];
      norm[e] = std::fabs(sum);
    }
    for (int e = 0; e < n; e++) {
      int place = 0;
      for (int o = 0; o < n; o++) place += norm[o] > norm[e] || (norm[o] == norm[e] && o < e);
      mask[(size_t)r * n + e] = place < k;
    }
    std::vector<double> sorted = norm;
    std::sort(sorted.rbegin(), sorted.rend());
    if (k < n) margin = std::min(margin, 1 - sorted[k] / sorted[k - 1]);
  }
  return mask;
}

static void check_one(const Shape &s, int storage, int rows, double density, Variant v, bool biases, int x_type, int out_type) {
  static unsigned seed = 1;
  static std::mt19937 random(5);
  seed += 40;
  const Weights w = make_weights(s, storage, seed, true, biases);
  float *x = device<float>((size_t)rows * s.d), *x32 = device<float>((size_t)rows * s.d);
  char *x16 = device<char>((size_t)rows * s.d * 4);
  // The reference reads what the kernel reads.
  const int rounding = x_type ? x_type : storage == BFLOAT16 ? 1 : storage == TF32 || storage == FLOAT32 ? 0 : 2;
  std::vector<unsigned char> mask = random_mask(rows, s.experts(), density, random);
  for (int turn = 0; turn < 300; turn++) {
    fill<<<64, 256>>>(x, (size_t)rows * s.d, seed + 30 + 1000 * turn, 1.7f);
    convert<<<64, 256>>>(x, x16, (size_t)rows * s.d, rounding);
    unpack<<<64, 256>>>(x16, nullptr, x32, rows, s.d, s.d, rounding == 1 ? (int)BFLOAT16 : rounding == 2 ? (int)HALF : (int)FLOAT32);
    CHECK(cudaDeviceSynchronize());
    if (!s.router) break;
    // Another rounding of the router's sums must not change the selection.
    double margin;
    mask = reference_route(s, w, x32, rows, storage, density, margin);
    if (margin > 1.5e-3) break;
  }
  unsigned char *selection = device<unsigned char>(mask.size());
  CHECK(cudaMemcpy(selection, mask.data(), mask.size(), cudaMemcpyHostToDevice));
  double *hidden = device<double>((size_t)rows * s.hidden), *expected = device<double>((size_t)rows * s.d_out);
  reference_hidden<<<((size_t)rows * s.hidden + 7) / 8, 256>>>(x32, w, s, rows, selection, hidden);
  reference_out<<<((size_t)rows * s.d_out + 255) / 256, 256>>>(hidden, w, s, rows, expected);
  std::vector<double> right((size_t)rows * s.d_out);
  CHECK(cudaMemcpy(right.data(), expected, right.size() * 8, cudaMemcpyDeviceToHost));
  Few few(s, storage, rows, x_type, out_type, v);
  const Outcome outcome = judge(right, storage, out_type, [&](char *out) {
    few.run(w, x_type ? (const void *)x16 : x, s.router ? nullptr : selection, density, out, 0);
  });
  checks++;
  if (outcome.fails()) {
    failures++;
    printf("FAILED %s %s d %d hidden %d e %d d_out %d%s act %d rows %d density %.2f router %d x %d out %d bias %d: %s %.2e, bar %.0e%s%s\n", v.name, NAMES[storage], s.d, s.hidden, s.size, s.d_out,
           s.gated ? " gated" : "", s.activation, rows, density, s.router, x_type, out_type, biases, outcome.error == cudaSuccess ? "error" : cudaGetErrorString(outcome.error), outcome.relative, outcome.bar, outcome.repeatable ? "" : ", not repeatable",
           outcome.outside ? ", wrote past the end" : "");
    if (outcome.error != cudaSuccess) exit(1);
  }
  for (void *p : {(void *)x, (void *)x32, (void *)x16, (void *)selection, (void *)hidden, (void *)expected, w.up, w.gate, w.down, (void *)w.scales, (void *)w.plain_up, (void *)w.plain_gate, (void *)w.plain_down, w.router_hidden, w.router_output})
    if (p) CHECK(cudaFree(p));
}
